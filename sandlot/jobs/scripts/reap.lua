#!lua flags=allow-oom
-- Take back what nobody holds any more and queue what has become due. Every worker calls it every second; no lock is needed,
-- since each job moves atomically. The cost is bounded by LIMIT, whatever is queued.
-- ARGV: the result-stream text of a lost job
-- -> { jobs queued again, jobs lost, jobs that became due }
local LIMIT = 200
local again, lost, due = {}, {}, {}
local placements = {}

local function take_back(member)
  local id, attempt = string.match(member, '^(.*):(%d+)$')
  redis.call('ZREM', LEASES, member)
  local job = redis.call('HMGET', JOB .. id, 'status', 'origin', ATTEMPT, RELEASED, ENVELOPE, CANCEL, 'worker_name', STARTED_MS)
  if job[2] then redis.call('ZREM', STARTED .. job[2], member) end
  if job[1] ~= 'started' or job[3] ~= attempt then return end
  local queue = job[2]
  placements[placement_of(queue)] = true
  if job[7] then unpark(job[7]) end
  make_room(queue)
  -- Attempts that a worker gave back unused do not count.
  local used = tonumber(attempt) - (tonumber(job[4]) or 0)
  local allowed = tonumber(string.match(job[5] or '', '^[^|]*|(%d+)|') or 1)
  if job[6] then
    finish_unseen(id, queue, 'cancelled', tonumber(attempt), 'cancelled; its worker was lost')
  elseif used >= allowed then
    redis.call('XADD', RESULTS .. id, '*', 'type', 2, 'worker_name', job[7] or '', 'execution_id', attempt, 'exc_string', ARGV[1])
    redis.call('EXPIRE', RESULTS .. id, redis.call('HGET', JOB .. id, 'result_ttl') or 3600)
    finish_unseen(id, queue, 'worker_lost', tonumber(attempt),
      'the worker that ran it stopped answering, on attempt ' .. used .. ' of ' .. allowed)
    lost[#lost + 1] = id
  else
    redis.call('HSET', JOB .. id, 'status', 'queued')
    push(id, queue, true)
    again[#again + 1] = id
  end
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', LEASES, 0, ms(now_ms), 'LIMIT', 0, LIMIT)) do take_back(member) end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, 0, ms(now_ms), 'LIMIT', 0, LIMIT)) do
  redis.call('ZREM', DUE, id)
  local job = redis.call('HMGET', JOB .. id, 'status', 'origin')
  if job[2] then redis.call('ZREM', SCHEDULED .. job[2], id) end
  if job[1] == 'scheduled' then
    redis.call('HSET', JOB .. id, 'status', 'queued', 'enqueued_at', stamp())
    push(id, job[2], false)
    placements[placement_of(job[2])] = true
    due[#due + 1] = id
  end
end
for placement in pairs(placements) do wake(placement) end

-- Workers that fell silent.
for _, placement in ipairs(redis.call('SMEMBERS', PLACEMENTS)) do
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', BEATS .. placement, 0, ms(now_ms - FRESH_MS), 'LIMIT', 0, LIMIT)) do
    redis.call('ZREM', PARKED .. placement, worker)
  end
  redis.call('ZREMRANGEBYSCORE', BEATS .. placement, 0, ms(now_ms - 2 * GRACE_MS))
end

-- A few queues, another few next second: drop what their registries no longer keep, and put a queue with work that somehow has
-- no place in the ring (emptied and refilled by hand, say) back into it.
for _, name in ipairs(redis.call('SRANDMEMBER', QUEUES, 3)) do
  local queue = string.sub(name, #QUEUE + 1)
  redis.call('ZREMRANGEBYSCORE', FINISHED .. queue, 0, now_s)
  redis.call('ZREMRANGEBYSCORE', FAILED .. queue, 0, now_s)
  redis.call('ZREMRANGEBYSCORE', CANCELED .. queue, 0, now_s)
  if redis.call('EXISTS', QUEUE .. queue) == 1 and redis.call('SISMEMBER', CAPPED, queue) == 0 then
    enter_ring(queue)
  end
end
return { again, lost, due }
