-- Deliveries of webhooks that came before, of one service, by their marks and the time that they came.
--
-- KEYS: the marks (a sorted set). ARGV: "take" | "drop", seconds that they are kept, most marks, then the marks.
-- take returns 1 if none of the marks is known; they all are afterwards. drop: as if they had not come.
local key, kept, most = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if ARGV[1] == "drop" then
  for i = 4, #ARGV do redis.call("ZREM", key, ARGV[i]) end
  return 1
end
local now = tonumber(redis.call("TIME")[1])
redis.call("ZREMRANGEBYSCORE", key, "-inf", now - kept)
local fresh = 1
for i = 4, #ARGV do
  if redis.call("ZSCORE", key, ARGV[i]) then fresh = 0 end
end
if fresh == 1 then
  for i = 4, #ARGV do redis.call("ZADD", key, now, ARGV[i]) end
  redis.call("ZREMRANGEBYRANK", key, 0, -(most + 1))
  redis.call("EXPIRE", key, kept)
end
return fresh
