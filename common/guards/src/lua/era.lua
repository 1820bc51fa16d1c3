-- The era of the filling that counts, or nil where there is none: lost, or written by another server than this one.
--
-- The marker holds the era and the id of the server process that it was written on. After a flush it is gone; on a
-- server that was restarted, or took over as a replica, it names another process, whose last writes may be missing.
local function era_of(marker)
  local value = redis.call('GET', marker)
  if not value then
    return nil
  end
  local era, server = string.match(value, '^(%d+) (%x+)$')
  if server ~= string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') then
    return nil
  end
  return era
end

