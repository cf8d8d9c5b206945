-- Keeps an event of a service, once, however often its writer tries, and tells who follows it.
--
-- KEYS: the events (a stream).
-- ARGV: the event, its time (microseconds), how many are kept, the channel that is told, the service.
-- Ids are times that rise, also when writers or their clocks disagree: `<microseconds>-0`. A retry after an answer that
-- was lost finds its event among the newest.
local newest = redis.call("XREVRANGE", KEYS[1], "+", "-", "COUNT", 32)
for _, entry in ipairs(newest) do
  if entry[2][2] == ARGV[1] then return 0 end
end
local last = newest[1] and tonumber(string.match(newest[1][1], "^%d+")) or 0
local id = string.format("%.0f-0", math.max(last + 1, tonumber(ARGV[2])))
redis.call("XADD", KEYS[1], "MAXLEN", "=", ARGV[3], id, "event", ARGV[1])
redis.call("PUBLISH", ARGV[4], ARGV[5])
return 1
