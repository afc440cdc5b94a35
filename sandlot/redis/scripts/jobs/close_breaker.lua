#!lua flags=allow-oom
-- A function has been mended: whatever its breaker says, it may run again.
-- ARGV: the function
-- -> how many breakers were not closed (one, unless its placement changed meanwhile)
local mended = 0
for _, queue in ipairs(redis.call('HKEYS', BREAKERS)) do
  if string.match(queue, '^(.*)@') == ARGV[1] then
    close_breaker(queue)
    mended = mended + 1
  end
end
return mended
