-- One all-or-nothing change of any number of objects, checked against the versions the writer saw (law 6).
--
-- KEYS: revision counter, feed, leases, then the hash of each change.
-- ARGV: lease name ("" = none), fencing token, longest feed, largest payload in the feed,
--       then for each change: feed field, id, expected version (-1 any, 0 absent), "1" put | "0" delete | "=" leave as it
--       is | "+" count, payload; of a count it is what to add and the most that it may become by that (0 = any number).
-- Returns {"ok", revision}, {"conflict", index of the change, version found}, {"full", index, number found} or
-- {"fenced", token found}.
if ARGV[1] ~= "" then
  local lease = redis.call("HGET", KEYS[3], ARGV[1])
  local token = lease and string.match(lease, "^(%d+) ") or "0"
  if token ~= ARGV[2] then return {"fenced", token} end
end
local count = (#ARGV - 4) / 5
for i = 1, count do
  local expected = ARGV[4 + (i - 1) * 5 + 3]
  if expected ~= "-1" then
    local value = redis.call("HGET", KEYS[3 + i], ARGV[4 + (i - 1) * 5 + 2])
    local version = value and string.match(value, "^(%d+):") or "0"
    if version ~= expected then return {"conflict", tostring(i), version} end
  end
end
local totals = {}
for i = 1, count do
  local base = 4 + (i - 1) * 5
  if ARGV[base + 4] == "+" then
    local value = redis.call("HGET", KEYS[3 + i], ARGV[base + 2])
    local found = tonumber(value and string.match(value, ":(%d+)$") or "0")
    local step, most = string.match(ARGV[base + 5], "^(-?%d+) (%d+)$")
    totals[i] = math.max(0, found + tonumber(step))
    if tonumber(most) > 0 and totals[i] > found and totals[i] > tonumber(most) then
      return {"full", tostring(i), tostring(found)}
    end
  end
end
local revision = redis.call("INCR", KEYS[1])
local entry = {}
for i = 1, count do
  local base = 4 + (i - 1) * 5
  local id, put, payload = ARGV[base + 2], ARGV[base + 4], ARGV[base + 5]
  if put == "+" then
    put, payload = totals[i] > 0 and "1" or "0", string.format("%d", totals[i])
  end
  if put ~= "=" then
    local told = "-"
    if put == "1" then
      redis.call("HSET", KEYS[3 + i], id, revision .. ":" .. payload)
      told = #payload <= tonumber(ARGV[4]) and "=" .. payload or "?"
    else
      redis.call("HDEL", KEYS[3 + i], id)
    end
    entry[#entry + 1] = ARGV[base + 1]
    entry[#entry + 1] = told
  end
end
redis.call("XADD", KEYS[2], "MAXLEN", "~", ARGV[3], revision .. "-0", unpack(entry))
return {"ok", tostring(revision)}
