#!lua flags=allow-oom
-- Keep the outcome of a job whose caller waited and did not get it as long as if there had been no
-- wait.
-- ARGV: id
-- Returns 1 if its time to live was, or would have been, the shorter one; 0 if there is nothing to
-- change or nothing left to keep.
-- Idempotent.
local key = JOB .. ARGV[1]
local job = redis.call('HMGET', key, 'result_ttl', 'failure_ttl', 'status', ENDED_MS, 'origin', ATTEMPT)
local shorter, longer = tonumber(job[1]), tonumber(job[2])
if not shorter or not longer or shorter >= longer then return 0 end
redis.call('HSET', key, 'result_ttl', longer)
if job[3] ~= 'finished' then return 1 end
local until_s = math.floor((tonumber(job[4]) or now_ms) / 1000) + longer
for _, each in ipairs({ key, RESULTS .. ARGV[1], LOGS .. ARGV[1], RESULT .. ARGV[1] .. ':' .. (job[6] or '') }) do
  redis.call('EXPIREAT', each, until_s)
end
redis.call('ZADD', FINISHED .. job[5], 'XX', until_s, ARGV[1])
return 1
