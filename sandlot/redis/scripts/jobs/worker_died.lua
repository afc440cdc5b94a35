#!lua flags=allow-oom
-- Queue the jobs of a worker again whose process is known to be dead (its parent saw it end).
-- ARGV: RQ's exc_string of a lost job, worker
-- Returns how many jobs it had.
-- Idempotent: a repetition finds no lease of that worker.
local jobs, placements = 0, {}
take_back_from(ARGV[2], function(member)
  local what, placement = take_back(member, ARGV[1])
  if what then
    jobs = jobs + 1
    placements[placement] = true
  end
end)
redis.call('DEL', RQ_WORKER .. ARGV[2])
redis.call('SREM', RQ_WORKERS, RQ_WORKER .. ARGV[2])
for placement in pairs(placements) do wake(placement) end
return jobs
