-- Keeps values that are newer than what is there.
--
-- KEYS  the values
-- ARGV  per value: its version, its lifetime in ms, its text
-- Gives how many were kept.
--
-- Versions are compared as numbers, up to 2^53. One that was kept is not kept again.
local kept = 0
for i, key in ipairs(KEYS) do
  local version, lifetime, text = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  local current = tonumber(redis.call('HGET', key, 'version') or '')
  if not current or tonumber(version) > current then
    redis.call('HSET', key, 'version', version, 'text', text)
    redis.call('PEXPIRE', key, lifetime)
    kept = kept + 1
  end
end
return kept
