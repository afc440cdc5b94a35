-- Make a stored bundle the latest version of a function, atomically.
--
-- With dependencies that are not locked yet, the version is recorded as pending (`p`), a build is
-- requested, and `latest` stays as it is.
--
-- KEYS: functions, function, bundle, bundle users, lock, builds, build
-- ARGV: name, digest, expected number, signed record, chunks of the bundle, expected revision (''
--   for any, '*' for any that exists), channel, '1' if it has dependencies, builds' channel,
--   placement, a signed lock if one is known ('' if not), owner of the key that deploys
-- Returns {'ok', number, created, changed, record, revision, 1 if it is active},
--   {'missing', number} if the bundle must be uploaded first,
--   {'conflict', number} if another deploy took the number: sign a record for the returned number
--   and call again,
--   {'stale', 0} if the function is at another revision.
-- Idempotent without an expected revision: a repetition finds the digest and changes nothing.
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
  -- Deploying the same code again after a failed build starts another try.
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
  redis.call('HSET', KEYS[7], 'w' .. name, number, 'o' .. name, ARGV[12])
  redis.call('ZADD', KEYS[6], 'NX', math.floor(time[1] * 1000 + time[2] / 1000), digest)
  redis.call('PUBLISH', ARGV[9], ARGV[10])
end
redis.call('ZADD', KEYS[1], 0, name)
redis.call('PUBLISH', ARGV[7], name)
-- A deploy that changes nothing keeps the revision, so that the If-Match of others still succeeds.
local revision = (changed == 1 or moved) and bump(KEYS[2]) or redis.call('HGET', KEYS[2], 'revision')
return {'ok', number, created, changed, record, revision, kind == 'v' and 1 or 0}
