-- wrk: 1 MiB bodies. Arguments: "upload" or "large". Sixteen prepared requests with different user ids go round, since
-- building a megabyte per request would measure the generator.
local prepared = {}
local n = 0

function init(args)
  local host = wrk.headers["Host"]
  local body = string.rep("0123456789abcdef", 65536)
  for i = 1, 16 do
    local rest = " HTTP/1.1\r\nhost: " .. host .. "\r\nx-user-id: u" .. i .. "\r\n"
    if args[1] == "upload" then
      prepared[i] = "POST /upload" .. rest .. "content-type: application/octet-stream\r\ncontent-length: " .. #body .. "\r\n\r\n" .. body
    else
      prepared[i] = "GET /large" .. rest .. "\r\n"
    end
  end
end

function request()
  n = n % 16 + 1
  return prepared[n]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests":%d,"duration_us":%d,"bytes":%d,"status_errors":%d,"socket_errors":%d}\n',
    summary.requests, summary.duration, summary.bytes, e.status, e.connect + e.read + e.write + e.timeout))
end
