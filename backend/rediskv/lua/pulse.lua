-- pulse.lua looks whether there is anything to do. KEYS: head, expiries. ARGV: schema. It answers the epoch, the end of
-- the log, in how many ms the next key expires (-1: none will), and up to 128 keys that have.
local head = redis.call('HMGET', KEYS[1], 'schema', 'epoch', 'log')
if not head[1] then return {'none'} end
if tonumber(head[1]) > tonumber(ARGV[1]) then return {'schema', head[1]} end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local reply = {'ok', head[2], head[3], -1}
for _, key in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', '(' .. string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, 128)) do
  reply[#reply + 1] = key
end
local nxt = redis.call('ZRANGE', KEYS[2], string.format('%.0f', now), '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
if nxt[2] then reply[4] = math.max(tonumber(nxt[2]) - now, 0) end
return reply
