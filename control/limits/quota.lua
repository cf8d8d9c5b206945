-- One request of a key: is the key still there, is there room in its quota, and in its namespace's? (generic cell rate
-- algorithm)
--
-- KEYS: the keys' hash, this key's clock, its namespace's clock.
-- ARGV: key id, digest of its secret, requests of the key per window (0 = any), window (us), those of all keys of the
-- namespace (0 = any).
-- A clock is the time at which a quota is whole again. The store's time counts, the nodes' may differ. What is refused
-- by one quota is taken from neither.
-- Returns {"revoked"}, {"any"}, {"spent", requests left to the key, us until whole}, or {"refused" (by the key's quota)
-- or "crowded" (by the namespace's), us until the next, us until whole}.
local stored = redis.call("HGET", KEYS[1], ARGV[1])
if not stored or not string.find(stored, '"' .. ARGV[2] .. '"', 1, true) then return {"revoked"} end
local limit, window, shared = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if limit == 0 then return {"any"} end
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]

-- when the quota is whole now, and after this request
local function clock(key, of)
  local whole = tonumber(redis.call("GET", key) or "0")
  if whole < now then whole = now end
  if whole > now + window then whole = now + window end -- the store's clock was set back
  return whole, whole + window / of
end

local function refused(word, whole, after)
  return {word, string.format("%.0f", after - now - window), string.format("%.0f", whole - now)}
end

local function set(key, after)
  redis.call("SET", key, string.format("%.0f", after), "PX", math.ceil((after - now) / 1000))
end

local whole, after = clock(KEYS[2], limit)
if after > now + window then return refused("refused", whole, after) end
if shared > 0 then
  local all, all_after = clock(KEYS[3], shared)
  if all_after > now + window then return refused("crowded", all, all_after) end
  set(KEYS[3], all_after)
end
set(KEYS[2], after)
local left = math.floor((now + window - after) / (window / limit))
return {"spent", tostring(left), string.format("%.0f", after - now)}
