#!lua flags=allow-oom
-- Schedule another attempt or record the outcome, and update the function's breaker. For outcomes
-- that may be retried, are crashes, or come from a probe; settle_and_claim.lua records all others.
-- The retry decision has three parts: the policy is in the function's manifest
-- (sandlot/functions/manifest.py) and travels in the signed envelope; the worker decides whether it
-- covers this kind of outcome (worker/engine/recording.py); this script decides with what only
-- Redis knows: attempts used, releases, age, deadline and cancellation. take_back in prelude.lua
-- decides alone when the worker is lost.
-- ARGV: worker, id, attempt, RQ status, outcome kind, signed outcome record, value for RQ's result
--   stream, raw result, logs, attempts allowed after such an outcome (0: no retry), pause before
--   the second attempt in ms, thousandths of the random half of the pause, greatest age in ms (0:
--   any), 1 if it crashed, 1 if it was a probe
-- Returns 'ok' (recorded) | 'again' (scheduled) | 'already' | 'stale' | 'unstored' (see
--   settle_and_claim.lua).
-- Idempotent: the lease is gone after the first call, and the recorded attempt tells a repetition
-- what the first call did. Times are Redis's.
local worker, id, attempt, status, kind, text = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local attempts, backoff_ms, jitter, max_age_ms = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local crashed, probe = ARGV[14] == '1', ARGV[15] == '1'
local TYPES = { finished = 1, failed = 2, canceled = 3 }
local PAUSE_LIMIT_MS = 3600000

local member = id .. ':' .. attempt
local job = redis.call('HMGET', JOB .. id, 'origin', 'failure_ttl', REPLY, CANCEL, STARTED_MS, KIND, ATTEMPT, RELEASED, ENVELOPE, QUEUED_MS, FAILURE, CALLBACK_REQUEST,
  'result_ttl')
local queue = job[1]
if redis.call('ZREM', LEASES, member) == 0 or not queue then
  if string.match(job[11] or '', '^%S+ {"kind":"[^"]*","attempt":(%d+)') == attempt then return 'again' end
  return job[6] and job[7] == attempt and 'already' or 'stale'
end
local life = status == 'finished' and success_ttl(job[13], job[2], job[3]) or tonumber(job[2]) or 3600
local result = ARGV[8]
if string.byte(result) == STORED then
  if not keep_chunks(member, result, life) then
    redis.call('ZADD', LEASES, ms(now_ms + LEASE_MS), member)
    return 'unstored'
  end
  result = ''
end
redis.call('ZREM', STARTED .. queue, member)
if job[4] then redis.call('SREM', CANCELS .. worker, id) end

-- Return the pause in ms before the next attempt, or nil for none. Released attempts do not count.
local function pause()
  local used = tonumber(attempt) - (tonumber(job[8]) or 0)
  if used >= attempts or job[4] then return nil end
  local longest = math.min(backoff_ms * 2 ^ (used - 1), PAUSE_LIMIT_MS)
  local pause_ms = math.floor(longest / 2 + longest / 2 * jitter / 1000)
  local not_after = tonumber(string.match(job[9] or '', '^[^|]*|%d+|(%d+)|') or 0)
  if not_after > 0 and now_ms + pause_ms >= not_after then return nil end
  if too_old(job[10], max_age_ms, pause_ms) then return nil end
  return pause_ms
end

local function run_again(pause_ms)
  redis.call('HSET', JOB .. id, 'status', 'scheduled', FAILURE, text)
  redis.call('ZADD', SCHEDULED .. queue, math.floor((now_ms + pause_ms) / 1000), id)
  redis.call('ZADD', DUE, ms(now_ms + pause_ms), id)
  redis.call('HINCRBY', REQUEUES, kind, 1)
  local ttl = tonumber(job[2]) or 3600
  if ARGV[9] ~= '' then redis.call('SET', LOGS .. id, ARGV[9], 'EX', ttl + math.ceil(pause_ms / 1000)) end
end

local function record()
  local ttl = attempts > 0 and not job[4] and keep_dead_letter(id, life) or life
  finish(id, { status = status, kind = kind, text = text, reply = job[3], ttl = ttl, result = result, logs = ARGV[9], type = TYPES[status],
    field = status == 'finished' and 'return_value' or 'exc_string', value = ARGV[7], worker = worker, attempt = attempt, request = job[12],
    started_s = string.format('%.3f', (tonumber(job[5]) or now_ms) / 1000) })
  redis.call('INCR', ENDED)
  redis.call('ZADD', REGISTRY[status] .. queue, now_s + ttl, id)
end

-- The breaker counts the crashes of all versions together. A deploy closes it (close_breaker.lua).
local CRASH_LIMIT, CRASH_WINDOW_MS, FIRST_REST_MS, LONGEST_REST_MS = 5, 60000, 10000, 300000

local function open_breaker(times)
  local rest_ms = math.min(FIRST_REST_MS * 2 ^ (times - 1), LONGEST_REST_MS)
  redis.call('HSET', BREAKERS, queue, ms(now_ms + rest_ms) .. ' ' .. times)
  redis.call('HSET', CAPS, '!' .. queue, 0)
  redis.call('DEL', CRASHES .. queue)
  redis.call('PUBLISH', BREAKERS_CHANGED, '+ ' .. queue)
end

local function count_crash()
  local until_ms, times = string.match(redis.call('HGET', BREAKERS, queue) or '', '^(%d+) (%d+)$')
  if until_ms then
    -- Runs that had started before the breaker opened add nothing.
    if tonumber(until_ms) <= now_ms then open_breaker(tonumber(times) + 1) end
    return
  end
  local count = redis.call('LPUSH', CRASHES .. queue, NOW_MS)
  redis.call('PEXPIRE', CRASHES .. queue, CRASH_WINDOW_MS)
  if count < CRASH_LIMIT then return end
  redis.call('LTRIM', CRASHES .. queue, 0, CRASH_LIMIT - 1)
  if now_ms - tonumber(redis.call('LINDEX', CRASHES .. queue, -1)) <= CRASH_WINDOW_MS then open_breaker(1) end
end

if crashed then
  count_crash()
elseif probe and kind ~= 'cancelled' then
  close_breaker(queue)
end

local pause_ms = pause()
if pause_ms then run_again(pause_ms) else record() end
if reenter_ring(queue) then wake(placement_of(queue)) end
return pause_ms and 'again' or 'ok'
