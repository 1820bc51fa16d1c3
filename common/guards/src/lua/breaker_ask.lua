-- Asks whether requests may go to their connectors.
--
-- KEYS  per request: its connector's breaker
-- ARGV  who asks, then per request: its id, how long a trial of it may take in ms, how long others wait for that in ms
-- Gives per request: {1, 0} go; {2, 0} go, as the one that tries; {3, ms} open until then; {4, ms} another tries, ask then.
--
-- A breaker that is closed has no key. One that is open has `until`; once that has come it lets one request through, and
-- notes who tries and until when that is believed.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local said = {}

local function ask(breaker, trial, lifetime, pause)
  local state = redis.call('HMGET', breaker, 'until', 'trial', 'trial_until')
  local open_until = tonumber(state[1] or '')
  if not open_until then
    return { 1, 0 }
  end
  if now < open_until then
    return { 3, open_until }
  end
  local trial_until = tonumber(state[3] or '') or 0
  if state[2] == trial and now < trial_until then
    return { 2, 0 }
  end
  if state[2] and now < trial_until then
    return { 4, math.min(trial_until, now + pause) }
  end
  redis.call('HSET', breaker, 'trial', trial, 'trial_until', string.format('%.0f', now + lifetime))
  local left = redis.call('PTTL', breaker)
  redis.call('PEXPIRE', breaker, string.format('%.0f', math.max(left, lifetime + 60000)))
  return { 2, 0 }
end

for i, breaker in ipairs(KEYS) do
  local trial = ARGV[1] .. ' ' .. ARGV[3 * i - 1]
  said[i] = ask(breaker, trial, tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1]))
end
return said
