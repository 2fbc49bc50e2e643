-- tail.lua reads the log. KEYS: head, log. ARGV: schema, epoch, the id to start after, a prefix (with its slash) or a
-- key, 1 for a key, bytes that are enough, and 1 for previous values. It answers how far it came, the end of the log,
-- and id, key, value, meta and previous value of each entry that matches; or lost, if an entry between is gone: each
-- names the one before it.
local head = redis.call('HMGET', KEYS[1], 'schema', 'epoch', 'log')
if not head[1] then return {'none'} end
if tonumber(head[1]) > tonumber(ARGV[1]) then return {'schema', head[1]} end
if head[2] ~= ARGV[2] then return {'lost'} end
local at, what, single, enough, previous = ARGV[3], ARGV[4], ARGV[5] == '1', tonumber(ARGV[6]), ARGV[7] == '1'
local reply, size, scanned, step = {'ok', at, head[3]}, 0, 0, 16
while at ~= head[3] and size < enough and scanned < 1000 do
  local batch = redis.call('XRANGE', KEYS[2], '(' .. at, '+', 'COUNT', step)
  if #batch == 0 then return {'lost'} end
  local loaded = 0
  for i = 1, #batch do
    local id, fields = batch[i][1], batch[i][2]
    local key, value, meta, old = fields[2], fields[4], fields[6], fields[8]
    local chain, before = string.match(meta, '^%S+ (%S+) (%S+)')
    if chain ~= at then return {'lost'} end
    at = id
    loaded = loaded + #value
    if size < enough and (single and key == what or not single and string.sub(key, 1, #what) == what) then
      if not old and previous and before ~= '0' then
        local entry = redis.call('XRANGE', KEYS[2], before, before)[1]
        old = entry and entry[2][4]
      end
      local n = #reply
      reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] = id, key, value, meta, previous and old or false
      size = size + #key + #value + 100 + (previous and old and #old or 0)
    end
    reply[2] = at
    if size >= enough then break end
  end
  scanned = scanned + #batch
  step = math.max(1, math.min(256, math.floor((enough - size) / (loaded / #batch + 100))))
end
return reply
