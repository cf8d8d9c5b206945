-- Requests under an Idempotency-Key, of one tenant: who does one now, and what was answered.
--
-- KEYS: hash of requests, their order (by the time of taking). ARGV: "take" | "hold" | "keep" | "drop", request, owner,
--       then for take and hold the lease (ms), for keep the answer; last: longest life (ms), most requests, most bytes.
-- A request is "<lease's end (ms)> <owner>" while it is being done, then "= <answer>". The field "" counts the bytes.
-- take: {"taken", evicted}, {"busy"} or {"kept", answer}. The others: {"ok", evicted} or {"lost"} (another has it by now).
local action, request, owner = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life, most, bytes = tonumber(ARGV[#ARGV - 2]), tonumber(ARGV[#ARGV - 1]), tonumber(ARGV[#ARGV])

local function put(value)
  local old = redis.call("HSTRLEN", KEYS[1], request)
  redis.call("HSET", KEYS[1], request, value)
  redis.call("HINCRBY", KEYS[1], "", #value - old)
  redis.call("PEXPIRE", KEYS[1], life)
end

local function remove(one)
  redis.call("HINCRBY", KEYS[1], "", -redis.call("HSTRLEN", KEYS[1], one))
  redis.call("HDEL", KEYS[1], one)
  redis.call("ZREM", KEYS[2], one)
end

local function make_room()
  for _, one in ipairs(redis.call("ZRANGEBYSCORE", KEYS[2], "-inf", now - life, "LIMIT", 0, 100)) do remove(one) end
  local evicted = 0
  while redis.call("ZCARD", KEYS[2]) > most or tonumber(redis.call("HGET", KEYS[1], "") or "0") > bytes do
    local oldest = redis.call("ZRANGE", KEYS[2], 0, 0)[1]
    if not oldest or oldest == request then break end
    remove(oldest)
    evicted = evicted + 1
  end
  return {"ok", tostring(evicted)}
end

local value = redis.call("HGET", KEYS[1], request)
local taken_at = tonumber(redis.call("ZSCORE", KEYS[2], request) or "0")
if value and taken_at <= now - life then
  remove(request)
  value = false
end
local lease_end, holder = string.match(value or "", "^(%d+) (%S+)$")

if action == "take" then
  if value and not lease_end then return {"kept", string.sub(value, 3)} end
  if lease_end and tonumber(lease_end) > now then return {"busy"} end
  redis.call("ZADD", KEYS[2], now, request)
  redis.call("PEXPIRE", KEYS[2], life)
  put(tostring(now + tonumber(ARGV[4])) .. " " .. owner)
  return {"taken", make_room()[2]}
end
if holder ~= owner then return {"lost"} end
if action == "drop" then
  remove(request)
  return {"ok", "0"}
end
if action == "hold" then
  put(tostring(now + tonumber(ARGV[4])) .. " " .. owner)
else
  put("= " .. ARGV[4])
end
return make_room()
