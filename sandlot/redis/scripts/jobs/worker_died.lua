#!lua flags=allow-oom
-- A worker's process is known to be dead (whoever started it saw it end): its jobs run again at once.
-- ARGV: the result-stream text of a lost job, worker
-- -> how many jobs it had
local jobs, placements = 0, {}
bury(ARGV[2], ARGV[1], function(member)
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
