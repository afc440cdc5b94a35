-- Remove old versions of a function in two steps, so that no job is left without its code.
-- First a version is retired: callers can no longer name it, but workers still find it by its
-- digest.
-- After a grace period, in which every call under way has submitted its job, a version that no job
-- of the function names is deleted.
--
-- KEYS: function
-- ARGV: name, versions kept, bundle prefix, users prefix, unused ttl (s), grace (ms), greatest
--   number of jobs examined, channel, then RQ's names: queue, scheduled, started, job, and the
--   field of the envelope; lock prefix, failed versions kept
-- Returns how many were retired and how many deleted. Repeating it is safe. Times are Redis's.
local name, kept, grace_ms, look = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[6]), tonumber(ARGV[7])
local QUEUE, SCHEDULED, STARTED, JOB, ENVELOPE = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local time = redis.call('TIME')
local now_ms = math.floor(time[1] * 1000 + time[2] / 1000)

local versions, retired, failed, pinned = {}, {}, {}, {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local kind, rest = string.sub(field, 1, 1), string.sub(field, 2)
  if kind == 'v' then
    versions[#versions + 1] = tonumber(rest)
  elseif kind == 'f' then
    failed[#failed + 1] = tonumber(rest)
  elseif kind == 'r' and tonumber(rest) then
    retired[#retired + 1] = tonumber(rest)
  elseif kind == 'a' then
    local alias = cjson.decode(redis.call('HGET', KEYS[1], field))
    pinned[tonumber(alias.version)] = true
    for number in pairs(alias.weights or {}) do pinned[tonumber(number)] = true end
  end
end
pinned[tonumber(redis.call('HGET', KEYS[1], 'latest') or 0)] = true

local function delete_version(number, digest)
  redis.call('HDEL', KEYS[1], 'r' .. number, 't' .. number, 'p' .. number, 'f' .. number, 'g' .. number)
  -- The same code may have been deployed again under another number.
  if redis.call('HGET', KEYS[1], 'd' .. digest) == tostring(number) then
    redis.call('HDEL', KEYS[1], 'd' .. digest)
    redis.call('SREM', ARGV[4] .. digest, name)
    if redis.call('SCARD', ARGV[4] .. digest) == 0 then
      redis.call('EXPIRE', ARGV[3] .. digest, ARGV[5])
      redis.call('EXPIRE', ARGV[14] .. digest, ARGV[5])
    end
  end
end

table.sort(failed)
for i = 1, #failed - tonumber(ARGV[15]) do
  delete_version(failed[i], redis.call('HGET', KEYS[1], 'g' .. failed[i]))
end

local gone = 0
table.sort(versions)
for i = 1, #versions - kept do
  local number = versions[i]
  if not pinned[number] then
    redis.call('HSET', KEYS[1], 'r' .. number, redis.call('HGET', KEYS[1], 'v' .. number), 't' .. number, now_ms)
    redis.call('HDEL', KEYS[1], 'v' .. number)
    gone = gone + 1
  end
end

if gone > 0 then redis.call('PUBLISH', ARGV[8], name) end

local ripe, placements, some = {}, {}, false
for _, number in ipairs(retired) do
  if tonumber(redis.call('HGET', KEYS[1], 't' .. number) or 0) <= now_ms - grace_ms then
    local record = redis.call('HGET', KEYS[1], 'r' .. number)
    ripe[redis.call('HGET', KEYS[1], 'g' .. number)] = number
    placements[cjson.decode(string.sub(record, 65)).placement] = true
    some = true
  end
end
if not some then return {gone, 0} end

local function needed(id)
  local envelope = redis.call('HGET', JOB .. string.match(id, '^([^:]*)'), ENVELOPE)
  -- The first digest is the envelope's own: only the job's id and function stand before it.
  local digest = envelope and string.match(envelope, '"digest":"(%x+)"')
  if digest then ripe[digest] = nil end
end
for placement in pairs(placements) do
  local queue = name .. '@' .. placement
  look = look - redis.call('LLEN', QUEUE .. queue) - redis.call('ZCARD', SCHEDULED .. queue) - redis.call('ZCARD', STARTED .. queue)
  -- Too many to examine while Redis serves no other client; a later deploy will find fewer.
  if look < 0 then return {gone, 0} end
  for _, id in ipairs(redis.call('LRANGE', QUEUE .. queue, 0, -1)) do needed(id) end
  for _, id in ipairs(redis.call('ZRANGE', SCHEDULED .. queue, 0, -1)) do needed(id) end
  for _, id in ipairs(redis.call('ZRANGE', STARTED .. queue, 0, -1)) do needed(id) end
end

local deleted = 0
for digest, number in pairs(ripe) do
  delete_version(number, digest)
  deleted = deleted + 1
end
return {gone, deleted}
