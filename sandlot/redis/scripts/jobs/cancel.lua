#!lua flags=allow-oom
-- End a job that a caller no longer wants. Queued or scheduled: it never runs. Running: its worker is told, now and with its next beat.
-- ARGV: id
-- -> 'missing' | 'final' | 'cancelled' | 'asked'
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
  -- LREM walks the list. In a long one the id stays and the claim passes over it.
  if redis.call('LREM', QUEUE .. queue, 1, id) > 0 then redis.call('DECR', DEPTH) end
end
finish_unseen(id, queue, 'cancelled', 0, 'cancelled before it started')
return 'cancelled'
