-- Give a worker one unclaimed build, with a lease on Redis's clock.
--
-- KEYS: builds of each placement that the worker serves
-- ARGV: lease (ms), build prefix, function prefix, then per key how long a build must have waited
--   (ms)
-- Returns {digest, attempt, index of its key, function, number}, or {}. The attempt is the fencing
-- token for build_heartbeat.lua and build_finish.lua.
local time = redis.call('TIME')
local now_ms = math.floor(time[1] * 1000 + time[2] / 1000)

for index, key in ipairs(KEYS) do
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now_ms - tonumber(ARGV[3 + index]), 'LIMIT', 0, 10)) do
    local fields = redis.call('HGETALL', ARGV[2] .. digest)
    for i = 1, #fields, 2 do
      if string.sub(fields[i], 1, 1) == 'w' then
        local name, number = string.sub(fields[i], 2), fields[i + 1]
        if redis.call('HEXISTS', ARGV[3] .. name, 'p' .. number) == 1 then
          redis.call('ZADD', key, now_ms + tonumber(ARGV[1]), digest)
          return {digest, redis.call('HINCRBY', ARGV[2] .. digest, 'attempt', 1), index, name, tonumber(number)}
        end
      end
    end
    -- No function waits for this build any longer.
    redis.call('ZREM', key, digest)
    redis.call('DEL', ARGV[2] .. digest)
  end
end
return {}
