#!lua flags=allow-oom
-- End what waits of a function that is no more, queued or scheduled; what runs goes on.
-- ARGV: function, how many jobs at most
-- -> how many were taken out: as many as allowed means that there may be more
local prefix, limit, taken = QUEUE .. ARGV[1] .. '@', tonumber(ARGV[2]), 0

local function withdraw(id, queue)
  local job = redis.call('HMGET', JOB .. id, 'status', ATTEMPT)
  -- Others are passed over as a claim would: a cancelled job may be left in a long list.
  if job[1] == 'queued' or job[1] == 'scheduled' then
    finish_unseen(id, queue, 'cancelled', tonumber(job[2]) or 0, 'its function was removed before it started')
  end
  taken = taken + 1
end

for _, key in ipairs(redis.call('SMEMBERS', QUEUES)) do
  if taken < limit and string.sub(key, 1, #prefix) == prefix then
    local queue = string.sub(key, #QUEUE + 1)
    local ids = redis.call('LPOP', key, limit - taken) or {}
    if #ids > 0 then redis.call('DECRBY', DEPTH, #ids) end
    for _, id in ipairs(ids) do withdraw(id, queue) end
    for _, id in ipairs(redis.call('ZRANGE', SCHEDULED .. queue, 0, limit - taken - 1)) do
      redis.call('ZREM', SCHEDULED .. queue, id)
      redis.call('ZREM', DUE, id)
      withdraw(id, queue)
    end
  end
end
return taken
