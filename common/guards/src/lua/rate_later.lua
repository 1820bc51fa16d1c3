-- A connector asked to be left alone: its lane waits until then, never for less than was asked before.
--
-- KEYS  the lane's `later`
-- ARGV  for how long, in us
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local wait = tonumber(ARGV[1])
local known = tonumber(redis.call('GET', KEYS[1]) or '') or 0
if now + wait > known then
  redis.call('SET', KEYS[1], string.format('%.0f', now + wait), 'PX', string.format('%.0f', math.ceil(wait / 1000) + 1))
end
return 0
