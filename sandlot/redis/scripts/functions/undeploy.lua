-- Remove a function with all its versions. Bundles that no other function uses expire later, so
-- that accepted jobs can still start.
--
-- KEYS: functions, function
-- ARGV: name, bundle prefix, users prefix, unused ttl (s), channel, expected revision ('' for any),
--   lock prefix
-- Returns 1, 0 if there was no such function, or -1 if it is at another revision. Idempotent.
local name = ARGV[1]
if redis.call('EXISTS', KEYS[2]) == 1 and not matches(KEYS[2], ARGV[6]) then return -1 end
local fields = redis.call('HGETALL', KEYS[2])

for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 1) == 'g' then
    local digest = fields[i + 1]
    redis.call('SREM', ARGV[3] .. digest, name)
    if redis.call('SCARD', ARGV[3] .. digest) == 0 then
      redis.call('EXPIRE', ARGV[2] .. digest, ARGV[4])
      redis.call('EXPIRE', ARGV[7] .. digest, ARGV[4])
    end
  end
end

redis.call('ZREM', KEYS[1], name)
redis.call('PUBLISH', ARGV[5], name)
return redis.call('DEL', KEYS[2])
