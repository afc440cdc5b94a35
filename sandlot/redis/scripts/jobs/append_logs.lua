#!lua
-- What a running attempt has printed beyond what was said before: kept for who watches, and they are told that there is more.
-- ARGV: id, attempt, bytes said before, text, waiters' channels…
-- -> 1; 0 if the attempt is not this worker's any more; -1 if what was said before is not there (say it from the beginning)
-- Sent again (its reply was lost) it finds its own text there, answers -1, and all of it is said anew: nothing is said twice.
local LIVE_TTL_S = 600
local id, attempt, before = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not redis.call('ZSCORE', LEASES, id .. ':' .. attempt) then return 0 end
local key = LIVE .. id .. ':' .. attempt
if before == 0 then
  redis.call('SET', key, ARGV[4], 'EX', LIVE_TTL_S)
elseif redis.call('STRLEN', key) == before then
  redis.call('APPEND', key, ARGV[4])
  redis.call('EXPIRE', key, LIVE_TTL_S)
else
  return -1
end
local message = id .. '\n+'
for i = 5, #ARGV do redis.call('PUBLISH', TO_WAITER .. ARGV[i], #message .. '\n' .. message) end
return 1
