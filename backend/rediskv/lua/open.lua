-- open.lua makes the bookkeeping if there is none. It answers the epoch, the end of the log, whether the keys that were
-- there before the bookkeeping have been looked for, and the server's version (from 7.0 on).
return {'ok', head[2], head[4], call('HGET', HEAD, 'adopted') or '0', tostring(redis.REDIS_VERSION or '')}
