-- Fills the windows of a new era from the ledger, and opens them.
--
-- KEYS  the marker, the open reservations, then per reservation: its record, and the counter of each of its levels
-- ARGV  the era, then per reservation: amount, number of levels, lifetime in ms, 1 where it is settled, else 0
-- Gives 1 where it filled them, 0 where this era or a later one counts already.
--
-- Nothing of earlier eras is read or changed: their keys end by themselves.
local era, current = ARGV[1], era_of(KEYS[1])
if current and tonumber(current) >= tonumber(era) then
  return 0
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local open, longest = KEYS[2] .. ':' .. era, 0
local key, arg = 3, 2
while key <= #KEYS do
  local name, amount, count, lifetime = KEYS[key], ARGV[arg], tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
  local record = name .. ':' .. era
  for i = 1, count do
    local counter = KEYS[key + i] .. ':' .. era
    redis.call('INCRBY', counter, amount)
    redis.call('PEXPIRE', counter, lifetime)
    redis.call('HSET', record, counter, amount)
  end
  redis.call('HSET', record, 'by:', 1)
  if ARGV[arg + 3] == '1' then
    redis.call('HSET', record, 'settled', 1)
  else
    redis.call('ZADD', open, now, name)
    longest = math.max(longest, lifetime)
  end
  redis.call('PEXPIRE', record, lifetime)
  key = key + 1 + count
  arg = arg + 4
end
if longest > 0 then
  redis.call('PEXPIRE', open, longest)
end
redis.call('SET', KEYS[1], era .. ' ' .. string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'))
return 1
