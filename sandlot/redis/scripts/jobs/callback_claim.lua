#!lua flags=allow-oom
-- Give a worker callbacks that are due, each with a lease.
-- ARGV: lease (ms), greatest number of callbacks
-- Returns { { { id, token, request, outcome record, ended_ms, tries, body }, … },
--   when the next is due in ms ('' for none), now in ms }, all on Redis's clock.
-- Not idempotent: a lost reply leaves its callbacks leased until the lease expires. The fencing
-- token (field 'take') then lets callback_finish.lua refuse the earlier holder.
local claimed = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', CALLBACKS, '-inf', now_ms, 'LIMIT', 0, tonumber(ARGV[2]))) do
  local found = redis.call('HMGET', CALLBACK .. id, 'order', 'end', 'ended_ms', 'tries', 'body')
  if found[1] and found[2] then
    redis.call('ZADD', CALLBACKS, ms(now_ms + tonumber(ARGV[1])), id)
    claimed[#claimed + 1] = { id, redis.call('HINCRBY', CALLBACK .. id, 'take', 1), found[1], found[2],
      found[3] or '0', found[4] or '0', found[5] or '' }
  else
    -- The hash has expired, after weeks without a worker that delivers.
    redis.call('ZREM', CALLBACKS, id)
  end
end
return { claimed, redis.call('ZRANGE', CALLBACKS, 0, 0, 'WITHSCORES')[2] or '', NOW_MS }
