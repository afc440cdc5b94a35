#!lua
-- Ask for a job's end to be published to one more waiter.
-- ARGV: id, waiter's channel
-- -> 1 if it will be, 0 if there is no such job or it has ended
local job = redis.call('HMGET', JOB .. ARGV[1], 'status', KIND, REPLY)
if not job[1] or job[2] then return 0 end
if not string.find(job[3] or '', ARGV[2], 1, true) then
  redis.call('HSET', JOB .. ARGV[1], REPLY, (job[3] and job[3] .. ' ' or '') .. ARGV[2])
end
return 1
