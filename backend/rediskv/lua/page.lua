-- page.lua reads values and records at one moment, as many as fit. KEYS[1]: head; KEYS[2..]: value and record for each
-- key. ARGV: schema, bytes that are enough, and 1 for no values. It answers the epoch, the end of the log, and then
-- lists of value and record of each key, in order, until it is enough. A value that is not wanted is 1.
local head = redis.call('HMGET', KEYS[1], 'schema', 'epoch', 'log')
if not head[1] then return {'none'} end
if tonumber(head[1]) > tonumber(ARGV[1]) then return {'schema', head[1]} end
local reply, enough, bare = {'ok', head[2], head[3]}, tonumber(ARGV[2]), ARGV[3] == '1'
local last, i, size, step = #KEYS, 2, 0, 16
while i < last and (size < enough or i == 2) do
  local stop = math.min(i + 2 * step, last + 1)
  local part
  if bare then
    part = {}
    for j = i, stop - 1, 2 do
      part[j - i + 1] = redis.call('EXISTS', KEYS[j]) == 1 and '1'
      part[j - i + 2] = redis.call('GET', KEYS[j + 1])
    end
  else
    part = redis.call('MGET', unpack(KEYS, i, stop - 1))
  end
  for j = 1, stop - i, 2 do
    local value = part[j]
    if value then size = size + #value end
  end
  size = size + (stop - i) * 50
  reply[#reply + 1] = part
  i = stop
  -- As many as fit if they are as large as those so far.
  step = math.max(1, math.min(500, math.floor((enough - size) * (i - 2) / (2 * size))))
end
return reply
