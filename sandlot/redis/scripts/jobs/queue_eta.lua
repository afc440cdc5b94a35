#!lua flags=no-writes
-- How a queued job stands: how many are before it, and when it may be over if its queue goes on as it does.
-- ARGV: queue, id, behind how many it is not looked for (LPOS walks the list)
-- -> { how many are before it (-1: it is not among the first), in how many ms it may be over (-1: nobody knows) }
local queue = ARGV[1]
local position = redis.call('LPOS', QUEUE .. queue, ARGV[2], 'MAXLEN', ARGV[3])
if not position then return { -1, -1 } end
local ttls = redis.call('HMGET', JOB .. ARGV[2], 'result_ttl', 'failure_ttl')
local each_ms, running = place_ms(queue, { ttls[1] or 3600, ttls[2] or 3600 })
-- Claimed with the place after those before it; over when those that run beside it would have been, had they begun then.
return { position, each_ms and math.ceil((position + 1 + running) * each_ms) or -1 }
