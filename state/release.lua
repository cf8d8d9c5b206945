-- Give a lease back: its token stays, so that the next holder's is higher; the holder is nobody ("-", see lease.lua).
--
-- KEYS: leases. ARGV: name, holder. Returns 1 if it was this holder's, else 0.
local value = redis.call("HGET", KEYS[1], ARGV[1])
if not value then return 0 end
local token, beat, owner, holder = string.match(value, "^(%d+) (%d+) (%S+) (%S+)$")
if holder ~= ARGV[2] then return 0 end
redis.call("HSET", KEYS[1], ARGV[1], token .. " " .. beat .. " " .. owner .. " -")
return 1
