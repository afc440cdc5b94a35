-- Goes in front of the scripts that change a function: its revision, which is what an ETag and If-Match compare.
-- Microseconds of Redis's clock, never less than the last: a function that is removed and deployed anew has not the revision it had.
local function matches(key, expected)
  if expected == '' then return true end
  local revision = redis.call('HGET', key, 'revision')
  if expected == '*' then return revision ~= false end
  return revision == expected
end

local function bump(key)
  local time = redis.call('TIME')
  local last = tonumber(redis.call('HGET', key, 'revision') or 0)
  local revision = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
  redis.call('HSET', key, 'revision', revision)
  return revision
end

