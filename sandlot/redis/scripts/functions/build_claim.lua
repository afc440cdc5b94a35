-- Give a worker one unclaimed build, with a lease on Redis's clock.
--
-- The build that has waited longest comes first. Builds of owners that this worker builds for
-- already are left out, so that each free lane serves another owner. A build that several functions
-- wait for counts for any of their owners.
--
-- KEYS: builds of each placement that the worker serves
-- ARGV: lease (ms), build prefix, function prefix, then per key how long a build must have waited
--   (ms), then '1' for builds that may run code of packages, '0' for the others, '' for any, then
--   the owners to leave out
-- Returns {digest, attempt, index of its key, function, number, owner}, or {}. The attempt is the
-- fencing token for build_heartbeat.lua and build_finish.lua.
local PAGE = 100
local time = redis.call('TIME')
local now_ms = math.floor(time[1] * 1000 + time[2] / 1000)
local wanted = ARGV[4 + #KEYS] or ''
local busy = {}
for i = 5 + #KEYS, #ARGV do busy[ARGV[i]] = true end

-- Returns function, number and owner, and whether any function waits for the build at all.
local function choose(digest)
  local fields, owners, waiting = redis.call('HGETALL', ARGV[2] .. digest), {}, false
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 1) == 'o' then owners[string.sub(fields[i], 2)] = fields[i + 1] end
  end
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 1) == 'w' then
      local name, number = string.sub(fields[i], 2), fields[i + 1]
      local record = redis.call('HGET', ARGV[3] .. name, 'p' .. number)
      if record then
        waiting = true
        -- An API of an earlier release records no owner: the function stands for it.
        local owner = owners[name]
        if not owner or owner == '' then owner = 'function ' .. name end
        -- The signed manifest is canonical JSON, in which strings escape their quotation marks.
        local source = string.find(record, '"source_builds":true', 1, true) and '1' or '0'
        if (wanted == '' or wanted == source) and not busy[owner] then return name, number, owner, true end
      end
    end
  end
  return nil, nil, nil, waiting
end

for index, key in ipairs(KEYS) do
  local start = 0
  while true do
    local found = redis.call('ZRANGEBYSCORE', key, '-inf', now_ms - tonumber(ARGV[3 + index]), 'LIMIT', start, PAGE)
    for _, digest in ipairs(found) do
      local name, number, owner, waiting = choose(digest)
      if name then
        redis.call('ZADD', key, now_ms + tonumber(ARGV[1]), digest)
        return {digest, redis.call('HINCRBY', ARGV[2] .. digest, 'attempt', 1), index, name, tonumber(number), owner}
      elseif waiting then
        start = start + 1
      else
        -- No function waits for this build any longer.
        redis.call('ZREM', key, digest)
        redis.call('DEL', ARGV[2] .. digest)
      end
    end
    if #found < PAGE then break end
  end
end
return {}
