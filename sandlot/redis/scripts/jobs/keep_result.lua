#!lua flags=allow-oom
-- A caller waited for this job and was not given its end: keep that for as long as if nobody had waited.
-- ARGV: id
-- -> 1 if it would have been, or is, kept shorter; 0 if there is nothing to do, or nothing left to keep
local key = JOB .. ARGV[1]
local job = redis.call('HMGET', key, 'result_ttl', 'failure_ttl', 'status', ENDED_MS, 'origin', ATTEMPT)
local shorter, longer = tonumber(job[1]), tonumber(job[2])
if not shorter or not longer or shorter >= longer then return 0 end
redis.call('HSET', key, 'result_ttl', longer)
if job[3] ~= 'finished' then return 1 end
local until_s = math.floor((tonumber(job[4]) or now_ms) / 1000) + longer
for _, each in ipairs({ key, RESULTS .. ARGV[1], LOGS .. ARGV[1], RESULT .. ARGV[1] .. ':' .. (job[6] or '') }) do redis.call('EXPIREAT', each, until_s) end
redis.call('ZADD', FINISHED .. job[5], 'XX', until_s, ARGV[1])
return 1
