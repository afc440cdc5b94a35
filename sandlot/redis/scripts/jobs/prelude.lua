-- The common beginning of every script in this folder: clock, ring, breaker, outcomes, rates.
-- sandlot/redis/lua.py puts it before each script's own text and after the key names of
-- sandlot/redis/keys.py. Scripts are atomic and see one moment of Redis's clock (TIME), so that no
-- other machine's clock matters.
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local now_s = tonumber(clock[1])

-- A worker that has been silent for this long gets no hand-off; heartbeats come every second.
local FRESH_MS = 2500
-- A placement counts as served for this long after its last worker's heartbeat, so that a rolling
-- restart causes no refusals.
local GRACE_MS = 30000
local LEASE_MS = 4000
-- Longer than all retries of worker/callbacks/sender.py together.
local CALLBACK_TTL_S = 1209600
-- The year 2100: beyond any cleanup of RQ's StartedJobRegistry, which would fail or requeue a job
-- of Sandlot's (rq/registry.py).
local NEVER_S = 4102444800
-- A dead letter is kept for a week, so that one from Friday night is still there on Monday.
local LETTER_TTL_S = 604800
-- Larger results and events are not published: a subscriber's output buffer is bounded
-- (client-output-buffer-limit pubsub 32mb, redis.conf).
local PUBLISH_LIMIT_BYTES = 262144
-- '@24' in place of a result: it is stored in 24 chunks (put_result_chunk.lua). No JSON text begins
-- with '@'.
local STORED = string.byte('@')

local function ms(number)
  return string.format('%.0f', number)
end
local NOW_MS = ms(now_ms)

-- RQ's utcformat. Year, month and day come from the days since the epoch by H. Hinnant's
-- civil_from_days algorithm.
local stamped
local function stamp()
  if stamped then return stamped end
  local days, seconds = math.floor(now_s / 86400) + 719468, now_s % 86400
  local era = math.floor(days / 146097)
  local doe = days - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day, month = doy - math.floor((153 * mp + 2) / 5) + 1, mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  stamped = string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day, math.floor(seconds / 3600),
    math.floor(seconds / 60) % 60, seconds % 60, clock[2])
  return stamped
end

local function placement_of(queue)
  return string.match(queue, '@(.*)$') or ''
end

-- Put a queue with work at the end of the ring, unless it has a place.
local function enter_ring(queue)
  redis.call('ZADD', RING .. placement_of(queue), 'NX', redis.call('INCR', TURN), queue)
end

local function unpark(worker)
  for placement in string.gmatch(redis.call('HGET', WORKER .. worker, 'placements') or '', '%S+') do
    redis.call('ZREM', PARKED .. placement, worker)
  end
end

-- Wake one parked worker. PUBLISH returns the number of receivers (redis.io); 0 means that the
-- worker is gone.
local function wake(placement)
  while true do
    local worker = redis.call('ZREVRANGE', PARKED .. placement, 0, 0)[1]
    if not worker then return end
    if redis.call('PUBLISH', TO_WORKER .. worker, 'W') > 0 then return end
    redis.call('ZREM', PARKED .. placement, worker)
    unpark(worker)
  end
end

-- An empty queue gets work: it enters the ring, and its earlier claims say nothing about its rate
-- now.
local function begin_queue(queue)
  redis.call('DEL', CLAIM_HISTORY .. queue)
  enter_ring(queue)
end

-- A queue that had work is in the ring or capped already; reap.lua finds those that are neither.
local function push(id, queue, front)
  redis.call('INCR', DEPTH)
  if redis.call(front and 'LPUSH' or 'RPUSH', QUEUE .. queue, id) == 1 then begin_queue(queue) end
end

-- A job of this queue no longer runs. If the queue's cap kept it out of the ring, put it back.
local function reenter_ring(queue)
  if redis.call('SREM', CAPPED, queue) == 1 and redis.call('EXISTS', QUEUE .. queue) == 1 then
    enter_ring(queue)
    return true
  end
  return false
end

-- Let an open breaker admit one job at a time from now on.
local function start_probation(queue)
  redis.call('HSET', CAPS, '!' .. queue, 1)
  if reenter_ring(queue) then wake(placement_of(queue)) end
end

-- Close a breaker: the function runs without limits again.
local function close_breaker(queue)
  redis.call('HDEL', BREAKERS, queue)
  redis.call('HDEL', CAPS, '!' .. queue)
  redis.call('PUBLISH', BREAKERS_CHANGED, '- ' .. queue)
  if reenter_ring(queue) then wake(placement_of(queue)) end
end

local REGISTRY = { finished = FINISHED, failed = FAILED, canceled = CANCELED }

-- Return the time to live of a success in s. The shorter one (RQ's result_ttl, set when a caller
-- waits) is for results that are delivered: the API process in which the caller waits must be
-- subscribed now. It keeps the results that it then cannot deliver longer (keep_result.lua).
local listening = {}
local function success_ttl(shorter, longer, reply)
  shorter, longer = tonumber(shorter) or 3600, tonumber(longer) or 3600
  if shorter >= longer then return longer end
  local channel = string.match(reply or '', '^%S+') or ''
  if listening[channel] == nil then listening[channel] = redis.call('PUBSUB', 'NUMSUB', TO_WAITER .. channel)[2] > 0 end
  return listening[channel] and shorter or longer
end

-- Record the outcome of a job everywhere except in its queue's registry. Called once per job: the
-- caller has just removed what gave the right to do so (the lease, or the status `queued`).
-- e: status (RQ's), kind, text (the signed outcome record, or '- {json}' where a script decides),
-- reply (channels), ttl, result, request (of a callback); for RQ's result stream: type, field,
-- value, worker, attempt, started_s; logs; publish, which replaces PUBLISH for the waiters.
local ended_s
local function finish(id, e)
  local key, ttl = JOB .. id, e.ttl or 3600
  redis.call('HSET', key, 'status', e.status, 'ended_at', stamp(), ENDED_MS, NOW_MS, KIND, e.kind, END, e.text)
  redis.call('EXPIRE', key, ttl)
  if e.type then
    ended_s = ended_s or string.format('%.3f', now_ms / 1000)
    redis.call('XADD', RESULTS .. id, '*', 'type', e.type, 'worker_name', e.worker, 'execution_id', e.attempt,
      'execution_started_at', e.started_s, 'execution_ended_at', ended_s, e.field, e.value)
    redis.call('EXPIRE', RESULTS .. id, ttl)
  end
  if e.logs and e.logs ~= '' then redis.call('SET', LOGS .. id, e.logs, 'EX', ttl) end
  if e.request then
    redis.call('HSET', CALLBACK .. id, 'order', e.request, 'end', e.text, 'ended_ms', NOW_MS)
    redis.call('EXPIRE', CALLBACK .. id, CALLBACK_TTL_S)
    redis.call('ZADD', CALLBACKS, NOW_MS, id)
    redis.call('PUBLISH', CALLBACKS_DUE, id)
  end
  if e.reply then
    local message = id .. '\n' .. e.text .. '\n' .. (e.result or '')
    message = #message .. '\n' .. message
    for channel in string.gmatch(e.reply, '%S+') do
      if e.publish then e.publish(channel, message) else redis.call('PUBLISH', TO_WAITER .. channel, message) end
    end
  end
end

-- Give the chunks of a large result its job's time to live. Returns false if some are missing
-- because recording took too long.
local function keep_chunks(member, stored, ttl)
  if redis.call('HLEN', RESULT .. member) ~= tonumber(string.sub(stored, 2)) then return false end
  return redis.call('EXPIRE', RESULT .. member, ttl) == 1
end

-- Return whether a job will be too old to be run again in `pause_ms`, by its retry policy.
local function too_old(queued_ms, max_age_ms, pause_ms)
  return max_age_ms > 0 and now_ms + pause_ms - (tonumber(queued_ms) or now_ms) > max_age_ms
end

-- List a job as a dead letter: its retry policy covers the outcome, but no attempt is left. Returns
-- its time to live in s.
local function keep_dead_letter(id, ttl)
  redis.call('ZADD', DEAD_LETTERS, NOW_MS, id)
  return math.max(ttl, LETTER_TTL_S)
end

-- Remove expired entries from a registry of a queue. The jobs' hashes expire by themselves at the
-- same moment.
local TRIM_LIMIT = 1000
local function trim(queue, registry)
  local gone = redis.call('ZRANGEBYSCORE', registry .. queue, 0, now_s, 'LIMIT', 0, TRIM_LIMIT)
  if #gone == 0 then return end
  redis.call('ZREM', registry .. queue, unpack(gone))
  redis.call('ZREM', INDEX .. queue, unpack(gone))
end

-- Record an outcome that no worker witnessed. It is unsigned and carries no result.
local function finish_unsigned(id, queue, kind, attempt, detail)
  local fields = redis.call('HMGET', JOB .. id, REPLY, 'failure_ttl', CALLBACK_REQUEST)
  local status, ttl = kind == 'cancelled' and 'canceled' or 'failed', tonumber(fields[2]) or 3600
  if kind == 'worker_lost' then ttl = keep_dead_letter(id, ttl) end
  redis.call('INCR', ENDED)
  finish(id, { status = status, kind = kind, reply = fields[1], ttl = ttl, request = fields[3],
    text = '- ' .. cjson.encode({ kind = kind, attempt = attempt, evidence = { detail = detail } }) })
  redis.call('ZADD', REGISTRY[status] .. queue, now_s + ttl, id)
end

-- Matches max_age_ms in an envelope. All text before it is Sandlot's own, so that no text of a
-- caller can be taken for it (the order of fields in sandlot/jobs/envelope.py).
local MAX_AGE = '^[^{]*{"job_id":"[^"]*","function":"[^"]*","version":%d+,"digest":"[^"]*","wall_limit_ms":%d+,"retry":{[^}]*"max_age_ms":(%d+)'

-- Take back an attempt whose worker is gone: its job returns to the front of its queue, or ends
-- after its last attempt. lost_text: RQ's exc_string of a lost job.
-- Returns 'again' | 'lost' | 'cancelled' | nil, and the placement.
local function take_back(member, lost_text)
  local id, attempt = string.match(member, '^(.*):(%d+)$')
  redis.call('ZREM', LEASES, member)
  if not id then return nil end
  local job = redis.call('HMGET', JOB .. id, 'status', 'origin', ATTEMPT, RELEASED, ENVELOPE, CANCEL, 'worker_name', QUEUED_MS)
  if job[2] then redis.call('ZREM', STARTED .. job[2], member) end
  if job[1] ~= 'started' or job[3] ~= attempt then return nil end
  local queue = job[2]
  if job[7] then unpark(job[7]) end
  reenter_ring(queue)
  -- Attempts that a worker released do not count.
  local used = tonumber(attempt) - (tonumber(job[4]) or 0)
  local allowed = tonumber(string.match(job[5] or '', '^[^|]*|(%d+)|') or 1)
  if job[6] then
    finish_unsigned(id, queue, 'cancelled', tonumber(attempt), 'cancelled; its worker was lost')
    return 'cancelled', placement_of(queue)
  end
  if used >= allowed or too_old(job[8], tonumber(string.match(job[5] or '', MAX_AGE) or 0), 0) then
    redis.call('XADD', RESULTS .. id, '*', 'type', 2, 'worker_name', job[7] or '', 'execution_id', attempt, 'exc_string', lost_text)
    redis.call('EXPIRE', RESULTS .. id, LETTER_TTL_S)
    finish_unsigned(id, queue, 'worker_lost', tonumber(attempt),
      'the worker that ran it stopped answering, on attempt ' .. used .. ' of ' .. allowed)
    return 'lost', placement_of(queue)
  end
  redis.call('HSET', JOB .. id, 'status', 'queued', FAILURE,
    '- ' .. cjson.encode({ kind = 'worker_lost', attempt = tonumber(attempt), evidence = { detail = 'the worker that ran it stopped answering' } }))
  redis.call('HINCRBY', REQUEUES, 'worker_lost', 1)
  push(id, queue, true)
  return 'again', placement_of(queue)
end

-- Call `take` for every attempt of a dead worker without waiting for its leases to expire. It scans
-- all leases, one per running job.
local function take_back_from(worker, take)
  unpark(worker)
  for _, member in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    if redis.call('HGET', JOB .. (string.match(member, '^(.*):%d+$') or ''), 'worker_name') == worker then take(member) end
  end
end

-- The rate at which a queue moves. submit.lua uses it for the Retry-After of a refusal (there is
-- the decision; sandlot/jobs/submit.py turns it into the error), queue_eta.lua for a job's ETA.
-- The rate is measured over the last claims from the queue, as many as its running jobs make in two
-- rounds, so that a change shows after two. A claim counts for the time since the one before. Until
-- there are enough claims, the rate is that of the running jobs, by the run times of the jobs that
-- ended last. ttls: the times to live in its registries (see success_ttl).
-- place_ms returns ms per place (nil if unknown) and the number of running jobs.
local ROUNDS, CLAIMS_AT_LEAST, CLAIMS_KEPT, RUNS = 2, 8, 512, 8
-- The history of a function that is no longer called expires.
local CLAIM_HISTORY_TTL_S = 3600

local function place_ms_by_runs(queue, running, ttls)
  local runs, seen = {}, {}
  for _, ttl in ipairs(ttls) do
    for _, registry in ipairs(seen[ttl] and {} or { FINISHED, FAILED }) do
      for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', registry .. queue, now_s + tonumber(ttl), now_s, 'LIMIT', 0, RUNS)) do
        local job = redis.call('HMGET', JOB .. id, STARTED_MS, ENDED_MS)
        if job[1] and job[2] then runs[#runs + 1] = { tonumber(job[2]), job[2] - job[1] } end
      end
    end
    seen[ttl] = true
  end
  if #runs == 0 then return nil end
  table.sort(runs, function(a, b) return a[1] > b[1] end)
  local sum_ms, count = 0, math.min(#runs, RUNS)
  for i = 1, count do sum_ms = sum_ms + runs[i][2] end
  return math.max(sum_ms, 1) / count / math.max(running, 1)
end

local function place_ms(queue, ttls)
  local running, count = redis.call('ZCARD', STARTED .. queue), 0
  local want = math.max(CLAIMS_AT_LEAST, ROUNDS * running)
  for _, claims in ipairs(redis.call('LRANGE', CLAIM_HISTORY .. queue, 0, want)) do
    local at_ms, taken = string.match(claims, '^(%d+) (%d+)$')
    if count >= want then return math.max(now_ms - at_ms, 1) / count, running end
    count = count + taken
  end
  return place_ms_by_runs(queue, running, ttls), running
end
