-- Send one fixed request, and print the figures as one line of JSON (wrk rounds its own report).
-- wrk … -s wrk.lua URL -- BODY [HEADER VALUE]…
-- It has no `request` or `response` function on purpose: with either, wrk runs Lua for every
-- request and takes CPU from the server.
function init(args)
  wrk.method = "POST"
  wrk.body = args[1]
  wrk.headers["Content-Type"] = "application/json"
  for i = 2, #args, 2 do
    wrk.headers[args[i]] = args[i + 1]
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}\n',
    summary.requests, summary.duration, latency:percentile(50.0), latency:percentile(99.0), latency.max,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
