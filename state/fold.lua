-- Windows become lines of their services: all of this or nothing, by the leader only (law 6).
--
-- KEYS: leases, inbox, folded, due, ready, then the lines of each service.
-- ARGV: lease, token, time (s) when these services are to be tended at the latest,
--       number of windows, then worker, number, time (s) of each,
--       number of services whose ready replicas changed, then id, ids of these ("" = none) of each,
--       then for each service: id, number of lines, lines.
-- Returns "ok" or "fenced".
local lease = redis.call("HGET", KEYS[1], ARGV[1])
if not lease or string.match(lease, "^(%d+) ") ~= ARGV[2] then return "fenced" end
local at = 4
for _ = 1, tonumber(ARGV[at]) do
  local worker, number, time = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  redis.call("HDEL", KEYS[2], worker .. " " .. number)
  local folded = redis.call("HGET", KEYS[3], worker)
  if not folded or tonumber(string.match(folded, "^%d+")) < tonumber(number) then
    redis.call("HSET", KEYS[3], worker, number .. " " .. time)
  end
  at = at + 3
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  if ARGV[at + 2] == "" then
    redis.call("HDEL", KEYS[5], ARGV[at + 1])
  else
    redis.call("HSET", KEYS[5], ARGV[at + 1], ARGV[at + 2])
  end
  at = at + 2
end
at = at + 1
for key = 6, #KEYS do
  local id, count = ARGV[at], tonumber(ARGV[at + 1])
  for i = 1, count do redis.call("RPUSH", KEYS[key], ARGV[at + 1 + i]) end
  local due = redis.call("ZSCORE", KEYS[4], id)
  if not due or tonumber(due) > tonumber(ARGV[3]) then redis.call("ZADD", KEYS[4], ARGV[3], id) end
  at = at + 2 + count
end
return "ok"
