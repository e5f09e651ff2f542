-- wrk: POST of a small Open Inference v2 request. Every request has another user id and another sequence header, so that no
-- proxy can profit from a head it has seen before. Arguments: a tag that differs between runs.
local counter = 0

function setup(thread)
  thread:set("number", counter)
  counter = counter + 1
end

local before, between, after, tag
local n = 0

function init(args)
  tag = (args[1] or "0") .. number .. "x"
  local data = {}
  for i = 1, 24 do data[i] = string.format("%.4f", (i * 37 % 100) / 10 + 0.0625) end
  local body = '{"id":"bench","inputs":[{"name":"input-0","shape":[1,24],"datatype":"FP64","data":['
    .. table.concat(data, ",") .. ']}],"outputs":[{"name":"label"},{"name":"probability"}]}'
  before = "POST /v2/models/iris/infer HTTP/1.1\r\nhost: " .. wrk.headers["Host"]
    .. "\r\nuser-agent: bench/1\r\naccept: application/json\r\ncontent-type: application/json\r\nx-user-id: u"
  between = "\r\nx-sequence: "
  after = "\r\ncontent-length: " .. #body .. "\r\n\r\n" .. body
end

function request()
  n = n + 1
  return before .. tag .. n .. between .. n .. after
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests":%d,"duration_us":%d,"bytes":%d,"status_errors":%d,"socket_errors":%d}\n',
    summary.requests, summary.duration, summary.bytes, e.status, e.connect + e.read + e.write + e.timeout))
end
