-- write.lua checks and applies operations, all or none. KEYS[5..]: the value's and the record's name for each operation
-- (twice the hash of contenders, for a check of a lock). ARGV[7..], eight for each operation:
--
--   key        the key, or the contender's id
--   condition  - always, a absent, p present, r at revision, l of lease, h lock held
--   of         the revision or the lease of the condition
--   action     - none, p put, d delete, t renew the TTL
--   value      to put
--   digest     of the value
--   ttl        in ms, 0 for none, k to keep the one there is
--   lease      to put, or empty
local WIDTH, FIRST = 8, 6
local count = (#ARGV - FIRST) / WIDTH
local current = {}

local function fails(i)
  local a = FIRST + (i - 1) * WIDTH
  local key, condition, of, action = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  local vkey, skey = KEYS[3 + 2 * i], KEYS[4 + 2 * i]
  if condition == 'h' then
    local contender = call('HGET', vkey, key)
    local deadline, held = string.match(contender or '', '^%d+ (%d+) (%d)')
    return not (held == '1' and tonumber(deadline) > now / 1000) and 'failed'
  end
  local cur = settle(key, vkey, skey, condition == 'r' or condition == 'l' or ARGV[a + 7] == 'k')
  current[i] = cur
  if condition == 'a' and cur or condition == 'p' and not cur or condition == 'r' and
    not (cur and cur.rev == of) or condition == 'l' and not (cur and cur.lease == of) then
    return 'failed'
  end
  if not cur and action == 'p' and call('TYPE', vkey).ok ~= 'none' then return 'type' end
end

for i = 1, count do
  local failure = fails(i)
  if failure then
    commit()
    return {failure, i}
  end
end

local reply, begun = {'ok', '0'}, false
for i = 1, count do
  local a = FIRST + (i - 1) * WIDTH
  local key, action, value, digest, ttl, lease = ARGV[a + 1], ARGV[a + 4], ARGV[a + 5], ARGV[a + 6], ARGV[a + 7], ARGV[a + 8]
  local vkey, skey, cur = KEYS[3 + 2 * i], KEYS[4 + 2 * i], current[i]
  local created, expires = '0', '0'
  if (action == 'p' or action == 'd' and cur) and not begun then
    begun = true
    bump()
    reply[2] = revision
  end
  if action == 'p' then
    local ends = '0'
    if ttl == 'k' then
      if cur.lease == '' then ends = cur.expires end -- a lease's is none: its owner has lost the key
    elseif ttl ~= '0' then
      ends = int(nowms + ttl)
    end
    local rec, side = record(key, value, digest, ends, lease, cur)
    if ends == '0' then
      call('MSET', vkey, value, skey, side)
    else
      call('SET', vkey, value, 'PXAT', ends)
      call('SET', skey, side)
    end
    append(cur and 'u' or 'c', key, value, rec, cur)
    created, expires = rec.created, shown(rec)
  elseif action == 'd' and cur then
    call('DEL', vkey, skey)
    forget(key, cur)
  elseif action == 't' then
    local ends = int(nowms + ttl)
    local side = cur.id .. ' ' .. cur.created .. ' ' .. ends .. ' ' .. cur.length .. ' ' .. cur.digest .. ' ' .. cur.lease
    call('PEXPIREAT', vkey, ends)
    call('SET', skey, side)
    call('ZADD', EXPIRIES, ends, key)
    soonest, touched[#touched + 1] = nowms + ttl, key
  end
  reply[#reply + 1] = created
  reply[#reply + 1] = expires
  reply[#reply + 1] = cur and '1' or '0'
end
commit()
return reply
