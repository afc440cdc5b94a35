-- Make a bundle that is already stored the latest version of a function, all of it or nothing.
--
-- With dependencies that are not locked yet the version is recorded as waiting (`p`), a build is asked for, and `latest` stays what it is.
--
-- KEYS: functions, function, bundle, bundle users, lock, builds, build
-- ARGV: name, digest, expected number, signed record, chunks of the bundle, expected revision ('' for any, '*' for any that exists), channel,
--       '1' if it has dependencies, builds' channel, placement, a signed lock for it if one is known ('' if not)
-- Returns {'ok', number, created, changed, record, revision, '1' if it is active}, {'missing', number} when the bundle has to be uploaded first,
-- {'conflict', number} when somebody else took the number: sign a record for the number returned and ask again,
-- or {'stale', 0} when the function is at another revision.
local name, digest, expected, record = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

if not matches(KEYS[2], ARGV[6]) then
  return {'stale', 0}
end
if redis.call('HLEN', KEYS[3]) ~= tonumber(ARGV[5]) then
  return {'missing', expected}
end

local created = 1 - redis.call('EXISTS', KEYS[2])
local changed = 0
local number = tonumber(redis.call('HGET', KEYS[2], 'd' .. digest) or 0)
local known = number > 0 and redis.call('HGET', KEYS[2], 'v' .. number)
local waiting = number > 0 and redis.call('HGET', KEYS[2], 'p' .. number)
local locked = ARGV[8] == '0' or redis.call('EXISTS', KEYS[5]) == 1
if not locked and ARGV[11] ~= '' then
  redis.call('SET', KEYS[5], ARGV[11])
  locked = true
end
local kind = (known or locked) and 'v' or 'p'

if known then
  record = known
elseif waiting then
  record = waiting
  if kind == 'v' then redis.call('HSET', KEYS[2], 'v' .. number, record) end
  -- The same again after a failure is another try.
  if redis.call('HDEL', KEYS[2], 'f' .. number) == 1 then redis.call('HDEL', KEYS[7], 'attempt', 'progress') end
  if kind == 'v' then redis.call('HDEL', KEYS[2], 'p' .. number) end
else
  number = tonumber(redis.call('HGET', KEYS[2], 'last') or 0) + 1
  if number ~= expected then
    return {'conflict', number}
  end
  changed = 1
  redis.call('HSET', KEYS[2], 'last', number, kind .. number, record, 'g' .. number, digest, 'd' .. digest, number)
  redis.call('SADD', KEYS[4], name)
end

redis.call('PERSIST', KEYS[3])
redis.call('PERSIST', KEYS[5])
redis.call('HSET', KEYS[2], 'wanted', number)
local moved = kind == 'v' and redis.call('HGET', KEYS[2], 'latest') ~= tostring(number)
if kind == 'v' then
  redis.call('HSET', KEYS[2], 'latest', number)
else
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[7], 'w' .. name, number)
  redis.call('ZADD', KEYS[6], 'NX', math.floor(time[1] * 1000 + time[2] / 1000), digest)
  redis.call('PUBLISH', ARGV[9], ARGV[10])
end
redis.call('ZADD', KEYS[1], 0, name)
redis.call('PUBLISH', ARGV[7], name)
-- What changes nothing keeps the revision: deploying the same again makes nobody else's If-Match fail.
local revision = (changed == 1 or moved) and bump(KEYS[2]) or redis.call('HGET', KEYS[2], 'revision')
return {'ok', number, created, changed, record, revision, kind == 'v' and 1 or 0}
