-- Remove a function with all its versions; bundles that no other function has expire, so that what runs now can still be started.
--
-- KEYS: functions, function
-- ARGV: name, bundle prefix, users prefix, unused ttl (s), channel
-- Returns 1, or 0 if there was no such function.
local name = ARGV[1]
local fields = redis.call('HGETALL', KEYS[2])

for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 1) == 'g' then
    local digest = fields[i + 1]
    redis.call('SREM', ARGV[3] .. digest, name)
    if redis.call('SCARD', ARGV[3] .. digest) == 0 then
      redis.call('EXPIRE', ARGV[2] .. digest, ARGV[4])
    end
  end
end

redis.call('ZREM', KEYS[1], name)
redis.call('PUBLISH', ARGV[5], name)
return redis.call('DEL', KEYS[2])
