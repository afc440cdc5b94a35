#!lua
-- Append a running attempt's output for the readers that follow it, and notify them.
-- ARGV: id, attempt, bytes stored before, text, waiters' channels…
-- Returns 1; 0 if the attempt is no longer this worker's; -1 if the stored text has another length
-- (the worker then sends everything from the beginning).
-- Idempotent: a repetition after a lost reply finds its own text, returns -1, and the whole text
-- replaces it, so that nothing is stored twice.
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
