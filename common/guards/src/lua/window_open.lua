-- Names open reservations that were made, or named here, longest ago; they come again when they are as old once more.
--
-- KEYS  the marker, the open reservations
-- ARGV  how old they are at least in ms, how many at most
-- Gives their records.
local era = era_of(KEYS[1])
if not era then
  return {}
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local open = KEYS[2] .. ':' .. era
local found = redis.call('ZRANGEBYSCORE', open, '-inf', now - tonumber(ARGV[1]), 'LIMIT', 0, ARGV[2])
for _, name in ipairs(found) do
  if redis.call('EXISTS', name .. ':' .. era) == 1 then
    redis.call('ZADD', open, 'XX', now, name)
  else
    -- Its windows have turned.
    redis.call('ZREM', open, name)
  end
end
return found
