-- One request of a key: is the key still there, and is there room in its quota? (generic cell rate algorithm)
--
-- KEYS: the keys' hash, this key's clock. ARGV: key id, digest of its secret, requests per window (0 = any), window (us).
-- The clock is the time at which the quota is whole again. The store's time counts, the nodes' may differ.
-- Returns {"revoked"}, {"any"}, {"spent", requests left, us until whole} or {"refused", us until the next, us until whole}.
local stored = redis.call("HGET", KEYS[1], ARGV[1])
if not stored or not string.find(stored, '"' .. ARGV[2] .. '"', 1, true) then return {"revoked"} end
local limit, window = tonumber(ARGV[3]), tonumber(ARGV[4])
if limit == 0 then return {"any"} end
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local whole = tonumber(redis.call("GET", KEYS[2]) or "0")
if whole < now then whole = now end
if whole > now + window then whole = now + window end -- the store's clock was set back
local interval = window / limit
local after = whole + interval
if after > now + window then
  return {"refused", string.format("%.0f", after - now - window), string.format("%.0f", whole - now)}
end
redis.call("SET", KEYS[2], string.format("%.0f", after), "PX", math.ceil((after - now) / 1000))
local left = math.floor((now + window - after) / interval)
return {"spent", tostring(left), string.format("%.0f", after - now)}
