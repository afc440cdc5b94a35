#!lua
-- Register one more waiter for a job's outcome.
-- ARGV: id, the waiter's channel
-- Returns 1 if the outcome will be published to it, 0 if there is no such job or it has ended.
-- Idempotent: a channel that is registered already is not added twice.
local job = redis.call('HMGET', JOB .. ARGV[1], 'status', KIND, REPLY)
if not job[1] or job[2] then return 0 end
if not string.find(job[3] or '', ARGV[2], 1, true) then
  redis.call('HSET', JOB .. ARGV[1], REPLY, (job[3] and job[3] .. ' ' or '') .. ARGV[2])
end
return 1
