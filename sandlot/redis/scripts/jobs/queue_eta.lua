#!lua flags=no-writes
-- Estimate when a queued job will have ended if its queue goes on at the present rate.
-- ARGV: queue, id, how many jobs to search (LPOS is O(N), redis.io)
-- Returns { jobs ahead of it (-1: not among those searched), ms until it may have ended (-1:
--   unknown) }.
local queue = ARGV[1]
local position = redis.call('LPOS', QUEUE .. queue, ARGV[2], 'MAXLEN', ARGV[3])
if not position then return { -1, -1 } end
local ttls = redis.call('HMGET', JOB .. ARGV[2], 'result_ttl', 'failure_ttl')
local each_ms, running = place_ms(queue, { ttls[1] or 3600, ttls[2] or 3600 })
-- It is claimed with the first place after those ahead of it. It has ended when the jobs that run
-- beside it would have, had they begun then.
return { position, each_ms and math.ceil((position + 1 + running) * each_ms) or -1 }
