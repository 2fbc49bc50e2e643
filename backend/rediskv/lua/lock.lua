-- lock.lua is what one contender of a lock does. KEYS[5..7]: the queue (contenders by token), the contenders (a hash of
-- records), the deadlines (contenders by the end of their lease, ms). ARGV[7..]: the epoch that the client knows, what
-- the wake channels begin with, the channel of holders, the lock's name, the contender's id, what to do, and for
--
--   contend  shared (1 or 0), slots, lease (ms), the wake channel of its process, value, and 1 to try only
--   renew, look, release
--   set      value
--
-- It answers ok, the token, 1 if it holds, and in how many ms to look again at the latest; or locked, or lost.
--
-- A record: token, deadline, held, shared, slots, lease, channel, and after a line feed the value. The hash also has the
-- most slots that any contender asked for, under "slots".
local QUEUE, CONTENDERS, DEADLINES = KEYS[5], KEYS[6], KEYS[7]
local KNOWN, WAKES, HOLDERS, NAME, ID, ACTION = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]

local function get(id)
  local r = call('HGET', CONTENDERS, id)
  if not r then return nil end
  local token, deadline, held, shared, slots, lease, channel, value =
    string.match(r, '^(%d+) (%d+) (%d) (%d) (%d+) (%d+) (%S*)\n(.*)$')
  return {
    token = token, deadline = deadline, held = held == '1', shared = shared == '1', slots = tonumber(slots),
    lease = tonumber(lease), channel = channel, value = value,
  }
end

local function save(id, c)
  call('HSET', CONTENDERS, id, c.token .. ' ' .. c.deadline .. ' ' .. (c.held and '1' or '0') .. ' ' ..
    (c.shared and '1' or '0') .. ' ' .. c.slots .. ' ' .. int(c.lease) .. ' ' .. c.channel .. '\n' .. c.value)
end

local function remove(id)
  call('ZREM', QUEUE, id)
  call('ZREM', DEADLINES, id)
  call('HDEL', CONTENDERS, id)
  if call('ZCARD', QUEUE) == 0 then call('DEL', CONTENDERS) end
end

local function tell(c, word, id) redis.pcall(PUBLISH, WAKES .. c.channel, word .. ' ' .. id) end

-- holder is who observers see: the first of the queue, if it holds.
local function holder()
  local id = call('ZRANGE', QUEUE, 0, 0)[1]
  local c = id and get(id)
  return c and c.held and c.token .. ' ' .. c.value or ''
end
local seen = holder()

-- Clients that knew another epoch prove that the server has lost what it had: who held before may still think so, until
-- its lease has run out.
local epoch, lost, lastToken = unpack(call('HMGET', HEAD, 'epoch', 'lost', 'token'))
if KNOWN ~= '' and KNOWN ~= epoch then
  lost = '1'
  call('HSET', HEAD, 'lost', lost)
end
local function grace(lease)
  return lost == '1' and math.max(0, math.ceil(tonumber(epoch) / 1000) + lease - nowms) or 0
end

-- admit lets everybody hold who may: the rule of backend.Admitted.
local function admit()
  local slots = tonumber(call('HGET', CONTENDERS, 'slots') or '1')
  local i, shares, slotted = 0, false, false
  while true do
    local ids = call('ZRANGE', QUEUE, i, i + 31)
    if #ids == 0 then return end
    for _, id in ipairs(ids) do
      if slotted and i >= slots then return end
      local c = get(id)
      local may = i == 0
      if c.shared then may = not slotted elseif c.slots > 1 then may = not shares and i < c.slots end
      if may and not c.held then
        if grace(c.lease) > 0 then return end
        c.held = true
        save(id, c)
        if id ~= ID then tell(c, 'held', id) end
      end
      if c.shared then shares = true elseif c.slots > 1 then slotted = true else return end
      if shares and slotted then return end
      i = i + 1
    end
  end
end

for _, id in ipairs(call('ZRANGE', DEADLINES, '-inf', int(nowms - 1), 'BYSCORE')) do
  local c = get(id)
  remove(id)
  if c then tell(c, 'lost', id) end
end

local function finish(reply)
  admit()
  if holder() ~= seen then redis.pcall(PUBLISH, HOLDERS, NAME) end
  return reply
end

local c
if ACTION == 'contend' then
  local token = math.max(tonumber(lastToken or '0') + 1, now)
  call('HSET', HEAD, 'token', int(token))
  local slots = tonumber(ARGV[14])
  c = {
    token = int(token), held = false, shared = ARGV[13] == '1', slots = slots, lease = tonumber(ARGV[15]),
    channel = ARGV[16], value = ARGV[17],
  }
  c.deadline = int(nowms + c.lease)
  if slots > tonumber(call('HGET', CONTENDERS, 'slots') or '1') then call('HSET', CONTENDERS, 'slots', slots) end
  save(ID, c)
  call('ZADD', QUEUE, c.token, ID)
  call('ZADD', DEADLINES, c.deadline, ID)
  admit()
  if ARGV[18] == '1' and not get(ID).held then
    remove(ID)
    return finish({'locked'})
  end
else
  c = get(ID)
  if not c then return finish({'lost'}) end
  if ACTION == 'release' then
    remove(ID)
    return finish({'ok', c.token, 0, 0})
  elseif ACTION == 'renew' then
    c.deadline = int(nowms + c.lease)
    save(ID, c)
    call('ZADD', DEADLINES, c.deadline, ID)
  elseif ACTION == 'set' then
    c.value = ARGV[13]
    save(ID, c)
  end
end
finish()
c = get(ID)

-- What a crash of every client leaves behind goes by itself.
local keep = 2 * c.lease + 60000
if call('PTTL', DEADLINES) < keep then
  for _, key in ipairs({QUEUE, CONTENDERS, DEADLINES}) do call('PEXPIRE', key, keep) end
end

local again = 0
if not c.held then
  local ahead
  if not c.shared and c.slots <= 1 then
    local rank = call('ZRANK', QUEUE, ID)
    ahead = rank > 0 and call('ZSCORE', DEADLINES, call('ZRANGE', QUEUE, rank - 1, rank - 1)[1])
  else
    ahead = call('ZRANGE', DEADLINES, 0, 0, 'WITHSCORES')[2]
  end
  again = math.max(1, math.max(ahead and tonumber(ahead) - nowms + 1 or 0, grace(c.lease)))
end
return {'ok', c.token, c.held and 1 or 0, again}
