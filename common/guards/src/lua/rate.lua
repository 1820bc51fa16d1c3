-- Gives each request of a batch its turn in a GCRA schedule.
--
-- KEYS  per request: the schedule, the request
-- ARGV  horizon in us, then per request: emission interval in us, burst
-- Gives per request: {1, 0} now; {2, us} a slot taken; {3, us} ask again, nothing taken.
--
-- A schedule is its theoretical arrival time (TAT): the moment at which it is empty again. A request keeps its turn
-- under its own key, so that a call that timed out and is made again takes no second one.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local horizon = tonumber(ARGV[1])
local turns = {}

local function keep(key, value, lifetime)
  redis.call('SET', key, string.format('%.0f', value), 'PX', string.format('%.0f', math.ceil(lifetime / 1000) + 1))
end

for i = 1, #KEYS / 2 do
  local schedule, request = KEYS[2 * i - 1], KEYS[2 * i]
  local interval, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local at = tonumber(redis.call('GET', request) or '')
  -- A turn not used in time is void: the schedule went on without it.
  if not at or now > at + burst * interval then
    local tat = math.max(tonumber(redis.call('GET', schedule) or '') or now, now)
    at = math.max(now, tat - (burst - 1) * interval)
    if at - now > horizon then
      at = nil
    else
      keep(schedule, tat + interval, tat + interval - now)
      keep(request, at, at - now + burst * interval)
    end
  end
  if not at then
    turns[i] = {3, now + horizon}
  elseif at <= now then
    turns[i] = {1, 0}
  else
    turns[i] = {2, at}
  end
end
return turns
