-- head.lua begins every script that writes. It reads the head of the namespace, a hash:
--
--   schema   of the bookkeeping
--   epoch    when the bookkeeping was made: another one means that everything was lost in between
--   log      the id of the last log entry, and with it the last revision given out
--   bytes    what was ever appended to the log
--   base     the revision of the oldest entry that is still in the log
--   trimmed  what bytes was when the log was last trimmed
--   token    the last fencing token given out
--
-- Numbers are microseconds or counts below 2^53, which a Lua number holds exactly; int prints them without an exponent.
local HEAD, LOG, NAMES, EXPIRIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local SCHEMA, CHANNEL, PUBLISH = ARGV[1], ARGV[2], ARGV[3]
local call = redis.call

local function int(n) return string.format('%.0f', n) end

local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2] -- µs
local nowms = math.ceil(now / 1000) -- rounded up, so that no TTL ends early

local head = call('HMGET', HEAD, 'schema', 'log', 'bytes', 'base', 'trimmed')
if not head[1] then
  -- A new namespace, or one that a restart without persistence has taken. Positions of old watches do not fit the new
  -- log, and revisions start at the present time, above all that were given out before.
  head = {SCHEMA, int(now) .. '-0', '0', int(now), '0'}
  call('DEL', LOG)
  call('HSET', HEAD, 'schema', head[1], 'epoch', int(now), 'log', head[2], 'bytes', head[3], 'base', head[4],
    'trimmed', head[5])
elseif head[1] ~= SCHEMA and tonumber(head[1]) > tonumber(SCHEMA) then
  return {'schema', head[1]}
end

-- A message is a hint that may get lost, and a user without the right to publish still writes.
local function publish(message) redis.pcall(PUBLISH, CHANNEL, message) end
