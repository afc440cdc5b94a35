#!lua flags=allow-oom
-- Record the result of one try to deliver a callback.
-- ARGV: id, token, 'delivered' | 'failed' | '' (try again), pause before the next try in ms, tries
--   so far, status of the last reply ('' for none), reason of the failure ('' for none), body that
--   was sent ('' if none was), how long the result is kept (s)
-- Returns 1, or 0 if another worker has the callback now or this was recorded before.
-- Idempotent: a recorded try changes the token or sets the state, so that a repetition returns 0.
local id, token, state = ARGV[1], ARGV[2], ARGV[3]
local key = CALLBACK .. id
local known = redis.call('HMGET', key, 'take', 'state')
if known[1] ~= token or known[2] or not redis.call('ZSCORE', CALLBACKS, id) then return 0 end
redis.call('HSET', key, 'tries', ARGV[5], 'status', ARGV[6], 'reason', ARGV[7])
if state == '' then
  if ARGV[8] ~= '' then redis.call('HSET', key, 'body', ARGV[8]) end
  -- Invalidate the token: a repetition of this call must not schedule another try.
  redis.call('HINCRBY', key, 'take', 1)
  redis.call('ZADD', CALLBACKS, ms(now_ms + tonumber(ARGV[4])), id)
else
  redis.call('ZREM', CALLBACKS, id)
  redis.call('HSET', key, 'state', state)
  redis.call('HDEL', key, 'order', 'end', 'body')
  redis.call('EXPIRE', key, tonumber(ARGV[9]))
end
return 1
