-- A service's oldest lines become parts of its chunks, by the leader only (law 6).
--
-- KEYS: leases, chunks, lines, due.
-- ARGV: lease, token, id, number of lines that are in the chunks now, time (s) to tend it if there are more lines,
--       time (s) to tend it if there are none ("" = never),
--       number of chunks to put, then name, value of each, then the names of the chunks to drop.
-- Returns "ok" or "fenced".
local lease = redis.call("HGET", KEYS[1], ARGV[1])
if not lease or string.match(lease, "^(%d+) ") ~= ARGV[2] then return "fenced" end
local at = 7
for _ = 1, tonumber(ARGV[at]) do
  redis.call("HSET", KEYS[2], ARGV[at + 1], ARGV[at + 2])
  at = at + 2
end
for i = at + 1, #ARGV do redis.call("HDEL", KEYS[2], ARGV[i]) end
if ARGV[4] ~= "0" then redis.call("LTRIM", KEYS[3], ARGV[4], -1) end
if redis.call("EXISTS", KEYS[3]) == 1 then
  redis.call("ZADD", KEYS[4], ARGV[5], ARGV[3])
elseif ARGV[6] ~= "" then
  redis.call("ZADD", KEYS[4], ARGV[6], ARGV[3])
else
  redis.call("ZREM", KEYS[4], ARGV[3])
end
return "ok"
