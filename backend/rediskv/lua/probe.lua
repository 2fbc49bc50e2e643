-- probe.lua changes a key of the bookkeeping, KEYS[5], and then publishes: whoever gets the message, and before it none
-- for the change, knows that the server sends no keyspace notifications.
call('SET', KEYS[5], '1', 'PX', 1000)
call('DEL', KEYS[5])
publish(ARGV[7])
return {'ok'}
