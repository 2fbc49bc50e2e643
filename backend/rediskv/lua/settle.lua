-- settle.lua brings the records of keys up to date with what they hold. KEYS[5..]: value and record of each key in
-- ARGV[8..]. It answers how many differed and, if ARGV[7] is 1, value and record of each.
for i = 1, #ARGV - 7 do
  settle(ARGV[7 + i], KEYS[3 + 2 * i], KEYS[4 + 2 * i], true)
end
commit()
local reply = {'ok', adopted}
if ARGV[7] == '1' then
  for i = 5, #KEYS, 2 do
    local pair = call('MGET', KEYS[i], KEYS[i + 1])
    reply[#reply + 1], reply[#reply + 2] = pair[1], pair[2]
  end
end
return reply
