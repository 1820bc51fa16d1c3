-- Corrects reservations to what was used, in the windows in which they were made; or takes them back.
--
-- KEYS  the marker, the open reservations, then the records
-- ARGV  who releases (empty: whoever made them), then per record: the actual amount, or -1 to release it
-- Gives how many records were corrected.
--
-- A settled record says so and is left alone: a call made again changes nothing. A released one is gone, so that its
-- id may reserve again; it stays while somebody else made the same reservation and has not released it. A counter that
-- has expired is not brought back. What belongs to an era that is over is not found.
local era = era_of(KEYS[1])
local corrected = 0
if not era then
  return 0
end

-- The counters of a record, and whether somebody holds it.
local function read(record)
  local fields = redis.call('HGETALL', record)
  local counters, held = {}, false
  for f = 1, #fields, 2 do
    if string.sub(fields[f], 1, 3) == 'by:' then
      held = true
    elseif fields[f] ~= 'settled' then
      counters[fields[f]] = tonumber(fields[f + 1])
    end
  end
  return counters, held
end

for i = 3, #KEYS do
  local record, actual = KEYS[i] .. ':' .. era, tonumber(ARGV[i - 1])
  local release = actual < 0
  if redis.call('EXISTS', record) == 1 and redis.call('HEXISTS', record, 'settled') == 0 then
    if release and ARGV[1] ~= '' then
      redis.call('HDEL', record, 'by:' .. ARGV[1])
    end
    local counters, held = read(record)
    if not (release and held and ARGV[1] ~= '') then
      for counter, amount in pairs(counters) do
        if redis.call('EXISTS', counter) == 1 then
          redis.call('INCRBY', counter, string.format('%.0f', math.max(actual, 0) - amount))
        end
      end
      if release then
        redis.call('DEL', record)
      else
        redis.call('HSET', record, 'settled', 1)
      end
      redis.call('ZREM', KEYS[2] .. ':' .. era, KEYS[i])
      corrected = corrected + 1
    end
  end
end
return corrected
