-- Says which era counts.
--
-- KEYS  the marker
-- Gives the era, 0 where it was lost.
return tonumber(era_of(KEYS[1]) or 0)
