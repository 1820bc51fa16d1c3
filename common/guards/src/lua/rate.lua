-- Gives each request of a batch its turn: one moment that every limit of it admits, taken in all of their schedules.
--
-- KEYS  per request: its turn, the lane's `later`, then per limit: the schedule, its gaps
-- ARGV  horizon in us, then per request: how many limits, then per limit: emission interval in us, burst
-- Gives per request: {1, us} now, by a turn of that moment; {2, us} a turn taken; {3, us} ask again, nothing taken.
--
-- A schedule is a grid of turns, at least an interval apart: everything from `tat` on is free, and so is what lies in a
-- gap before it. Turns may lie in the past by half of the burst, so that after a quiet time as many go at once; the other
-- half is left for the way to the connector (see rate.rs). A gap is a member `start:end` of a sorted set, scored by its end; a turn that
-- was given back is one. A request keeps its turn under its own key, so that a call that timed out and is made again
-- takes no second one.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local horizon = tonumber(ARGV[1])
local most_gaps = 1000
local turns, key, arg = {}, 1, 2

local function number(value)
  return string.format('%.0f', value)
end

local function millis(us)
  return number(math.max(math.ceil(us / 1000), 0) + 1)
end

local known = {}

-- What is free of a schedule: from `tat` on, and the gaps, earliest first. What is too old to be used is forgotten.
local function read(limit)
  local state = known[limit.schedule]
  if not state then
    local late = limit.burst * limit.interval / 2
    redis.call('ZREMRANGEBYSCORE', limit.gaps, '-inf', '(' .. number(now - late))
    local found = {}
    for _, member in ipairs(redis.call('ZRANGE', limit.gaps, 0, most_gaps - 1)) do
      local from, to = string.match(member, '^(%d+):(%d+)$')
      found[#found + 1] = { from = tonumber(from), to = tonumber(to) }
    end
    local oldest = now - math.floor(limit.burst / 2) * limit.interval
    state = { found = found, late = now - late }
    state.tat = math.max(tonumber(redis.call('GET', limit.schedule) or '') or oldest, oldest)
    known[limit.schedule] = state
  end
  limit.free = state
end

-- The earliest turn of a schedule that is not before `from`.
local function earliest(limit, from)
  for _, gap in ipairs(limit.free.found) do
    local at = math.max(gap.from, from)
    if at + limit.interval <= gap.to and at >= limit.free.late then
      return at
    end
  end
  return math.max(limit.free.tat, from)
end

local function keep_gap(limit, from, to)
  if to - from < limit.interval then
    return
  end
  local left = redis.call('PTTL', limit.gaps)
  redis.call('ZADD', limit.gaps, number(to), number(from) .. ':' .. number(to))
  local lifetime = tonumber(millis(to - now + limit.burst * limit.interval))
  redis.call('PEXPIRE', limit.gaps, number(math.max(lifetime, left)))
  local place = 1
  while limit.free.found[place] and limit.free.found[place].to < to do
    place = place + 1
  end
  table.insert(limit.free.found, place, { from = from, to = to })
end

local function take(limit, at)
  local behind = at + limit.interval
  if at >= limit.free.tat then
    -- What is skipped stays free for requests that other limits do not hold up.
    keep_gap(limit, limit.free.tat, at)
    limit.free.tat = behind
    redis.call('SET', limit.schedule, number(behind), 'PX', millis(behind - now + limit.burst * limit.interval))
    return
  end
  for place, gap in ipairs(limit.free.found) do
    if gap.from <= at and behind <= gap.to then
      table.remove(limit.free.found, place)
      redis.call('ZREM', limit.gaps, number(gap.from) .. ':' .. number(gap.to))
      keep_gap(limit, gap.from, at)
      keep_gap(limit, behind, gap.to)
      return
    end
  end
end

local function ask(request, later, limits)
  local wanted = tonumber(redis.call('GET', later) or '') or 0
  local at = tonumber(redis.call('GET', request) or '')
  -- A turn not used in time is void, and so is one before the moment that the other side asked to wait for.
  local usable = at and at >= wanted
  for _, limit in ipairs(limits) do
    usable = usable and now <= at + limit.burst * limit.interval / 2
  end
  if #limits == 0 then
    if wanted > now then
      return { 3, wanted }
    end
    return { 1, now }
  end
  if not usable then
    at = wanted
    local before, slowest
    for _, limit in ipairs(limits) do
      read(limit)
      if not slowest or limit.interval > slowest.interval then
        slowest = limit
      end
    end
    repeat
      before = at
      for _, limit in ipairs(limits) do
        at = earliest(limit, at)
      end
    until at == before
    if at - now > horizon then
      -- Come back in good time, and one after the other: all at once would run into the same wall.
      local soft = slowest.schedule .. ':soft'
      local following = (tonumber(redis.call('GET', soft) or '') or 0) + slowest.interval
      local back = math.max(at - horizon / 2, following)
      redis.call('SET', soft, number(back), 'PX', millis(back - now))
      return { 3, back }
    end
    local lifetime = 0
    for _, limit in ipairs(limits) do
      take(limit, at)
      lifetime = math.max(lifetime, at - now + limit.burst * limit.interval)
    end
    redis.call('SET', request, number(at), 'PX', millis(lifetime))
  end
  if at <= now then
    return { 1, at }
  end
  return { 2, at }
end

while key <= #KEYS do
  local request, later, count = KEYS[key], KEYS[key + 1], tonumber(ARGV[arg])
  key, arg = key + 2, arg + 1
  local limits = {}
  for i = 1, count do
    limits[i] = { schedule = KEYS[key], gaps = KEYS[key + 1], interval = tonumber(ARGV[arg]), burst = tonumber(ARGV[arg + 1]) }
    key, arg = key + 2, arg + 2
  end
  turns[#turns + 1] = ask(request, later, limits)
end
return turns
