-- wrk asks for the paths of the file named by PATHS, in turn, each thread from a place of its own
-- (a line may be a path, or a path and a host), and prints at the end what it counted as one line of JSON; `statuses` are those above 399.
local paths = {}
for line in io.lines(os.getenv("PATHS")) do
   paths[#paths + 1] = line
end
local formatted = {}
local requests = {}
local at = 0
local threads = 0

function setup(thread)
   thread:set("first", threads * 977)
   threads = threads + 1
end

function formatted_line(line)
   local path, host = line:match("^(%S+) (%S+)$")
   if not host then
      return wrk.format("GET", line)
   end
   return wrk.format("GET", path, {Host = host})
end

function init(arguments)
   at = first or 0
   for number, path in ipairs(paths) do
      formatted[path] = formatted[path] or formatted_line(path)
      requests[number] = formatted[path]
   end
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\nRESULT {"requests": %d, "bytes": %d, "microseconds": %d, "faults": %d, "statuses": %d, ',
      summary.requests, summary.bytes, summary.duration,
      errors.connect + errors.read + errors.write + errors.timeout, errors.status))
   io.write(string.format('"p50": %d, "p99": %d, "p99.9": %d}\n',
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
