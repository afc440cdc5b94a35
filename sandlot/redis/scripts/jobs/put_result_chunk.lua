#!lua flags=allow-oom
-- One piece of a large result, before its end is recorded. That makes the piece last as long as the job (keep_result in prelude.lua);
-- until then it goes away by itself, so that a worker that dies in between leaves nothing.
-- ARGV: id, attempt, number of the piece, the piece
-- -> 1; 0 if the attempt is another's now, and nothing was written
-- Sent again (its reply was lost) it writes the same once more; sent after the end was recorded, nothing.
local UNRECORDED_TTL_S = 60
local member = ARGV[1] .. ':' .. ARGV[2]
if not redis.call('ZSCORE', LEASES, member) then return 0 end
redis.call('HSET', RESULT .. member, ARGV[3], ARGV[4])
redis.call('EXPIRE', RESULT .. member, UNRECORDED_TTL_S)
return 1
