-- A worker has said of every service what it owns, in this run of the store; or asks whether the store knows that.
--
-- KEYS: registered workers, claims by worker ("@": the newest run and when it was first claimed in, ms), when workers were
-- last heard of (ms).
-- ARGV: worker, the run that it claims in ("" = it only asks).
-- Returns {run of the store, "1" if the claim of the worker in it is known}.
local run = string.match(redis.call("INFO", "server"), "run_id:(%w+)")
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local began = redis.call("HGET", KEYS[2], "@")
if not began or string.match(began, "^%w+") ~= run then
  redis.call("HSET", KEYS[2], "@", string.format("%s %.0f", run, now))
end
if redis.call("HEXISTS", KEYS[1], ARGV[1]) == 1 then
  redis.call("HSET", KEYS[3], ARGV[1], string.format("%.0f", now))
end
if ARGV[2] == run then
  redis.call("HSET", KEYS[2], ARGV[1], run)
  for _, worker in ipairs(redis.call("HKEYS", KEYS[2])) do
    if worker ~= "@" and worker ~= ARGV[1] and redis.call("HEXISTS", KEYS[1], worker) == 0 then
      redis.call("HDEL", KEYS[2], worker)
    end
  end
  for _, worker in ipairs(redis.call("HKEYS", KEYS[3])) do
    if redis.call("HEXISTS", KEYS[1], worker) == 0 then redis.call("HDEL", KEYS[3], worker) end
  end
end
return {run, redis.call("HGET", KEYS[2], ARGV[1]) == run and "1" or "0"}
