-- holder.lua reads who holds a lock. KEYS: head, queue, contenders. ARGV: schema. It answers nobody, or the token, the
-- value and in how many ms the lease ends.
local schema = redis.call('HGET', KEYS[1], 'schema')
if schema and tonumber(schema) > tonumber(ARGV[1]) then return {'schema', schema} end
local id = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
local record = id and redis.call('HGET', KEYS[3], id)
if not record then return {'nobody'} end
local token, deadline, held, value = string.match(record, '^(%d+) (%d+) (%d)[^\n]*\n(.*)$')
local clock = redis.call('TIME')
local left = tonumber(deadline) - (clock[1] * 1000 + math.floor(clock[2] / 1000))
if held ~= '1' or left <= 0 then return {'nobody'} end
return {'ok', token, value, left}
