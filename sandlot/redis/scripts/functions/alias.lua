-- Move or remove an alias of a function; '$LATEST' moves the version of calls without an alias.
--
-- KEYS: function
-- ARGV: name, alias, its JSON text ('' removes it), expected revision ('' for any), channel, the
--   name of latest, then every version that the alias points at
-- Returns {'ok', revision}, {'stale'}, {'no_function'}, {'no_alias'} or {'no_version', number}.
-- Not idempotent: each success changes the revision.
local alias, text = ARGV[2], ARGV[3]

if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'no_function'}
end
if not matches(KEYS[1], ARGV[4]) then
  return {'stale'}
end
for i = 7, #ARGV do
  if redis.call('HEXISTS', KEYS[1], 'v' .. ARGV[i]) == 0 then
    return {'no_version', ARGV[i]}
  end
end
if alias == ARGV[6] then
  redis.call('HSET', KEYS[1], 'latest', ARGV[7], 'wanted', ARGV[7])
elseif text ~= '' then
  redis.call('HSET', KEYS[1], 'a' .. alias, text)
elseif redis.call('HDEL', KEYS[1], 'a' .. alias) == 0 then
  return {'no_alias'}
end
redis.call('PUBLISH', ARGV[5], ARGV[1])
return {'ok', bump(KEYS[1])}
