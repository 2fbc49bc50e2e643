-- settle.lua brings the records of keys up to date with what they hold. KEYS[5..]: value and record of each key in
-- ARGV[8..]. It answers how many differed and, if ARGV[7] is "answer", value and record of each.
--
-- If ARGV[7] is "due", the keys are those whose expiry has passed. What has no record any more cannot say when it expires,
-- or was put again by somebody who did not know that it would: it leaves the list of expiries, and the index if it has no
-- value either, and counts as one that differed.
for i = 1, #ARGV - 7 do
  local key = ARGV[7 + i]
  local before, rec = adopted, settle(key, KEYS[3 + 2 * i], KEYS[4 + 2 * i], true)
  if ARGV[7] == 'due' and (not rec and adopted == before or rec and rec.expires == '0') then
    adopted = adopted + call('ZREM', EXPIRIES, key)
    if not rec then call('ZREM', NAMES, key) end
  end
end
commit()
local reply = {'ok', adopted}
if ARGV[7] == 'answer' then
  for i = 5, #KEYS, 2 do
    local pair = call('MGET', KEYS[i], KEYS[i + 1])
    reply[#reply + 1], reply[#reply + 2] = pair[1], pair[2]
  end
end
return reply
