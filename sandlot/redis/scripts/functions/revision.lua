-- A fragment in front of the scripts that change a function: its revision, which ETag and If-Match
-- compare. A revision is microseconds on Redis's clock and greater than the last, so that a
-- function that is removed and deployed again has a new one.
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

