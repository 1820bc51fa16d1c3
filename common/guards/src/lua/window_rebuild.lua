-- Fills the windows from the ledger after a loss, and opens them; only while they are lost.
--
-- KEYS  the marker, then per entry: its window's counter, its reservation's record
-- ARGV  per entry: amount, lifetime in ms, 1 where it is settled, else 0
-- Gives 1 where it filled them, 0 where somebody else had.
--
-- Counters are set, not added to: what a loss left over is not counted twice.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local sums = {}
for i = 1, (#KEYS - 1) / 2 do
  local counter, record = KEYS[2 * i], KEYS[2 * i + 1]
  local amount, lifetime, settled = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  sums[counter] = (sums[counter] or 0) + tonumber(amount)
  redis.call('SET', counter, string.format('%.0f', sums[counter]), 'PX', lifetime)
  redis.call('HSET', record, counter, amount)
  if settled == '1' then
    redis.call('HSET', record, 'settled', 1)
  end
  redis.call('PEXPIRE', record, lifetime)
end
redis.call('SET', KEYS[1], 1)
return 1
