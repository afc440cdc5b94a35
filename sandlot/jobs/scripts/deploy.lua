-- Make a bundle that is already stored the latest version of a function, all of it or nothing.
--
-- KEYS: functions, function, bundle, bundle users
-- ARGV: name, digest, expected number, signed record, chunks of the bundle, expected revision ('' for any, '*' for any that exists), channel
-- Returns {'ok', number, created, changed, record, revision}, {'missing', number} when the bundle has to be uploaded first,
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

if known then
  record = known
else
  number = tonumber(redis.call('HGET', KEYS[2], 'last') or 0) + 1
  if number ~= expected then
    return {'conflict', number}
  end
  changed = 1
  redis.call('HSET', KEYS[2], 'last', number, 'v' .. number, record, 'g' .. number, digest, 'd' .. digest, number)
  redis.call('SADD', KEYS[4], name)
end

redis.call('PERSIST', KEYS[3])
local moved = redis.call('HGET', KEYS[2], 'latest') ~= tostring(number)
redis.call('HSET', KEYS[2], 'latest', number)
redis.call('ZADD', KEYS[1], 0, name)
redis.call('PUBLISH', ARGV[7], name)
-- What changes nothing keeps the revision: deploying the same again makes nobody else's If-Match fail.
local revision = (changed == 1 or moved) and bump(KEYS[2]) or redis.call('HGET', KEYS[2], 'revision')
return {'ok', number, created, changed, record, revision}
