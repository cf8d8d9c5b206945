-- Take or keep a lease. No clock is read here: a taker proves that it saw no beat for the time to live (law 6).
--
-- KEYS: leases. ARGV: name, holder, owner (the holder's family), seen token, seen beat, "1" if the seen pair is stale.
-- A lease is "<token> <beat> <owner> <holder>".
-- Returns {"held", token, beat} to the holder, else {"other", token, beat}.
local value = redis.call("HGET", KEYS[1], ARGV[1])
local token, beat, owner, holder = 0, 0, "", ""
if value then
  token, beat, owner, holder = string.match(value, "^(%d+) (%d+) (%S+) (%S+)$")
  token, beat = tonumber(token), tonumber(beat)
end
local mine = holder == ARGV[2]
local stale = ARGV[6] == "1" and tostring(token) == ARGV[4] and tostring(beat) == ARGV[5]
if mine then
  beat = beat + 1
elseif not value or holder == "-" or owner == ARGV[3] or stale then
  token, beat = token + 1, 1
else
  return {"other", tostring(token), tostring(beat)}
end
redis.call("HSET", KEYS[1], ARGV[1], token .. " " .. beat .. " " .. ARGV[3] .. " " .. ARGV[2])
return {"held", tostring(token), tostring(beat)}
