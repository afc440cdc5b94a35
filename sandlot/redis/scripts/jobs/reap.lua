#!lua flags=allow-oom
-- Take back expired leases, queue jobs that have become due, and tidy up. Every worker calls it
-- every second; no lock is needed, since a script is atomic. LIMIT bounds the cost, whatever is
-- queued.
-- ARGV: RQ's exc_string of a lost job
-- Returns { jobs queued again, jobs lost, jobs that became due, ms until the next lease expires or
--   the next job is due (-1: none) }.
-- Idempotent in effect: a repetition finds what is left. Leases and due times are Redis's.
local LIMIT = 200
local LETTERS_LIMIT = 10000
-- A heartbeat is due every second.
local MISSED_MS = 1200
local counts, due = { again = 0, lost = 0, cancelled = 0 }, 0
local placements = {}

local function take(member)
  local what, placement = take_back(member, ARGV[1])
  if what then
    counts[what] = counts[what] + 1
    placements[placement] = true
  end
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', LEASES, 0, ms(now_ms), 'LIMIT', 0, LIMIT)) do take(member) end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, 0, ms(now_ms), 'LIMIT', 0, LIMIT)) do
  redis.call('ZREM', DUE, id)
  local job = redis.call('HMGET', JOB .. id, 'status', 'origin')
  if job[2] then redis.call('ZREM', SCHEDULED .. job[2], id) end
  if job[1] == 'scheduled' then
    redis.call('HSET', JOB .. id, 'status', 'queued', 'enqueued_at', stamp())
    push(id, job[2], false)
    placements[placement_of(job[2])] = true
    due = due + 1
  end
end
-- Breakers whose pause is over (mostly there are none) admit one job at a time.
local breakers = redis.call('HGETALL', BREAKERS)
for i = 1, #breakers, 2 do
  if tonumber(string.match(breakers[i + 1], '^%d+') or 0) <= now_ms then start_probation(breakers[i]) end
end

-- Sample the number of outcomes, for the Retry-After of full queues (full_all in submit.lua).
local sampled_ms = tonumber(string.match(redis.call('LINDEX', END_HISTORY, 0) or '', '^%d+') or 0)
if now_ms - sampled_ms >= 900 then
  redis.call('LPUSH', END_HISTORY, NOW_MS .. ' ' .. (redis.call('GET', ENDED) or 0))
  redis.call('LTRIM', END_HISTORY, 0, 59)
end

-- A fifth of the memory is reserved for accepted jobs: new work is refused before it is needed
-- (sandlot/jobs/admission.py).
local memory = redis.call('INFO', 'memory')
local used, most = tonumber(string.match(memory, 'used_memory:(%d+)')), tonumber(string.match(memory, 'maxmemory:(%d+)') or 0)
if most > 0 and used > most * 0.8 then redis.call('PUBLISH', BREAKERS_CHANGED, '! ' .. math.floor(used / most * 100)) end

-- Drop dead letters after a week, and the oldest of too many.
redis.call('ZREMRANGEBYSCORE', DEAD_LETTERS, 0, ms(now_ms - 1000 * LETTER_TTL_S))
local surplus = math.min(redis.call('ZCARD', DEAD_LETTERS) - LETTERS_LIMIT, LIMIT)
local dropped = surplus > 0 and redis.call('ZPOPMIN', DEAD_LETTERS, surplus) or {}
for i = 1, #dropped, 2 do
  redis.call('EXPIRE', JOB .. dropped[i], 3600)
  redis.call('EXPIRE', RESULTS .. dropped[i], 3600)
end

-- Silent workers. One without a subscriber on its channel (PUBSUB NUMSUB, redis.io) has lost its
-- connection as well: its process is dead or cut off, and its jobs need not wait for the leases to
-- expire. (A frozen process keeps its connection, and its leases expire.)
for _, placement in ipairs(redis.call('SMEMBERS', PLACEMENTS)) do
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', BEATS .. placement, ms(now_ms - GRACE_MS), ms(now_ms - MISSED_MS), 'LIMIT', 0, LIMIT)) do
    if redis.call('PUBSUB', 'NUMSUB', TO_WORKER .. worker)[2] == 0 and redis.call('HDEL', WORKER .. worker, 'alive') == 1 then
      take_back_from(worker, take)
    end
  end
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', BEATS .. placement, 0, ms(now_ms - FRESH_MS), 'LIMIT', 0, LIMIT)) do
    redis.call('ZREM', PARKED .. placement, worker)
  end
  redis.call('ZREMRANGEBYSCORE', BEATS .. placement, 0, ms(now_ms - 2 * GRACE_MS))
end
for placement in pairs(placements) do wake(placement) end

-- Three random queues per call: trim their registries, and return a queue with work but without a
-- place in the ring (edited by hand, for instance) to the ring.
for _, name in ipairs(redis.call('SRANDMEMBER', QUEUES, 3)) do
  local queue = string.sub(name, #QUEUE + 1)
  trim(queue, FINISHED)
  trim(queue, FAILED)
  trim(queue, CANCELED)
  if redis.call('EXISTS', QUEUE .. queue) == 1 and redis.call('SISMEMBER', CAPPED, queue) == 0 then
    enter_ring(queue)
  end
end

-- While every worker sends heartbeats, the first lease to expire is seconds away. It is near only
-- if its worker has fallen silent.
local next_ms = -1
for _, index in ipairs({ LEASES, DUE }) do
  local score = tonumber(redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')[2])
  if score and (next_ms < 0 or score - now_ms < next_ms) then next_ms = math.max(0, score - now_ms) end
end
return { counts.again, counts.lost, due, next_ms }
