#!lua flags=allow-oom
-- A worker gives jobs back that it has not finished and will not: the attempt is not counted.
-- ARGV: delay in ms before they may be claimed again (0: now, at the front), then `<job>:<attempt>`…
-- -> how many were still its own
local delay_ms, released = tonumber(ARGV[1]), 0
-- A platform that fails this often on one job will not heal by trying it once more. (Without a delay it has not even been tried.)
local RELEASE_LIMIT = 30
local placements = {}
-- From the last to the first, since each goes to the front: so they keep their order.
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
      make_room(queue)
      if job[3] then
        finish_unseen(id, queue, 'cancelled', tonumber(attempt), 'cancelled while its worker stopped')
      elseif delay_ms > 0 and times > RELEASE_LIMIT then
        finish_unseen(id, queue, 'worker_lost', tonumber(attempt), 'no worker could start it, ' .. times .. ' times in a row')
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
