#!lua flags=allow-oom
-- Store one chunk of a large result before its outcome is recorded. Recording gives the chunks the
-- job's time to live (keep_chunks in prelude.lua); until then they expire by themselves, so that a
-- worker that dies in between leaves nothing.
-- ARGV: id, attempt, number of the chunk, the chunk
-- Returns 1; 0 if the attempt is another worker's now, and nothing was written.
-- Idempotent: a repetition writes the same chunk, or nothing once the outcome is recorded.
local UNRECORDED_TTL_S = 60
local member = ARGV[1] .. ':' .. ARGV[2]
if not redis.call('ZSCORE', LEASES, member) then return 0 end
redis.call('HSET', RESULT .. member, ARGV[3], ARGV[4])
redis.call('EXPIRE', RESULT .. member, UNRECORDED_TTL_S)
return 1
