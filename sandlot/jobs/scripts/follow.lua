#!lua flags=allow-oom
-- Somebody watches a job: its end is to be published to them, and its worker is asked, for the next seconds, to say what is printed.
-- ARGV: id, waiter's channel
-- -> { RQ status, outcome kind or '', attempt }, or nothing if there is no such job
local job = redis.call('HMGET', JOB .. ARGV[1], 'status', KIND, ATTEMPT, REPLY, 'worker_name')
if not job[1] then return false end
if not job[2] then
  if not string.find(job[4] or '', ARGV[2], 1, true) then
    redis.call('HSET', JOB .. ARGV[1], REPLY, (job[4] and job[4] .. ' ' or '') .. ARGV[2])
  end
  if job[1] == 'started' and job[5] then redis.call('PUBLISH', TO_WORKER .. job[5], 'L ' .. ARGV[1] .. ' ' .. ARGV[2]) end
end
return { job[1], job[2] or '', tonumber(job[3] or 0) }
