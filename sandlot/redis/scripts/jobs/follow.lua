#!lua flags=allow-oom
-- Somebody watches jobs: their ends are to be published to them, and their workers are asked, for the next seconds, to say what is printed.
-- ARGV: waiter's channel, ids…
-- -> for each { RQ status, outcome kind or '', attempt }, or nothing if there is no such job
local channel, seen = ARGV[1], {}
for i = 2, #ARGV do
  local id = ARGV[i]
  -- One record that is no hash any more is no reason to say nothing of the others.
  local job = redis.pcall('HMGET', JOB .. id, 'status', KIND, ATTEMPT, REPLY, 'worker_name')
  if job.err or not job[1] then
    seen[i - 1] = false
  else
    if not job[2] then
      if not string.find(job[4] or '', channel, 1, true) then
        redis.call('HSET', JOB .. id, REPLY, (job[4] and job[4] .. ' ' or '') .. channel)
      end
      if job[1] == 'started' and job[5] then redis.call('PUBLISH', TO_WORKER .. job[5], 'L ' .. id .. ' ' .. channel) end
    end
    seen[i - 1] = { job[1], job[2] or '', tonumber(job[3] or 0) }
  end
end
return seen
