-- Reserves amounts in token windows: each at every level, or at none.
--
-- KEYS  the marker, then per reservation: its record, and a window for each of its levels
-- ARGV  per reservation: amount, number of levels, then per level: period in ms, limit
-- Gives per reservation: {1, 0} reserved; {2, ms} full until then; {3, 0} lost.
--
-- The counter of a window carries the window's number in its key: a turn of the window is another key, and nothing is
-- reset. A record is a hash from counters to amounts; a reservation that has one is made already.
local lost = redis.call('EXISTS', KEYS[1]) == 0
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local answers, key, arg = {}, 2, 1

local function reserve(record, amount, levels)
  local counters, turn, lifetime = {}, 0, 0
  for i, level in ipairs(levels) do
    local number = math.floor(now / level.period)
    counters[i] = level.window .. ':' .. string.format('%.0f', number)
    lifetime = math.max(lifetime, 2 * level.period)
    if tonumber(redis.call('GET', counters[i]) or 0) + amount > level.limit then
      turn = math.max(turn, (number + 1) * level.period)
    end
  end
  if turn > 0 then
    return {2, turn}
  end
  local text = string.format('%.0f', amount)
  for i, level in ipairs(levels) do
    redis.call('INCRBY', counters[i], text)
    redis.call('PEXPIRE', counters[i], 2 * level.period)
    redis.call('HSET', record, counters[i], text)
  end
  if #levels > 0 then
    redis.call('PEXPIRE', record, lifetime)
  end
  return {1, 0}
end

while key <= #KEYS do
  local record, amount, count = KEYS[key], tonumber(ARGV[arg]), tonumber(ARGV[arg + 1])
  local levels = {}
  for i = 1, count do
    levels[i] = {
      window = KEYS[key + i],
      period = tonumber(ARGV[arg + 2 * i]),
      limit = tonumber(ARGV[arg + 2 * i + 1]),
    }
  end
  if lost then
    answers[#answers + 1] = {3, 0}
  elseif redis.call('EXISTS', record) == 1 then
    answers[#answers + 1] = {1, 0}
  else
    answers[#answers + 1] = reserve(record, amount, levels)
  end
  key = key + 1 + count
  arg = arg + 2 + 2 * count
end
return answers
