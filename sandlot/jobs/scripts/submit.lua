#!lua
-- Queue one job, or hand it straight to a worker with an idle slot. Idempotent by job id and by idempotency key.
-- ARGV: id, queue, placement, envelope, data, timeout_s, result_ttl_s, description, concurrency, delay_ms,
--       idempotency key ('' for none), fingerprint, waiter's channel ('' for none), limit of the queue, limit of all queues
-- -> { 'new' | 'existing', id, RQ status, outcome kind } | { 'conflict' } | { 'no_worker' } | { 'full', 'function' | 'total', depth, jobs ever ended, now in ms }
local id, queue, placement, envelope, data = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local concurrency, delay_ms, reply = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[13]

local function existing(known)
  local state = redis.call('HMGET', JOB .. known, 'status', KIND, REPLY)
  if not state[1] then return nil end
  if reply ~= '' and not state[2] and not string.find(state[3] or '', reply, 1, true) then
    redis.call('HSET', JOB .. known, REPLY, (state[3] and state[3] .. ' ' or '') .. reply)
  end
  return { 'existing', known, state[1], state[2] or '' }
end

local found = existing(id)
if found then return found end
local idempotency = ARGV[11] ~= '' and IDEMPOTENCY .. ARGV[11]
if idempotency then
  local known, fingerprint = string.match(redis.call('GET', idempotency) or '', '^(%S+) (%S+)$')
  if known then
    if fingerprint ~= ARGV[12] then return { 'conflict' } end
    found = existing(known)
    if found then return found end
  end
end

if redis.call('ZCOUNT', BEATS .. placement, ms(now_ms - GRACE_MS), '+inf') == 0 then return { 'no_worker' } end
local function full(which, depth)
  return { 'full', which, depth, tonumber(redis.call('GET', ENDED) or 0), now_ms }
end
local depth = redis.call('LLEN', QUEUE .. queue)
if depth >= tonumber(ARGV[14]) then return full('function', depth) end
local total = tonumber(redis.call('GET', DEPTH) or 0)
if total >= tonumber(ARGV[15]) then return full('total', total) end

local job = { 'created_at', stamp(), 'enqueued_at', stamp(), 'origin', queue, 'timeout', ARGV[6], 'result_ttl', ARGV[7],
  'failure_ttl', ARGV[7], 'description', ARGV[8], 'data', data, ENVELOPE, envelope, QUEUED_MS, ms(now_ms + delay_ms) }
local function create(status, more)
  job[#job + 1] = 'status'
  job[#job + 1] = status
  if reply ~= '' then
    job[#job + 1] = REPLY
    job[#job + 1] = reply
  end
  for _, item in ipairs(more) do job[#job + 1] = item end
  redis.call('HSET', JOB .. id, unpack(job))
  if depth == 0 then redis.call('SADD', QUEUES, QUEUE .. queue) end
  -- A day: as long as a caller may sensibly retry the same request.
  if idempotency then redis.call('SET', idempotency, id .. ' ' .. ARGV[12], 'EX', 86400) end
  return { 'new', id, status, '' }
end

if concurrency > 0 then redis.call('HSET', CAPS, queue, concurrency) else redis.call('HDEL', CAPS, queue) end
if delay_ms > 0 then
  redis.call('ZADD', SCHEDULED .. queue, math.floor((now_ms + delay_ms) / 1000), id)
  redis.call('ZADD', DUE, ms(now_ms + delay_ms), id)
  return create('scheduled', {})
end

-- Hand-off: the job starts here, with its attempt and its lease, and travels to the worker on its channel. If it never arrives,
-- the lease runs out and reap queues it again. Only when nobody of this function is waiting, so that order is kept.
local may_start = depth == 0 and #data <= PUBLISH_LIMIT_BYTES
if may_start and concurrency > 0 and redis.call('ZCARD', STARTED .. queue) >= concurrency then may_start = false end
while may_start do
  local worker = redis.call('ZREVRANGE', PARKED .. placement, 0, 0)[1]
  if not worker then break end
  local beat = tonumber(redis.call('ZSCORE', BEATS .. placement, worker) or 0)
  local delivered = 0
  if beat >= now_ms - FRESH_MS then
    local given = redis.call('HINCRBY', WORKER .. worker, 'given', 1)
    delivered = redis.call('PUBLISH', TO_WORKER .. worker, 'H ' .. given .. ' ' .. id .. ' 1 0 ' .. (reply ~= '' and 1 or 0)
      .. ' ' .. #envelope .. '\n' .. envelope .. data)
  end
  if delivered > 0 then
    for served in string.gmatch(redis.call('HGET', WORKER .. worker, 'placements') or '', '%S+') do
      if tonumber(redis.call('ZINCRBY', PARKED .. served, -1, worker)) <= 0 then redis.call('ZREM', PARKED .. served, worker) end
    end
    redis.call('ZADD', LEASES, ms(now_ms + LEASE_MS), id .. ':1')
    redis.call('ZADD', STARTED .. queue, NEVER_S, id .. ':1')
    return create('started', { ATTEMPT, 1, 'started_at', stamp(), STARTED_MS, ms(now_ms), 'worker_name', worker })
  end
  redis.call('ZREM', PARKED .. placement, worker)
  unpark(worker)
end

push(id, queue, false)
wake(placement)
return create('queued', {})
