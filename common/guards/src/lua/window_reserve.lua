-- Reserves amounts in token windows: each at every level, or at none.
--
-- KEYS  the marker, the open reservations, then per reservation: its record, and a window for each of its levels
-- ARGV  who reserves, then per reservation: amount, number of levels, then per level: period in ms, limit
-- Gives the era, 0 where it was lost; and per reservation: {1, 0} reserved; {2, ms} full until then; {3, 0} lost.
--
-- The counter of a window carries the window's number and the era in its key: a turn of the window, and a new filling,
-- are other keys, and nothing is reset. A record is a hash from counters to amounts, and names everybody who made the
-- reservation: one that has a record is made already. The open reservations are in order of when they were made.
local era = era_of(KEYS[1])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local by = 'by:' .. ARGV[1]
local answers, key, arg = {}, 3, 2

local function reserve(name, amount, levels)
  local counters, turn, lifetime = {}, 0, 0
  for i, level in ipairs(levels) do
    local number = math.floor(now / level.period)
    counters[i] = level.window .. ':' .. string.format('%.0f', number) .. ':' .. era
    lifetime = math.max(lifetime, 2 * level.period)
    if tonumber(redis.call('GET', counters[i]) or 0) + amount > level.limit then
      turn = math.max(turn, (number + 1) * level.period)
    end
  end
  if turn > 0 then
    return {2, turn}
  end
  local record, open = name .. ':' .. era, KEYS[2] .. ':' .. era
  local text = string.format('%.0f', amount)
  for i, level in ipairs(levels) do
    redis.call('INCRBY', counters[i], text)
    redis.call('PEXPIRE', counters[i], 2 * level.period)
    redis.call('HSET', record, counters[i], text)
  end
  if #levels > 0 then
    redis.call('HSET', record, by, 1)
    redis.call('PEXPIRE', record, lifetime)
    redis.call('ZADD', open, now, name)
    if redis.call('PTTL', open) < lifetime then
      redis.call('PEXPIRE', open, lifetime)
    end
  end
  return {1, 0}
end

while key <= #KEYS do
  local name, amount, count = KEYS[key], tonumber(ARGV[arg]), tonumber(ARGV[arg + 1])
  local levels = {}
  for i = 1, count do
    levels[i] = {
      window = KEYS[key + i],
      period = tonumber(ARGV[arg + 2 * i]),
      limit = tonumber(ARGV[arg + 2 * i + 1]),
    }
  end
  if not era then
    answers[#answers + 1] = {3, 0}
  elseif redis.call('EXISTS', name .. ':' .. era) == 1 then
    redis.call('HSET', name .. ':' .. era, by, 1)
    answers[#answers + 1] = {1, 0}
  else
    answers[#answers + 1] = reserve(name, amount, levels)
  end
  key = key + 1 + count
  arg = arg + 2 + 2 * count
end
return {tonumber(era or 0), answers}
