-- log.lua follows head.lua in the scripts that change keys: the record beside each value, and the log.
--
-- A record is a string: the log id of the last write (its revision and place in the transaction), the revision that
-- created the key, the expiry in ms (0: none), the value's length, the start of its SHA-1, and a lease if the key has
-- one. A log entry has the fields k (key), v (value), m (meta) and, if the previous entry of that key has left the log,
-- o (its value). Its meta: kind (c, u, d), id of the previous entry of the log, id of the key's previous entry or 0,
-- created, expires, previous expires, and the head's bytes after it.
local last, bytes, base = head[2], tonumber(head[3]), tonumber(head[4])
local before, revision, seq, written, soonest, touched = last, nil, 0, {}, nil, {}

-- bump begins a new revision: later than every other, also after a restart that lost them, unless the server's clock
-- was set back.
local function bump()
  revision = int(math.max(tonumber(string.match(last, '^%d+')) + 1, now))
  seq = 0
end

local function parse(side)
  local id, rev, created, expires, length, digest, lease =
    string.match(side, '^((%d+)%-%d+) (%d+) (%d+) (%d+) (%x+) ?(.*)$')
  return {id = id, rev = rev, created = created, expires = expires, length = length, digest = digest, lease = lease}
end

-- shown is the expiry that users see: none for a key that is kept alive.
local function shown(rec) return rec.lease ~= '' and '0' or rec.expires end

local function append(kind, key, value, rec, cur)
  local id = revision .. '-' .. seq
  seq = seq + 1
  local old = cur and cur.value and tonumber(cur.rev) < base and cur.value
  bytes = bytes + #key + #value + (old and #old or 0) + 100
  local meta = kind .. ' ' .. last .. ' ' .. (cur and cur.id or '0') .. ' ' .. (rec or cur).created .. ' ' ..
    (rec and shown(rec) or '0') .. ' ' .. (cur and shown(cur) or '0') .. ' ' .. int(bytes)
  if old then
    call('XADD', LOG, id, 'k', key, 'v', value, 'm', meta, 'o', old)
  else
    call('XADD', LOG, id, 'k', key, 'v', value, 'm', meta)
  end
  last = id
  written[#written + 1] = key
end

-- record writes what belongs to a value except the value: expires is a string, of ms.
local function record(key, value, digest, expires, lease, cur)
  local rec = {
    id = revision .. '-' .. seq, rev = revision, created = cur and cur.created or revision, expires = expires, lease = lease,
  }
  local side = rec.id .. ' ' .. rec.created .. ' ' .. expires .. ' ' .. #value .. ' ' .. digest
  if lease ~= '' then side = side .. ' ' .. lease end
  if expires ~= '0' then
    call('ZADD', EXPIRIES, expires, key)
    if not soonest or tonumber(expires) < soonest then soonest = tonumber(expires) end
  elseif cur and cur.expires ~= '0' then
    call('ZREM', EXPIRIES, key)
  end
  if not cur then call('ZADD', NAMES, 0, key) end
  return rec, side
end

local function forget(key, cur)
  call('ZREM', NAMES, key)
  if cur.expires ~= '0' then call('ZREM', EXPIRIES, key) end
  append('d', key, '', nil, cur)
end

-- settle returns the record of a key, its value in it, or nil if there is none, after it has brought the record up to
-- date with what the key really holds: expiry, and other programs, change keys without telling. A change that is found
-- becomes a revision and an event of its own. What a write overwrites anyway is compared only if strict is set.
local adopted = 0
local function settle(key, vkey, skey, strict)
  local pair = call('MGET', vkey, skey)
  local value, cur = pair[1], pair[2] and parse(pair[2])
  if not value and not cur then return nil end
  if value and cur then
    cur.value = value
    if not strict then return cur end
  end
  local expires, digest = '0', nil
  if value then
    expires = int(math.max(call('PEXPIRETIME', vkey), 0))
    digest = string.sub(redis.sha1hex(value), 1, 16)
    if cur and cur.digest == digest and tonumber(cur.length) == #value and cur.expires == expires then return cur end
  end
  adopted = adopted + 1
  bump()
  if not value then
    call('DEL', skey)
    forget(key, cur)
    return nil
  end
  if cur then cur.value = nil end -- it has been overwritten
  local rec, side = record(key, value, digest, expires, '', cur)
  call('SET', skey, side)
  append(cur and 'u' or 'c', key, value, rec, cur)
  rec.value = value
  return rec
end

-- trim keeps the log within its limits. Where it ends is remembered, because a write whose predecessor is gone carries
-- the old value along.
local function trim(entries, age, limit)
  call('XTRIM', LOG, 'MINID', int(math.max(now - age, 0)))
  call('XTRIM', LOG, 'MAXLEN', entries)
  for _ = 1, 20 do
    local first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
    local length = call('XLEN', LOG)
    base = tonumber(string.match(first[1], '^%d+'))
    local kept = bytes - tonumber(string.match(first[2][6], '(%d+)$'))
    if kept <= limit or length <= 1 then break end
    call('XTRIM', LOG, 'MAXLEN', math.max(math.floor(length * limit / kept), 1))
  end
end

-- commit ends a script that may have changed something: it saves the head and tells whoever listens. The message: the
-- log id before, the log id after (the same if only a TTL was renewed), when the first of the new expiries is due (in ms,
-- or -), and the keys.
local function commit()
  if #written > 0 then
    local limit = tonumber(ARGV[6])
    if bytes - tonumber(head[5]) > math.min(limit / 8, 16384) then
      trim(tonumber(ARGV[4]), tonumber(ARGV[5]), limit)
      call('HSET', HEAD, 'log', last, 'bytes', int(bytes), 'base', int(base), 'trimmed', int(bytes))
    else
      call('HSET', HEAD, 'log', last, 'bytes', int(bytes))
    end
  end
  if #written > 0 or #touched > 0 then
    local changed, keys = #written > 0 and written or touched, ''
    if #changed == 1 then keys = changed[1] elseif #changed <= 64 then keys = table.concat(changed, '\0') end
    publish(before .. ' ' .. last .. ' ' .. (soonest and int(soonest - nowms) or '-') .. ' ' .. keys)
  end
end
