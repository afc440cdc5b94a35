#!lua
-- Queue jobs, or hand them off to workers with an idle slot.
-- Idempotent by job id and by idempotency key. Jobs of one call get separate replies; they share
-- only the lookups of queues and workers. Without allow-oom: a full Redis refuses the script (OOM).
-- ARGV: limit of a queue, limit of all queues together, queues whose breaker must be looked up
--   (' a b ', '*' for every queue, '' for none; sandlot/jobs/admission.py), 1 to accept all jobs or
--   none (they are of one queue then, without idempotency keys of their own), the idempotency key
--   of all of them and its fingerprint ('' for none);
--   then per job: id, queue, placement, envelope, data, timeout_s, result_ttl_s (of a success that
--   is delivered), failure_ttl_s (of all other outcomes), description, concurrency, delay_ms,
--   idempotency key ('' for none), fingerprint, waiter's channel ('' for none), signed callback
--   request ('' for none)
-- Returns per job { 'new' | 'existing', id, RQ status, outcome kind } | { 'conflict' }
--   | { 'gone', id } | { 'no_worker' } | { 'broken', ms until a retry makes sense }
--   | { 'full', 'function' | 'total', depth, ms until a place is free for this caller (-1: unknown)
--   }; with all or none, one refusal for all of them.
local queue_limit, total_limit, broken = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local whole, whole_key, whole_fingerprint = ARGV[4] == '1', ARGV[5], ARGV[6]
local FIRST = 7
local ARGUMENTS = 15
local total = tonumber(redis.call('GET', DEPTH) or 0)
local lease_until = ms(now_ms + LEASE_MS)

-- An open breaker admits no job until its pause is over, then one at a time, queued jobs first.
local function check_breaker(name, queue)
  local until_ms = tonumber(string.match(redis.call('HGET', BREAKERS, name) or '', '^%d+'))
  if not until_ms then return end
  queue.closed_ms = math.max(0, until_ms - now_ms)
  if queue.closed_ms == 0 then
    start_probation(name)
    queue.busy = redis.call('ZCARD', STARTED .. name) > 0
  end
end

-- The state of each queue that this call has read: depth, cap, and what it pushes at the end.
local queues = {}
local function queue_of(name, placement, concurrency)
  local queue = queues[name]
  if not queue then
    queue = { depth = redis.call('LLEN', QUEUE .. name), placement = placement, ids = {}, started = {}, index = {} }
    queues[name] = queue
    if broken ~= '' and (broken == '*' or string.find(broken, ' ' .. name .. ' ', 1, true)) then check_breaker(name, queue) end
  end
  queue.cap = concurrency
  return queue
end

-- Return whether any worker serves this placement.
local served = {}
local function is_served(placement)
  if served[placement] == nil then
    served[placement] = redis.call('ZCOUNT', BEATS .. placement, ms(now_ms - GRACE_MS), '+inf') > 0
  end
  return served[placement]
end

-- The parked worker with the most idle slots, or nil. It stays chosen while it has the most; its
-- hand-offs are then written in one step.
local chosen
local none_parked = {}
local function unchoose()
  local worker = chosen
  chosen = nil
  if not worker or worker.given == 0 then return end
  redis.call('HINCRBY', WORKER .. worker.name, 'given', worker.given)
  for other in string.gmatch(worker.placements, '%S+') do
    if worker.idle > 0 then
      redis.call('ZINCRBY', PARKED .. other, -worker.given, worker.name)
    else
      redis.call('ZREM', PARKED .. other, worker.name)
    end
  end
end

local function choose(placement)
  if chosen and chosen.placement == placement then return chosen end
  unchoose()
  while not none_parked[placement] do
    local two = redis.call('ZREVRANGE', PARKED .. placement, 0, 1, 'WITHSCORES')
    local name = two[1]
    if name and tonumber(redis.call('ZSCORE', BEATS .. placement, name) or 0) >= now_ms - FRESH_MS then
      local fields = redis.call('HMGET', WORKER .. name, 'given', 'placements')
      chosen = { name = name, placement = placement, idle = tonumber(two[2]), next_idle = tonumber(two[4] or 0), given = 0,
        before = tonumber(fields[1] or 0), placements = fields[2] or placement }
      return chosen
    elseif name then
      redis.call('ZREM', PARKED .. placement, name)
      unpark(name)
    else
      none_parked[placement] = true
    end
  end
end

-- Hand a job off: its attempt and lease start here, and it travels to the worker on the worker's
-- channel. If it never arrives, the lease expires and reap.lua queues the job again. Only while no
-- other job of the function is queued, so that the order is kept.
local function hand_off(id, queue, name, envelope, data, reply)
  if queue.depth > 0 or queue.closed_ms or #data > PUBLISH_LIMIT_BYTES then return nil end
  if queue.cap > 0 and redis.call('ZCARD', STARTED .. name) + #queue.started >= queue.cap then return nil end
  while true do
    local worker = choose(queue.placement)
    if not worker then return nil end
    local delivered = redis.call('PUBLISH', TO_WORKER .. worker.name, 'H ' .. (worker.before + worker.given + 1) .. ' ' .. id .. ' 1 0 '
      .. (reply ~= '' and 1 or 0) .. ' ' .. #envelope .. '\n' .. envelope .. data)
    if delivered > 0 then
      worker.given = worker.given + 1
      worker.idle = worker.idle - 1
      if worker.idle <= 0 or worker.idle < worker.next_idle then unchoose() end
      queue.started[#queue.started + 1] = id .. ':1'
      return worker.name
    end
    unchoose()
    redis.call('ZREM', PARKED .. queue.placement, worker.name)
    unpark(worker.name)
  end
end

local function existing(known, reply)
  local state = redis.call('HMGET', JOB .. known, 'status', KIND, REPLY)
  if not state[1] then return nil end
  if reply ~= '' and not state[2] and not string.find(state[3] or '', reply, 1, true) then
    redis.call('HSET', JOB .. known, REPLY, (state[3] and state[3] .. ' ' or '') .. reply)
  end
  return { 'existing', known, state[1], state[2] or '' }
end

-- Refusals: the half of the Retry-After decision that Redis makes. The other half (cap, constants
-- where this returns -1, the error itself) is in sandlot/jobs/submit.py; the rates are place_ms in
-- prelude.lua for one queue and full_all below for all of them.
-- Places come free one after the other, and each refused caller gets one of its own: with the same
-- moment for all of them, all but the first would be refused again. Callers need not return, so no
-- more is reserved than TURNS turns of the whole queue. Nor can a caller return at once: the places
-- of the next RETURN_MS go to other callers and are not reserved, as far as the queue lasts.
-- (Half of that was too short: a caller that was given 23 ms and came too early went to the end of
-- a line of 250.)
local TURNS, RETURN_MS = 8, 100
local reservations = {}
local function full(which, name, depth, surplus, each_ms)
  if not each_ms then return { 'full', which, depth, -1 } end
  local until_ms = reservations[name] or tonumber(redis.call('HGET', RESERVATIONS, name) or 0)
  local soonest_ms = now_ms + math.min(RETURN_MS, depth * each_ms)
  until_ms = math.min(math.max(until_ms, soonest_ms) + surplus * each_ms, now_ms + TURNS * depth * each_ms)
  reservations[name] = until_ms
  return { 'full', which, depth, math.ceil(until_ms - now_ms) }
end

local rates = {}
local function full_queue(name, depth, surplus, result_ttl_s, failure_ttl_s)
  rates[name] = rates[name] or { place_ms(name, { result_ttl_s, failure_ttl_s }) }
  return full('function', name, depth, surplus, rates[name][1])
end

-- All queues together: over as many outcomes as all running jobs make in two rounds, from the
-- samples that reap.lua takes once a second.
local function full_all(surplus)
  local ended, want = tonumber(redis.call('GET', ENDED) or 0), math.max(CLAIMS_AT_LEAST, ROUNDS * redis.call('ZCARD', LEASES))
  local each_ms
  for _, sample in ipairs(redis.call('LRANGE', END_HISTORY, 0, -1)) do
    local then_ms, before = string.match(sample, '^(%d+) (%d+)$')
    if ended > tonumber(before) then each_ms = math.max(now_ms - then_ms, 1) / (ended - before) end
    if ended - before >= want then break end
  end
  return full('total', '*', total, surplus, each_ms)
end

-- Return what was submitted under an idempotency key: the ids (one, or several joined by commas)
-- and the fingerprint, or nothing.
local function known_by(idempotency)
  return string.match(redis.call('GET', IDEMPOTENCY .. idempotency) or '', '^(%S+) (%S+)$')
end

local function submit(id, name, placement, envelope, data, timeout_s, result_ttl_s, failure_ttl_s, description, concurrency, delay_ms,
  idempotency, fingerprint, reply, request)
  local found = existing(id, reply)
  if found then return found end
  if idempotency ~= '' then
    local known, theirs = known_by(idempotency)
    if known then
      if theirs ~= fingerprint then return { 'conflict' } end
      -- The job may expire before its key. It is not run again for that.
      return existing(known, reply) or { 'gone', known }
    end
  end
  if not is_served(placement) then return { 'no_worker' } end
  local queue = queue_of(name, placement, concurrency)
  if queue.closed_ms and (queue.closed_ms > 0 or queue.busy or queue.depth > 0) then
    return { 'broken', math.max(1000, queue.closed_ms) }
  end
  if queue.depth >= queue_limit then return full_queue(name, queue.depth, 1, result_ttl_s, failure_ttl_s) end
  if total >= total_limit then return full_all(1) end

  local status, worker = 'queued', nil
  if delay_ms > 0 then
    status = 'scheduled'
    redis.call('ZADD', SCHEDULED .. name, math.floor((now_ms + delay_ms) / 1000), id)
    redis.call('ZADD', DUE, ms(now_ms + delay_ms), id)
  else
    worker = hand_off(id, queue, name, envelope, data, reply)
    if worker then status = 'started' end
  end
  local job = { 'status', status, 'created_at', stamp(), 'enqueued_at', stamp(), 'origin', name, 'timeout', timeout_s,
    'result_ttl', result_ttl_s, 'failure_ttl', failure_ttl_s, 'description', description, 'data', data, ENVELOPE, envelope,
    QUEUED_MS, delay_ms > 0 and ms(now_ms + delay_ms) or NOW_MS }
  local last = #job
  if reply ~= '' then
    job[last + 1], job[last + 2] = REPLY, reply
    last = last + 2
  end
  if request ~= '' then
    job[last + 1], job[last + 2] = CALLBACK_REQUEST, request
    last = last + 2
  end
  if worker then
    job[last + 1], job[last + 2], job[last + 3], job[last + 4] = ATTEMPT, 1, 'started_at', stamp()
    job[last + 5], job[last + 6], job[last + 7], job[last + 8] = STARTED_MS, NOW_MS, 'worker_name', worker
  end
  redis.call('HSET', JOB .. id, unpack(job))
  local index = queue.index
  index[#index + 1], index[#index + 2] = 0, id
  if queue.depth == 0 and not queue.listed then
    queue.listed = true
    redis.call('SADD', QUEUES, QUEUE .. name)
  end
  if status == 'queued' then
    queue.ids[#queue.ids + 1] = id
    queue.depth = queue.depth + 1
    total = total + 1
  end
  -- A day: as long as a caller may sensibly retry the same request.
  if idempotency ~= '' then redis.call('SET', IDEMPOTENCY .. idempotency, id .. ' ' .. fingerprint, 'EX', 86400) end
  return { 'new', id, status, '' }
end

-- Store the caps of the newest version of each function.
local function store_caps()
  local capped, free = {}, {}
  for name, queue in pairs(queues) do
    if queue.cap > 0 then
      capped[#capped + 1], capped[#capped + 2] = name, queue.cap
    else
      free[#free + 1] = name
    end
  end
  if #capped > 0 then redis.call('HSET', CAPS, unpack(capped)) end
  if #free > 0 then redis.call('HDEL', CAPS, unpack(free)) end
end

-- Write RQ's queues and registries, with one command for all jobs of a queue.
local entered, to_wake = 0, {}
local function enter(queue, name)
  if #queue.index > 0 then redis.call('ZADD', INDEX .. name, unpack(queue.index)) end
  if #queue.started > 0 then
    local leases, started = {}, {}
    for i, member in ipairs(queue.started) do
      leases[2 * i - 1], leases[2 * i] = lease_until, member
      started[2 * i - 1], started[2 * i] = NEVER_S, member
    end
    redis.call('ZADD', LEASES, unpack(leases))
    redis.call('ZADD', STARTED .. name, unpack(started))
  end
  if #queue.ids > 0 then
    entered = entered + #queue.ids
    -- A queue that had work is in the ring or capped already; reap.lua finds those that are
    -- neither.
    if redis.call('RPUSH', QUEUE .. name, unpack(queue.ids)) == #queue.ids then begin_queue(name) end
    if not none_parked[queue.placement] then to_wake[queue.placement] = true end
  end
end

-- Return the refusal for all jobs, or their earlier reply; nil if they are new and can be queued.
local function reply_for_all()
  if whole_key ~= '' then
    local known, theirs = known_by(whole_key)
    if known and theirs ~= whole_fingerprint then return { { 'conflict' } } end
    if known then
      local before = {}
      for id in string.gmatch(known, '[^,]+') do before[#before + 1] = { 'existing', id } end
      return before
    end
  end
  -- A repetition after a lost reply: all of them are there.
  if existing(ARGV[FIRST], '') then return nil end
  local count, name, placement = (#ARGV - FIRST + 1) / ARGUMENTS, ARGV[FIRST + 1], ARGV[FIRST + 2]
  if not is_served(placement) then return { { 'no_worker' } } end
  local queue = queue_of(name, placement, tonumber(ARGV[FIRST + 9]))
  -- On probation one job is admitted, a batch is not.
  if queue.closed_ms then return { { 'broken', math.max(1000, queue.closed_ms) } } end
  local surplus = queue.depth + count - queue_limit
  if surplus > 0 then return { full_queue(name, queue.depth, surplus, ARGV[FIRST + 6], ARGV[FIRST + 7]) } end
  if total + count > total_limit then return { full_all(total + count - total_limit) } end
end

-- Called before every return.
local function store_reservations()
  for name, until_ms in pairs(reservations) do redis.call('HSET', RESERVATIONS, name, ms(until_ms)) end
end

if whole then
  local refusal = reply_for_all()
  if refusal then
    store_reservations()
    return refusal
  end
end

local answers, ids = {}, {}
for at = FIRST, #ARGV, ARGUMENTS do
  ids[#ids + 1] = ARGV[at]
  answers[#answers + 1] = submit(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6],
    ARGV[at + 7], ARGV[at + 8], tonumber(ARGV[at + 9]), tonumber(ARGV[at + 10]), ARGV[at + 11], ARGV[at + 12], ARGV[at + 13], ARGV[at + 14])
end
if whole_key ~= '' then
  redis.call('SET', IDEMPOTENCY .. whole_key, table.concat(ids, ',') .. ' ' .. whole_fingerprint, 'EX', 86400)
end
unchoose()
store_caps()
for name, queue in pairs(queues) do enter(queue, name) end
if entered > 0 then redis.call('INCRBY', DEPTH, entered) end
for placement in pairs(to_wake) do wake(placement) end
store_reservations()
return answers
