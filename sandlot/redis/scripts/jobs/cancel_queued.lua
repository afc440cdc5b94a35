#!lua flags=allow-oom
-- Cancel the queued and scheduled jobs of a function that was removed. Running jobs go on.
-- ARGV: function, greatest number of jobs
-- Returns how many were removed from their queues; 0 means that none is left.
-- Repeating it is safe: it goes on with the jobs that are left.
local prefix, limit, removed = QUEUE .. ARGV[1] .. '@', tonumber(ARGV[2]), 0

local function cancel(id, queue)
  local job = redis.call('HMGET', JOB .. id, 'status', ATTEMPT)
  -- Any other status is skipped as a claim skips it: cancel.lua leaves cancelled jobs in a long
  -- list.
  if job[1] == 'queued' or job[1] == 'scheduled' then
    finish_unsigned(id, queue, 'cancelled', tonumber(job[2]) or 0, 'its function was removed before it started')
  end
  removed = removed + 1
end

for _, key in ipairs(redis.call('SMEMBERS', QUEUES)) do
  if removed < limit and string.sub(key, 1, #prefix) == prefix then
    local queue = string.sub(key, #QUEUE + 1)
    local ids = redis.call('LPOP', key, limit - removed) or {}
    if #ids > 0 then redis.call('DECRBY', DEPTH, #ids) end
    for _, id in ipairs(ids) do cancel(id, queue) end
    for _, id in ipairs(redis.call('ZRANGE', SCHEDULED .. queue, 0, limit - removed - 1)) do
      redis.call('ZREM', SCHEDULED .. queue, id)
      redis.call('ZREM', DUE, id)
      cancel(id, queue)
    end
  end
end
return removed
