-- Renew the lease of a build and store its progress.
--
-- KEYS: builds, build
-- ARGV: digest, attempt, lease (ms), progress
-- Returns 1, or 0 if the build is no longer this worker's. Idempotent.
if redis.call('HGET', KEYS[2], 'attempt') ~= ARGV[2] or not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], math.floor(time[1] * 1000 + time[2] / 1000) + tonumber(ARGV[3]), ARGV[1])
redis.call('HSET', KEYS[2], 'progress', ARGV[4])
return 1
