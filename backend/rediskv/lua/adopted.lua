-- adopted.lua notes that the keys that were there before the bookkeeping have been looked for.
call('HSET', HEAD, 'adopted', '1')
return {'ok'}
