-- Record the result of a build for every function that waits for it, or nothing if the build is no
-- longer this worker's.
--
-- KEYS: builds, build, lock
-- ARGV: digest, attempt, signed lock ('' after a failure), reason of the failure, function prefix,
--   channel
-- Returns 1, or 0 if the build was given to another worker or recorded before.
-- Idempotent: the build's key is deleted with the first success.
if redis.call('HGET', KEYS[2], 'attempt') ~= ARGV[2] or not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
local fields = redis.call('HGETALL', KEYS[2])
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 1) == 'w' then
    local name, number = string.sub(fields[i], 2), fields[i + 1]
    local key = ARGV[5] .. name
    local record = redis.call('HGET', key, 'p' .. number)
    if record and ARGV[3] == '' then
      redis.call('HSET', key, 'f' .. number, ARGV[4])
    elseif record then
      redis.call('HSET', key, 'v' .. number, record)
      redis.call('HDEL', key, 'p' .. number)
      -- Another version may have been deployed or activated since.
      if redis.call('HGET', key, 'wanted') == number then redis.call('HSET', key, 'latest', number) end
    end
    if record then
      if ARGV[3] ~= '' then redis.call('SET', KEYS[3], ARGV[3]) end
      bump(key)
      redis.call('PUBLISH', ARGV[6], name)
    end
  end
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return 1
