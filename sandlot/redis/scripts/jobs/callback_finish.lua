#!lua flags=allow-oom
-- What came of a worker's try to deliver a callback.
-- ARGV: id, take, 'delivered' | 'failed' | '' (it is to be tried again), in how many ms again, tries so far, status of the last answer ('' for none),
--       why it is not delivered ('' if it is), body that was sent ('' if none was), for how long what came of it is kept (s)
-- -> 1, or 0 if it was given to another worker meanwhile, or this was recorded before
local id, take, state = ARGV[1], ARGV[2], ARGV[3]
local key = CALLBACK .. id
local known = redis.call('HMGET', key, 'take', 'state')
if known[1] ~= take or known[2] or not redis.call('ZSCORE', CALLBACKS, id) then return 0 end
redis.call('HSET', key, 'tries', ARGV[5], 'status', ARGV[6], 'reason', ARGV[7])
if state == '' then
  if ARGV[8] ~= '' then redis.call('HSET', key, 'body', ARGV[8]) end
  -- Nothing that is said with this take later counts: a reply that was lost is asked for anew.
  redis.call('HINCRBY', key, 'take', 1)
  redis.call('ZADD', CALLBACKS, ms(now_ms + tonumber(ARGV[4])), id)
else
  redis.call('ZREM', CALLBACKS, id)
  redis.call('HSET', key, 'state', state)
  redis.call('HDEL', key, 'order', 'end', 'body')
  redis.call('EXPIRE', key, tonumber(ARGV[9]))
end
return 1
