-- open.lua makes the bookkeeping if there is none. ARGV[7]: the epoch that the client knows, or empty; if it is another
-- one, the server has lost what it had, which locks have to know. It answers the epoch, the end of the log, whether the
-- keys that were there before the bookkeeping have been looked for, and the server's version (from 7.0 on).
local epoch, adopted = unpack(call('HMGET', HEAD, 'epoch', 'adopted'))
if ARGV[7] ~= '' and ARGV[7] ~= epoch then call('HSET', HEAD, 'lost', '1') end
return {'ok', epoch, head[2], adopted or '0', tostring(redis.REDIS_VERSION or '')}
