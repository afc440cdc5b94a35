#!lua flags=allow-oom
-- Poll jobs that an API process follows. Their outcomes will be published to it, and their workers
-- are asked to stream their logs for the next seconds.
-- ARGV: the process's channel, ids…
-- Returns for each { RQ status, outcome kind or '', attempt }, or false if there is no such job.
-- Idempotent.
local channel, found = ARGV[1], {}
for i = 2, #ARGV do
  local id = ARGV[i]
  -- pcall: a key that is not a hash must not hide the other jobs.
  local job = redis.pcall('HMGET', JOB .. id, 'status', KIND, ATTEMPT, REPLY, 'worker_name')
  if job.err or not job[1] then
    found[i - 1] = false
  else
    if not job[2] then
      if not string.find(job[4] or '', channel, 1, true) then
        redis.call('HSET', JOB .. id, REPLY, (job[4] and job[4] .. ' ' or '') .. channel)
      end
      if job[1] == 'started' and job[5] then redis.call('PUBLISH', TO_WORKER .. job[5], 'L ' .. id .. ' ' .. channel) end
    end
    found[i - 1] = { job[1], job[2] or '', tonumber(job[3] or 0) }
  end
end
return found
