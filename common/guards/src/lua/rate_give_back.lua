-- Gives turns back that were taken and not used: each is free for whoever asks next.
--
-- KEYS  per request: its turn, then per limit: the schedule, its gaps
-- ARGV  per request: how many limits, then per limit: emission interval in us, burst
-- Gives how many turns were given back. A request that has none, or gave it back before, changes nothing.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local key, arg, given = 1, 1, 0

local function number(value)
  return string.format('%.0f', value)
end

while key <= #KEYS do
  local request, count = KEYS[key], tonumber(ARGV[arg])
  key, arg = key + 1, arg + 1
  local at = tonumber(redis.call('GET', request) or '')
  if at then
    redis.call('DEL', request)
    given = given + 1
  end
  for _ = 1, count do
    local gaps, interval, burst = KEYS[key + 1], tonumber(ARGV[arg]), tonumber(ARGV[arg + 1])
    local behind = at and at + interval
    if at and behind + burst * interval > now then
      local lifetime = math.ceil(math.max(behind + burst * interval - now, 0) / 1000) + 1
      local left = redis.call('PTTL', gaps)
      redis.call('ZADD', gaps, number(behind), number(at) .. ':' .. number(behind))
      redis.call('PEXPIRE', gaps, number(math.max(lifetime, left)))
    end
    key, arg = key + 2, arg + 2
  end
end
return given
