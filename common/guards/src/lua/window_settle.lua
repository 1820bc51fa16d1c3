-- Corrects reservations to what was used, in the windows in which they were made; or takes them back.
--
-- KEYS  the records
-- ARGV  per record: the actual amount, or -1 to release it
-- Gives how many records were corrected.
--
-- A settled record says so and is left alone: a call made again changes nothing. A released one is gone, so that its
-- id may reserve again. A counter that has expired is not brought back.
local corrected = 0
for i, record in ipairs(KEYS) do
  local actual = tonumber(ARGV[i])
  local release = actual < 0
  local fields = redis.call('HGETALL', record)
  if #fields > 0 and redis.call('HEXISTS', record, 'settled') == 0 then
    for f = 1, #fields, 2 do
      local counter, difference = fields[f], math.max(actual, 0) - tonumber(fields[f + 1])
      if redis.call('EXISTS', counter) == 1 then
        redis.call('INCRBY', counter, string.format('%.0f', difference))
      end
    end
    if release then
      redis.call('DEL', record)
    else
      redis.call('HSET', record, 'settled', 1)
    end
    corrected = corrected + 1
  end
end
return corrected
