-- Tells a breaker what came of a request.
--
-- KEYS  the breaker, its failures
-- ARGV  who asked, the request's id, 1 ill, 0 well, -1 not sent after all,
--       how many failures open it, in how many ms, for how many ms
-- Gives 0 where it stays as it is, 1 where it opened (again), 2 where it closed.
--
-- Failures are a sorted set by their time: the same request counts once. While the breaker is open only the request that
-- tries can move it; whatever else comes in was sent before.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local breaker, failures = KEYS[1], KEYS[2]
local trial, ill = ARGV[1] .. ' ' .. ARGV[2], tonumber(ARGV[3])
local threshold, window, pause = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local function open()
  redis.call('DEL', breaker, failures)
  redis.call('HSET', breaker, 'until', string.format('%.0f', now + pause))
  -- One that nobody asks any more is forgotten.
  redis.call('PEXPIRE', breaker, string.format('%.0f', pause + math.max(3600000, 10 * pause)))
  return 1
end

if redis.call('EXISTS', breaker) == 1 then
  if redis.call('HGET', breaker, 'trial') ~= trial then
    return 0
  end
  if ill == 1 then
    return open()
  elseif ill == 0 then
    redis.call('DEL', breaker, failures)
    return 2
  end
  redis.call('HDEL', breaker, 'trial', 'trial_until')
  return 0
end
if ill ~= 1 then
  return 0
end
redis.call('ZADD', failures, now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', failures, '-inf', now - window)
redis.call('PEXPIRE', failures, string.format('%.0f', window + 1000))
if redis.call('ZCARD', failures) >= threshold then
  return open()
end
return 0
