#!lua flags=allow-oom
-- One worker's turn: record how its executions ended, then claim as many jobs as it has free slots, and park what stays idle.
-- ARGV: worker, step number, free slots, jobs it may claim beyond these (both 0: claim nothing and unpark), hand-offs seen (-1: count anew), number of placements,
--       placements…, then per execution: id, attempt, RQ status, kind, signed end, result-stream value, raw result ('@' and a number: it is stored
--       in so many pieces), logs
-- -> { { 'ok' | 'already' | 'stale' | 'unstored' (the pieces are gone: nothing was recorded, the lease holds), … }, { { id, attempt, envelope, data, queued_ms, 1 if it has a waiter + 2 if it is a probe }, … }, 1 if its idle slots are parked }
-- A step sent again (its reply was lost) settles nothing twice and returns the same claims.
local worker, step, free, ahead, seen = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local placements, at = {}, 7
for i = 1, tonumber(ARGV[6]) do
  placements[i] = ARGV[at]
  at = at + 1
end
-- Enough for a full batch of ordinary jobs; one reply must not hold a thousand events of 6 MiB.
local CLAIM_LIMIT_BYTES = 8388608

local known = redis.call('HMGET', WORKER .. worker, 'step', 'claims', 'given')
if seen < 0 then
  redis.call('HSET', WORKER .. worker, 'given', 0)
  known[3] = 0
  seen = 0
end

-- Settle: per job what concerns it alone, for all together what can be said in one command.

local TYPES = { finished = 1, failed = 2, canceled = 3 }
-- One step in so many trims the registries it has written to, so that one job at a time does not pay for it each time.
local TRIM_EVERY = 16

local function list_of(lists, key)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  return list
end

-- What goes to one API process goes in one message, as long as it is no larger than a single one may be.
local told = {}
local function send(channel)
  redis.call('PUBLISH', TO_WAITER .. channel, table.concat(told[channel].messages))
  told[channel] = nil
end
local function tell(channel, message)
  if told[channel] and told[channel].bytes + #message > PUBLISH_LIMIT_BYTES then send(channel) end
  local waiter = told[channel] or { messages = {}, bytes = 0 }
  told[channel] = waiter
  waiter.messages[#waiter.messages + 1] = message
  waiter.bytes = waiter.bytes + #message
end

local function settle(member, held, ended, registered)
  local id, attempt, status = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local job = redis.call('HMGET', JOB .. id, 'origin', 'failure_ttl', REPLY, CANCEL, STARTED_MS, KIND, ATTEMPT, ORDER, 'result_ttl')
  local queue = job[1]
  if not held or not queue then
    return job[6] and job[7] == attempt and 'already' or 'stale'
  end
  local ttl = status == 'finished' and life_of_success(job[9], job[2], job[3]) or tonumber(job[2]) or 3600
  local result = ARGV[at + 6]
  if string.byte(result) == STORED then
    if not keep_result(member, result, ttl) then
      redis.call('ZADD', LEASES, ms(now_ms + LEASE_MS), member)
      return 'unstored'
    end
    result = ''
  end
  finish(id, { status = status, kind = ARGV[at + 3], text = ARGV[at + 4], reply = job[3], ttl = ttl, result = result,
    logs = ARGV[at + 7], type = TYPES[status], field = status == 'finished' and 'return_value' or 'exc_string', value = ARGV[at + 5],
    worker = worker, attempt = attempt, order = job[8], tell = tell, started_s = string.format('%.3f', (tonumber(job[5]) or now_ms) / 1000) })
  if job[4] then redis.call('SREM', CANCELS .. worker, id) end
  local members, kept = list_of(ended, queue), list_of(registered, REGISTRY[status] .. queue)
  members[#members + 1] = member
  kept[#kept + 1], kept[#kept + 2] = now_s + ttl, id
  return 'ok'
end

-- Placements with a queue that may be claimed from again, since one of its jobs has ended.
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
  for channel in pairs(told) do send(channel) end
  redis.call('INCRBY', ENDED, #answers)
  for registry, items in pairs(registered) do redis.call('ZADD', registry, unpack(items)) end
  local capped = redis.call('EXISTS', CAPPED) == 1
  for queue, items in pairs(ended) do
    redis.call('ZREM', STARTED .. queue, unpack(items))
    if capped and make_room(queue) then opened[placement_of(queue)] = true end
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
  -- The envelope's signature is the worker's to check; a damaged one is claimed, so that the worker can say so.
  local not_after = tonumber(string.match(job[2] or '', '^[^|]*|%d+|(%d+)|') or 0)
  if not_after > 0 and not_after <= now_ms then
    finish_unseen(id, queue, 'expired', 0, 'not started before its deadline')
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

local function note_taken(queue, taken)
  local noted = redis.call('LPUSH', TAKEN .. queue, NOW_MS .. ' ' .. taken)
  if noted == 1 then
    redis.call('EXPIRE', TAKEN .. queue, TAKEN_TTL_S)
  elseif noted > CLAIMS_KEPT + 128 then
    redis.call('LTRIM', TAKEN .. queue, 0, CLAIMS_KEPT - 1)
    redis.call('EXPIRE', TAKEN .. queue, TAKEN_TTL_S)
  end
end

-- Up to `share` jobs of one queue. Returns true when the queue keeps its place in the ring.
-- breaker: '0' while its function may not run, '1' while it may run once at a time, and how that ends decides
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
  -- Of an empty queue nobody asks how fast its places come free, and when it begins anew this is forgotten (begin_queue).
  if not emptied then note_taken(queue, taken) end
  return not emptied
end

-- The queues whose turn it is, over all placements of this worker, at most `want`.
local function due_queues(want)
  local due = {}
  for _, placement in ipairs(placements) do
    local members = redis.call('ZRANGE', RING .. placement, 0, want - 1, 'WITHSCORES')
    for i = 1, #members, 2 do due[#due + 1] = { members[i], tonumber(members[i + 1]), placement } end
  end
  if #placements > 1 then table.sort(due, function(a, b) return a[2] < b[2] end) end
  return due
end

-- By placement: those that keep their place go to the end of the ring in this order, the others leave it.
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

-- What the lost reply said: those of its claims that are still held.
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

-- Jobs handed over but not yet seen by the worker will need some of the slots it believes to be free.
local room = free - math.max(0, (tonumber(known[3]) or 0) - seen)

-- With others at work, what is claimed ahead is this worker's share of what is queued: the rest is theirs, who may have slots free for it.
local function share_of_queued()
  local workers = 1
  for _, placement in ipairs(placements) do workers = math.max(workers, redis.call('ZCARD', BEATS .. placement)) end
  if workers == 1 then return ahead end
  local queued = tonumber(redis.call('GET', DEPTH) or 0) - math.max(0, room)
  return math.min(ahead, math.ceil(math.max(0, queued) / workers))
end
if ahead > 0 then ahead = share_of_queued() end

local work_left = false
if known[1] == step then
  claims_again()
  work_left = true
elseif room + ahead > 0 then
  work_left = true
  while #claims < room + ahead and bytes <= CLAIM_LIMIT_BYTES do
    work_left = claim_round(room + ahead - #claims)
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
    -- Whoever else is idle may have been woken by nobody: this worker's wake-up, or a place under a cap, was for more work than it could take.
    if (work_left or opened[placement]) and redis.call('EXISTS', RING .. placement) == 1 then wake(placement) end
  end
end
return { answers, claims, parked }
