#!lua flags=allow-oom
-- Close the breakers of a function that was deployed again or now means another version.
-- ARGV: function
-- Returns how many were not closed: one, unless the function's placement has changed meanwhile.
-- Idempotent.
local closed = 0
for _, queue in ipairs(redis.call('HKEYS', BREAKERS)) do
  if string.match(queue, '^(.*)@') == ARGV[1] then
    close_breaker(queue)
    closed = closed + 1
  end
end
return closed
