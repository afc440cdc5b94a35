#!lua flags=allow-oom
-- Renew all leases of a worker, its RQ registration and its placements.
-- ARGV: worker, state, successes, failures, working seconds, registration's TTL in s, free slots,
--   slots, busy slots, number of placements, placements…, then the leases that it believes to hold,
--   `<job>:<attempt>`
-- Returns { leases that are no longer its own, jobs to cancel, 1 if it should claim, 1 if RQ's
--   registration is gone, 1 if a queue of its placements has work }.
-- Idempotent. Leases are counted on Redis's clock only.
local worker, free, count = ARGV[1], tonumber(ARGV[7]), tonumber(ARGV[10])
local registration = RQ_WORKER .. worker
local gone = redis.call('EXISTS', registration) == 0
if not gone then
  redis.call('HSET', registration, 'last_heartbeat', stamp(), 'state', ARGV[2], 'successful_job_count', ARGV[3],
    'failed_job_count', ARGV[4], 'total_working_time', ARGV[5])
  redis.call('EXPIRE', registration, ARGV[6])
end

local placements, should_claim, waits = {}, 0, 0
for i = 1, count do
  local placement = ARGV[10 + i]
  placements[i] = placement
  redis.call('SADD', PLACEMENTS, placement)
  redis.call('ZADD', BEATS .. placement, ms(now_ms), worker)
  -- Only this check finds that the parked slots are gone (Redis restarted, or a reaper took this
  -- worker for dead).
  local work = redis.call('EXISTS', RING .. placement) == 1
  if work then waits = 1 end
  if free > 0 and (work or not redis.call('ZSCORE', PARKED .. placement, worker)) then
    should_claim = 1
  end
end
redis.call('HSET', WORKER .. worker, 'placements', table.concat(placements, ' '), 'alive', 1, 'slots', ARGV[8], 'busy', ARGV[9])
redis.call('EXPIRE', WORKER .. worker, ARGV[6])

-- One command per 1,000 leases. XX updates only members that still exist (ZADD, redis.io).
local lost, first = {}, 11 + count
for from = first, #ARGV, 1000 do
  local renewed, last = {}, math.min(from + 999, #ARGV)
  for i = from, last do
    renewed[#renewed + 1] = ms(now_ms + LEASE_MS)
    renewed[#renewed + 1] = ARGV[i]
  end
  redis.call('ZADD', LEASES, 'XX', unpack(renewed))
  local scores = redis.call('ZMSCORE', LEASES, unpack(ARGV, from, last))
  for i = from, last do
    if not scores[i - from + 1] then lost[#lost + 1] = ARGV[i] end
  end
end
return { lost, redis.call('SMEMBERS', CANCELS .. worker), should_claim, gone and 1 or 0, waits }
