#!lua flags=allow-oom
-- Cancel a job. A queued or scheduled one never runs. A running one is killed by its worker, which
-- learns of it from a message now and from its next heartbeat.
-- ARGV: id
-- Returns 'missing' | 'final' (it has ended) | 'cancelled' | 'asked' (its worker was asked).
-- Idempotent: a repetition returns 'final' or 'asked'.
local id = ARGV[1]
local job = redis.call('HMGET', JOB .. id, 'status', 'origin', 'worker_name', KIND)
if not job[1] or not job[2] then return 'missing' end
if job[4] then return 'final' end
local queue = job[2]
if job[1] == 'started' then
  redis.call('HSET', JOB .. id, CANCEL, 1)
  redis.call('SADD', CANCELS .. job[3], id)
  redis.call('EXPIRE', CANCELS .. job[3], 3600)
  redis.call('PUBLISH', TO_WORKER .. job[3], 'C ' .. id)
  return 'asked'
end
if job[1] == 'scheduled' then
  redis.call('ZREM', DUE, id)
  redis.call('ZREM', SCHEDULED .. queue, id)
elseif redis.call('LLEN', QUEUE .. queue) <= 1000 then
  -- LREM is O(length) (redis.io). In a longer list the id stays, and the claim skips it.
  if redis.call('LREM', QUEUE .. queue, 1, id) > 0 then redis.call('DECR', DEPTH) end
end
finish_unsigned(id, queue, 'cancelled', 0, 'cancelled before it started')
return 'cancelled'
