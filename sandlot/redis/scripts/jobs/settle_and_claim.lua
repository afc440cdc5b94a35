#!lua flags=allow-oom
-- Record the outcomes of a worker's executions, claim jobs for its free slots, and park the slots
-- that stay idle.
-- ARGV: worker, step number, free slots, prefetch (jobs beyond the free slots; with both 0 it
--   claims nothing and unparks), number of the last hand-off seen (-1: restart the count), number
--   of placements, placements…, then per execution: id, attempt, RQ status, outcome kind, signed
--   outcome record, value for RQ's result stream, raw result ('@' and a number: it is stored in so
--   many chunks), logs
-- Returns { { 'ok' | 'already' | 'stale' (the attempt is another's now) | 'unstored' (chunks are
--   missing: nothing was recorded and the lease is held), … },
--   { { id, attempt, envelope, data, ms it was queued, 1 if it has a waiter + 2 if it is a probe },
--   … }, 1 if its idle slots are parked }.
-- Idempotent: a repeated step number returns those of its claims that are still held and claims
-- nothing; a repeated outcome returns 'already'. Times are Redis's.
local worker, step, free, prefetch, seen = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local placements, at = {}, 7
for i = 1, tonumber(ARGV[6]) do
  placements[i] = ARGV[at]
  at = at + 1
end
-- Enough for a full batch of ordinary jobs. One reply must not hold a thousand events of 6 MiB.
local CLAIM_LIMIT_BYTES = 8388608

local known = redis.call('HMGET', WORKER .. worker, 'step', 'claims', 'given')
if seen < 0 then
  redis.call('HSET', WORKER .. worker, 'given', 0)
  known[3] = 0
  seen = 0
end

-- Settle: per job for what concerns it alone, in one command for what concerns all of them.

local TYPES = { finished = 1, failed = 2, canceled = 3 }
-- One step in 16 trims the registries that it has written to, so that single jobs do not pay for it
-- every time.
local TRIM_EVERY = 16

local function list_of(lists, key)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  return list
end

-- Messages to one API process are joined up to the size that a single one may have.
local unsent = {}
local function send(channel)
  redis.call('PUBLISH', TO_WAITER .. channel, table.concat(unsent[channel].messages))
  unsent[channel] = nil
end
local function publish(channel, message)
  if unsent[channel] and unsent[channel].bytes + #message > PUBLISH_LIMIT_BYTES then send(channel) end
  local batch = unsent[channel] or { messages = {}, bytes = 0 }
  unsent[channel] = batch
  batch.messages[#batch.messages + 1] = message
  batch.bytes = batch.bytes + #message
end

local function settle(member, held, ended, registered)
  local id, attempt, status = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local job = redis.call('HMGET', JOB .. id, 'origin', 'failure_ttl', REPLY, CANCEL, STARTED_MS, KIND, ATTEMPT, CALLBACK_REQUEST, 'result_ttl')
  local queue = job[1]
  if not held or not queue then
    return job[6] and job[7] == attempt and 'already' or 'stale'
  end
  local ttl = status == 'finished' and success_ttl(job[9], job[2], job[3]) or tonumber(job[2]) or 3600
  local result = ARGV[at + 6]
  if string.byte(result) == STORED then
    if not keep_chunks(member, result, ttl) then
      redis.call('ZADD', LEASES, ms(now_ms + LEASE_MS), member)
      return 'unstored'
    end
    result = ''
  end
  finish(id, { status = status, kind = ARGV[at + 3], text = ARGV[at + 4], reply = job[3], ttl = ttl, result = result,
    logs = ARGV[at + 7], type = TYPES[status], field = status == 'finished' and 'return_value' or 'exc_string', value = ARGV[at + 5],
    worker = worker, attempt = attempt, request = job[8], publish = publish, started_s = string.format('%.3f', (tonumber(job[5]) or now_ms) / 1000) })
  if job[4] then redis.call('SREM', CANCELS .. worker, id) end
  local members, kept = list_of(ended, queue), list_of(registered, REGISTRY[status] .. queue)
  members[#members + 1] = member
  kept[#kept + 1], kept[#kept + 2] = now_s + ttl, id
  return 'ok'
end

-- Placements with a capped queue that may be claimed from again, since one of its jobs has ended.
local opened = {}

local function settle_all()
  local members, answers, ended, registered = {}, {}, {}, {}
  for i = at, #ARGV, 8 do members[#members + 1] = ARGV[i] .. ':' .. ARGV[i + 1] end
  if #members == 0 then return answers end
  local leases = redis.call('ZMSCORE', LEASES, unpack(members))
  redis.call('ZREM', LEASES, unpack(members))
  for i, member in ipairs(members) do
    answers[i] = settle(member, leases[i], ended, registered)
    at = at + 8
  end
  for channel in pairs(unsent) do send(channel) end
  redis.call('INCRBY', ENDED, #answers)
  for registry, items in pairs(registered) do redis.call('ZADD', registry, unpack(items)) end
  local capped = redis.call('EXISTS', CAPPED) == 1
  for queue, items in pairs(ended) do
    redis.call('ZREM', STARTED .. queue, unpack(items))
    if capped and reenter_ring(queue) then opened[placement_of(queue)] = true end
    if tonumber(step) % TRIM_EVERY == 0 then trim(queue, FINISHED) end
  end
  return answers
end

local answers = settle_all()

-- Claim.

local claims, ids, bytes, left = {}, {}, 0, 0

local function claim(id, queue, probe)
  local job = redis.call('HMGET', JOB .. id, 'status', ENVELOPE, 'data', QUEUED_MS, REPLY, ATTEMPT)
  if job[1] ~= 'queued' then return nil end
  -- Only the worker can verify the envelope. A damaged one is claimed, so that the worker reports
  -- it.
  local not_after = tonumber(string.match(job[2] or '', '^[^|]*|%d+|(%d+)|') or 0)
  if not_after > 0 and not_after <= now_ms then
    finish_unsigned(id, queue, 'expired', 0, 'not started before its deadline')
    return nil
  end
  local attempt = (tonumber(job[6]) or 0) + 1
  redis.call('HSET', JOB .. id, 'status', 'started', ATTEMPT, attempt, 'started_at', stamp(), STARTED_MS, NOW_MS, 'worker_name', worker)
  bytes = bytes + #(job[3] or '')
  claims[#claims + 1] = { id, attempt, job[2] or '', job[3] or '', math.max(0, now_ms - (tonumber(job[4]) or now_ms)),
    (job[5] and 1 or 0) + (probe and 2 or 0) }
  ids[#ids + 1] = id .. ':' .. attempt
  return id .. ':' .. attempt
end

local function note_claims(queue, taken)
  local noted = redis.call('LPUSH', CLAIM_HISTORY .. queue, NOW_MS .. ' ' .. taken)
  if noted == 1 then
    redis.call('EXPIRE', CLAIM_HISTORY .. queue, CLAIM_HISTORY_TTL_S)
  elseif noted > CLAIMS_KEPT + 128 then
    redis.call('LTRIM', CLAIM_HISTORY .. queue, 0, CLAIMS_KEPT - 1)
    redis.call('EXPIRE', CLAIM_HISTORY .. queue, CLAIM_HISTORY_TTL_S)
  end
end

-- Claim up to `share` jobs of one queue. Returns true if the queue keeps its place in the ring.
-- breaker: '0' while the function may not run; '1' while one probe at a time may, whose outcome
-- decides; false if it is closed
local function claim_from(queue, share, cap, breaker)
  if breaker then cap = math.min(cap or 1, tonumber(breaker)) end
  local allowed = share
  if cap then
    allowed = math.min(share, cap - redis.call('ZCARD', STARTED .. queue))
    if allowed <= 0 then
      redis.call('SADD', CAPPED, queue)
      return false
    end
  end
  local popped = redis.call('LPOP', QUEUE .. queue, allowed)
  if not popped then return false end
  local started, taken = {}, 0
  for _, id in ipairs(popped) do
    if bytes > CLAIM_LIMIT_BYTES then break end
    taken = taken + 1
    local member = claim(id, queue, breaker == '1')
    if member then
      started[#started + 1] = NEVER_S
      started[#started + 1] = member
    end
  end
  for i = #popped, taken + 1, -1 do redis.call('LPUSH', QUEUE .. queue, popped[i]) end
  left = left + taken
  if #started > 0 then redis.call('ZADD', STARTED .. queue, unpack(started)) end
  local emptied = taken == #popped and #popped < allowed
  -- The rate of an empty queue is not needed, and begin_queue discards its history anyway.
  if not emptied then note_claims(queue, taken) end
  return not emptied
end

-- Return the queues whose turn it is, over all placements of this worker, at most `want`.
local function due_queues(want)
  local due = {}
  for _, placement in ipairs(placements) do
    local members = redis.call('ZRANGE', RING .. placement, 0, want - 1, 'WITHSCORES')
    for i = 1, #members, 2 do due[#due + 1] = { members[i], tonumber(members[i + 1]), placement } end
  end
  if #placements > 1 then table.sort(due, function(a, b) return a[2] < b[2] end) end
  return due
end

-- Per placement: queues that stay move to the end of the ring in this order, the others leave it.
local function take_turns(again, gone, stay)
  if stay > 0 then
    local before = redis.call('INCRBY', TURN, stay) - stay
    for placement, turns in pairs(again) do
      for i = 1, #turns, 2 do turns[i] = before + turns[i] end
      redis.call('ZADD', RING .. placement, unpack(turns))
    end
  end
  for placement, queues in pairs(gone) do redis.call('ZREM', RING .. placement, unpack(queues)) end
end

local function claim_round(want)
  local due = due_queues(want)
  if #due == 0 then return false end
  local share = math.max(1, math.floor(want / #due))
  local names, count = {}, math.min(#due, want)
  for i = 1, count do
    names[i] = due[i][1]
    names[count + i] = '!' .. due[i][1]
  end
  local caps = redis.call('HMGET', CAPS, unpack(names))
  local again, gone, stay = {}, {}, 0
  for i = 1, count do
    local queue = names[i]
    if claim_from(queue, share, caps[i] and tonumber(caps[i]), caps[count + i]) then
      local turns = list_of(again, due[i][3])
      stay = stay + 1
      turns[#turns + 1], turns[#turns + 2] = stay, queue
    else
      local queues = list_of(gone, due[i][3])
      queues[#queues + 1] = queue
    end
  end
  take_turns(again, gone, stay)
  return true
end

-- Repeat the claims of a lost reply that are still held.
local function claims_again()
  for id, attempt in string.gmatch(known[2] or '', '(%S+):(%d+)') do
    if redis.call('ZSCORE', LEASES, id .. ':' .. attempt) then
      local job = redis.call('HMGET', JOB .. id, ENVELOPE, 'data', QUEUED_MS, REPLY, STARTED_MS, 'origin')
      local probe = redis.call('HGET', CAPS, '!' .. (job[6] or '')) == '1'
      claims[#claims + 1] = { id, tonumber(attempt), job[1] or '', job[2] or '',
        math.max(0, (tonumber(job[5]) or now_ms) - (tonumber(job[3]) or now_ms)), (job[4] and 1 or 0) + (probe and 2 or 0) }
    end
  end
end

-- Hand-offs that the worker has not seen yet will need some of the slots that it reports as free.
local room = free - math.max(0, (tonumber(known[3]) or 0) - seen)

-- With several workers, the prefetch is this worker's share of the queued jobs: the others may have
-- free slots for the rest.
local function share_of_queued()
  local workers = 1
  for _, placement in ipairs(placements) do workers = math.max(workers, redis.call('ZCARD', BEATS .. placement)) end
  if workers == 1 then return prefetch end
  local queued = tonumber(redis.call('GET', DEPTH) or 0) - math.max(0, room)
  return math.min(prefetch, math.ceil(math.max(0, queued) / workers))
end
if prefetch > 0 then prefetch = share_of_queued() end

local work_left = false
if known[1] == step then
  claims_again()
  work_left = true
elseif room + prefetch > 0 then
  work_left = true
  while #claims < room + prefetch and bytes <= CLAIM_LIMIT_BYTES do
    work_left = claim_round(room + prefetch - #claims)
    if not work_left then break end
  end
  if left > 0 then redis.call('DECRBY', DEPTH, left) end
  if #ids > 0 then
    local leases, until_ms = {}, ms(now_ms + LEASE_MS)
    for i, member in ipairs(ids) do
      leases[2 * i - 1] = until_ms
      leases[2 * i] = member
    end
    redis.call('ZADD', LEASES, unpack(leases))
  end
end
if known[1] ~= step then redis.call('HSET', WORKER .. worker, 'step', step, 'claims', table.concat(ids, ' ')) end

-- Park what stays idle.

local idle, parked = room - #claims, 0
for _, placement in ipairs(placements) do
  if idle > 0 and not work_left then
    redis.call('ZADD', PARKED .. placement, idle, worker)
    parked = 1
  else
    redis.call('ZREM', PARKED .. placement, worker)
    -- Another idle worker may not have been woken: this worker's wake-up, or a place under a cap,
    -- stood for more work than this worker could claim.
    if (work_left or opened[placement]) and redis.call('EXISTS', RING .. placement) == 1 then wake(placement) end
  end
end
return { answers, claims, parked }
