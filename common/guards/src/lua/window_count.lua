-- Says what the present windows count, and how much of it open reservations hold.
--
-- KEYS  the marker, the open reservations, then the windows
-- ARGV  the most open reservations to look at, then per window: its period in ms
-- Gives the era, 0 where it was lost; the time in ms; and per window: {count, held}, held -1 where too many are open.
local era = era_of(KEYS[1])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local counts = {}
if not era then
  return {0, now, counts}
end
local most = tonumber(ARGV[1])
local names = redis.call('ZRANGE', KEYS[2] .. ':' .. era, 0, most)
for i = 3, #KEYS do
  local number = math.floor(now / tonumber(ARGV[i - 1]))
  local counter = KEYS[i] .. ':' .. string.format('%.0f', number) .. ':' .. era
  local held = 0
  for _, name in ipairs(names) do
    held = held + tonumber(redis.call('HGET', name .. ':' .. era, counter) or 0)
  end
  if #names > most then
    held = -1
  end
  counts[i - 2] = {tonumber(redis.call('GET', counter) or 0), held}
end
return {tonumber(era), now, counts}
