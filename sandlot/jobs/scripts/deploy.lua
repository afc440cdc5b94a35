-- Make a bundle that is already stored the latest version of a function, all of it or nothing.
--
-- KEYS: functions, function, bundle, bundle users
-- ARGV: name, digest, expected number, signed record, bundle bytes, versions kept, bundle prefix, users prefix, unused ttl (s), channel
-- Returns {'ok', number, created, changed, record}, {'missing', number, 0, 0, ''} when the bundle has to be uploaded first, or
-- {'conflict', number, 0, 0, ''} when somebody else took the number: sign a record for the number returned and ask again.
local name, digest, expected, record = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local kept, ttl = tonumber(ARGV[6]), ARGV[9]

if redis.call('STRLEN', KEYS[3]) ~= tonumber(ARGV[5]) then
  return {'missing', expected, 0, 0, ''}
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
    return {'conflict', number, 0, 0, ''}
  end
  changed = 1
  redis.call('HSET', KEYS[2], 'last', number, 'v' .. number, record, 'g' .. number, digest, 'd' .. digest, number)
  redis.call('SADD', KEYS[4], name)
  local old = number - kept
  local dropped = old > 0 and redis.call('HGET', KEYS[2], 'g' .. old)
  if dropped then
    redis.call('HDEL', KEYS[2], 'v' .. old, 'g' .. old, 'd' .. dropped)
    redis.call('SREM', ARGV[8] .. dropped, name)
    if redis.call('SCARD', ARGV[8] .. dropped) == 0 then
      redis.call('EXPIRE', ARGV[7] .. dropped, ttl)
    end
  end
end

redis.call('PERSIST', KEYS[3])
redis.call('HSET', KEYS[2], 'latest', number)
redis.call('ZADD', KEYS[1], 0, name)
redis.call('PUBLISH', ARGV[10], name)
return {'ok', number, created, changed, record}
