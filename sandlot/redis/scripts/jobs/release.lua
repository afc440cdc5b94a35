#!lua flags=allow-oom
-- Give jobs back unfinished. Their attempts do not count.
-- ARGV: delay in ms before they may be claimed again (0: now, at the front), then
--   `<job>:<attempt>`…
-- Returns how many were still this worker's.
-- Idempotent: a released lease is gone, and a repetition skips it.
local delay_ms, released = tonumber(ARGV[1]), 0
-- A platform that has failed this often on one job will not recover with one more try. (Without a
-- delay the job was not even started.)
local RELEASE_LIMIT = 30
local placements = {}
-- From the last to the first: each goes to the front, so they keep their order.
for i = #ARGV, 2, -1 do
  local id, attempt = string.match(ARGV[i], '^(.*):(%d+)$')
  if redis.call('ZREM', LEASES, ARGV[i]) == 1 then
    released = released + 1
    local job = redis.call('HMGET', JOB .. id, 'status', 'origin', CANCEL)
    if job[2] then redis.call('ZREM', STARTED .. job[2], ARGV[i]) end
    if job[1] == 'started' then
      local queue = job[2]
      local times = redis.call('HINCRBY', JOB .. id, RELEASED, 1)
      placements[placement_of(queue)] = true
      reenter_ring(queue)
      if job[3] then
        finish_unsigned(id, queue, 'cancelled', tonumber(attempt), 'cancelled while its worker stopped')
      elseif delay_ms > 0 and times > RELEASE_LIMIT then
        finish_unsigned(id, queue, 'worker_lost', tonumber(attempt), 'no worker could start it, ' .. times .. ' times in a row')
      elseif delay_ms > 0 then
        redis.call('HSET', JOB .. id, 'status', 'scheduled')
        redis.call('ZADD', SCHEDULED .. queue, math.floor((now_ms + delay_ms) / 1000), id)
        redis.call('ZADD', DUE, ms(now_ms + delay_ms), id)
      else
        redis.call('HSET', JOB .. id, 'status', 'queued')
        push(id, queue, true)
      end
    end
  end
end
for placement in pairs(placements) do wake(placement) end
return released
