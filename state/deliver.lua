-- Take in a worker's window of counts, once.
--
-- KEYS: inbox, folded. ARGV: worker, number, window, most windows in the inbox, "1" = leave one that is there alone.
-- Returns "ok", "known" (it is there, or folded already) or "full".
local folded = redis.call("HGET", KEYS[2], ARGV[1])
if folded and tonumber(string.match(folded, "^%d+")) >= tonumber(ARGV[2]) then return "known" end
local field = ARGV[1] .. " " .. ARGV[2]
if redis.call("HEXISTS", KEYS[1], field) == 1 then
  if ARGV[5] == "1" then return "known" end
elseif redis.call("HLEN", KEYS[1]) >= tonumber(ARGV[4]) then
  return "full"
end
redis.call("HSET", KEYS[1], field, ARGV[3])
return "ok"
