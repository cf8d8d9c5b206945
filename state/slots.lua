-- One worker tells what it holds of a service's slots and what it wants, and learns what it owns (docs/concurrency.md).
--
-- KEYS: documents by service, registered workers, claims by worker, when workers were last heard of (ms).
-- ARGV: service, worker, channel prefix of the workers, the message (JSON: `state.slots.Message`).
-- Returns the answer (JSON: `state.slots.Answer`), or "stale" if a later message of the worker was taken in before.
--
-- Laws kept here: a message is a level, so that it may be repeated or come late; what a worker owns is only ever added
-- to by others; `step` is a pure function of what it is given, and has a twin in the tests that is equal to it.

local LINGER = 5000 -- ms that slots of a worker that ended stay taken: its requests may still be at the replica
local SILENT = 25000 -- ms without a word of a worker until it counts as gone; it fences itself off before (20 s)
local PATIENCE = 2000 -- ms that a want counts that was not said again: its worker may be stopped
local REPEAT = 100 -- ms until a worker is told again what it has been told and may have missed
local SETTLE = 1000 -- ms after the store's start in which workers that it has forgotten register again

local function sum(counts)
  local total = 0
  for _, count in pairs(counts) do total = total + count end
  return total
end

-- The message becomes the worker's entry. Within a run of the store only what is held on to stays; beyond it, all does.
local function take_in(doc, worker, message, now, run)
  local entry = doc.workers[worker]
  if entry and entry.run == run and message.seq <= entry.seq then return nil end
  if entry and entry.run == run and not entry.lapsed then
    local kept = {}
    for replica, count in pairs(entry.own) do
      local held = math.min(count, message.holds[replica] or 0)
      if held > 0 then kept[replica] = held end
    end
    entry.own = kept
  else
    entry = {own = message.holds, told = 0}
    doc.workers[worker] = entry
  end
  entry.seq, entry.run, entry.at = message.seq, run, now
  entry.want, entry.since, entry.shun = message.want, now - message.waited, message.shun
  entry.home = message.home
  return entry
end

local function silent(heard, worker, now, limit)
  return heard[worker] and now - heard[worker] >= limit
end

-- Its node has died, or is cut off: then it goes on by what it owns at the replicas beside it, and at no others.
local function lapse(doc, worker, entry)
  local left = {}
  for replica, count in pairs(entry.own) do
    if entry.home and entry.home[replica] then left[replica] = count end
  end
  entry.own, entry.want, entry.lapsed = left, 0, true
  if not next(left) then doc.workers[worker] = nil end
end

-- Whoever is not registered has ended; what it had is free when no request of it can be at a replica any more. That
-- `speaker` has not ended is plain, whatever its registration says. Silence is seen twice, so that a clock that jumps is
-- not taken for it: who lives is heard of between.
local function bury(doc, speaker, registered, heard, now)
  for worker, entry in pairs(doc.workers) do
    local quiet = registered[worker] and silent(heard, worker, now, SILENT)
    if registered[worker] and not quiet then
      entry.dead = nil
    elseif not entry.dead or worker == speaker then
      entry.dead = now
    elseif quiet then
      if now - entry.dead >= 2 * LINGER then lapse(doc, worker, entry) end
    elseif now - entry.dead >= LINGER then
      doc.workers[worker] = nil
    end
  end
end

-- After a start of the store nothing is granted until all workers have said what they own, but those that are silent.
local function open(doc, registered, claims, heard, now, run)
  if not claims.since or claims.run ~= run or now - claims.since < SETTLE then return end
  for worker in pairs(registered) do
    local gone = now - claims.since >= SILENT + 2 * LINGER and silent(heard, worker, now, SILENT + 2 * LINGER)
    if claims.workers[worker] ~= run and not gone then return end
  end
  doc.open = true
  for worker, entry in pairs(doc.workers) do
    if entry.run ~= run and registered[worker] then
      if claims.workers[worker] == run then doc.workers[worker] = nil else lapse(doc, worker, entry) end
    end
  end
end

local function totals(doc)
  local total = {}
  for _, replica in ipairs(doc.ready) do total[replica] = 0 end
  for _, entry in pairs(doc.workers) do
    for replica, count in pairs(entry.own) do total[replica] = (total[replica] or 0) + count end
  end
  return total
end

-- Those that want and may get, the longest waiting first.
local function wanting(doc, registered, now)
  local found = {}
  for worker, entry in pairs(doc.workers) do
    if registered[worker] and entry.want > 0 and now - entry.at <= PATIENCE then found[#found + 1] = worker end
  end
  table.sort(found, function(a, b)
    local one, other = doc.workers[a], doc.workers[b]
    if one.since ~= other.since then return one.since < other.since end
    return a < b
  end)
  return found
end

-- The ready replica with the fewest slots owned that has a free one and that the worker would use.
local function choose(doc, entry, total)
  local best
  for _, replica in ipairs(doc.ready) do
    if total[replica] < doc.limit and not entry.shun[replica] and (not best or total[replica] < total[best]) then
      best = replica
    end
  end
  return best
end

local function give(entry, replica, count, total)
  entry.own[replica] = (entry.own[replica] or 0) + count
  total[replica] = total[replica] + count
end

-- One slot to each in turn, the longest waiting first.
local function grant(doc, waiting, total, gained)
  local going = true
  while going do
    going = false
    for _, worker in ipairs(waiting) do
      local entry = doc.workers[worker]
      local replica = entry.want > 0 and choose(doc, entry, total)
      if replica then
        give(entry, replica, 1, total)
        entry.want = entry.want - 1
        gained[worker] = true
        going = true
      end
    end
  end
end

-- Of what nobody waits for, a worker gets its fair share in advance.
local function spread(doc, entry, total, workers)
  local usable = {}
  for place, replica in ipairs(doc.ready) do
    if not entry.shun[replica] then usable[#usable + 1] = {replica, place} end
  end
  if #usable == 0 then return end
  table.sort(usable, function(a, b)
    local one, other = total[a[1]], total[b[1]]
    if one ~= other then return one < other end
    return a[2] < b[2]
  end)
  local share = math.floor(doc.limit * #usable / workers)
  local each = math.ceil(share / #usable)
  local left = share
  for _, pair in ipairs(usable) do left = left - (entry.own[pair[1]] or 0) end
  for _, pair in ipairs(usable) do
    local replica = pair[1]
    local count = math.min(doc.limit - total[replica], each - (entry.own[replica] or 0), left)
    if count > 0 then
      give(entry, replica, count, total)
      left = left - count
    end
  end
end

-- What others want of a worker, and for how long the first of them has waited (ms).
local function foreign(doc, waiting, worker, now)
  local count, waited = 0, 0
  for _, other in ipairs(waiting) do
    local entry = doc.workers[other]
    if other ~= worker and entry.want > 0 then
      count = count + entry.want
      waited = math.max(waited, now - entry.since)
    end
  end
  return count, waited
end

-- Tell those who gained something, and those who have what others wait for, what they own, as of their last message.
local function hints(doc, waiting, worker, gained, now)
  local found = {}
  for other, entry in pairs(doc.workers) do
    local count, waited = foreign(doc, waiting, other, now)
    local own = sum(entry.own)
    local due = count > 0 and own > 0 and now - entry.told >= REPEAT
    if other == worker then
      entry.told = count > 0 and now or 0
    elseif gained[other] or due then
      found[other] = {seq = entry.seq, own = entry.own, want = count, waited = waited}
      entry.told = count > 0 and now or 0
    elseif count == 0 then
      entry.told = 0
    end
  end
  return found
end

local function excess(doc, entry, total)
  local over = {}
  for replica in pairs(entry.own) do
    if doc.version > 0 and total[replica] > doc.limit then over[replica] = total[replica] - doc.limit end
  end
  return over
end

local function step(doc, worker, message, now, run, registered, claims, heard)
  if doc.run ~= run then
    doc.run, doc.open, doc.version, doc.limit, doc.ready = run, false, 0, 0, {}
  end
  local entry = take_in(doc, worker, message, now, run)
  if not entry then return nil end
  if message.version >= doc.version then
    doc.version, doc.limit, doc.ready = message.version, message.limit, message.ready
  end
  bury(doc, worker, registered, heard, now)
  if not doc.open and registered[worker] then open(doc, registered, claims, heard, now, run) end
  local total, waiting, gained = totals(doc), wanting(doc, registered, now), {}
  if doc.open then
    grant(doc, waiting, total, gained)
    local unmet = false
    for _, other in ipairs(waiting) do unmet = unmet or doc.workers[other].want > 0 end
    local workers = 0
    for _ in pairs(registered) do workers = workers + 1 end
    if not unmet and registered[worker] and not message.leaving then spread(doc, entry, total, workers) end
  end
  local found = hints(doc, waiting, worker, gained, now)
  local count, waited = foreign(doc, waiting, worker, now)
  local answer = {
    run = run, now = now, own = entry.own, want = entry.want, foreign = count, waited = waited,
    over = excess(doc, entry, total), claimed = claims.workers[worker] == run, registered = registered[worker] or false,
  }
  if sum(entry.own) == 0 and entry.want == 0 then doc.workers[worker] = nil end
  return answer, found
end

local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local run = string.match(redis.call("INFO", "server"), "run_id:(%w+)")
local text = redis.call("HGET", KEYS[1], ARGV[1])
local doc = text and cjson.decode(text) or {run = "", open = false, version = 0, limit = 0, ready = {}, workers = {}}
local registered, claims = {}, {workers = {}}
for _, worker in ipairs(redis.call("HKEYS", KEYS[2])) do registered[worker] = true end
if not doc.open or doc.run ~= run then
  local told = redis.call("HGETALL", KEYS[3])
  for at = 1, #told, 2 do claims.workers[told[at]] = told[at + 1] end
  local began = claims.workers["@"]
  if began then claims.run, claims.since = string.match(began, "^(%w+) "), tonumber(string.match(began, "%d+$")) end
else
  claims.workers[ARGV[2]] = redis.call("HGET", KEYS[3], ARGV[2]) or nil
end
local heard, last = {}, redis.call("HGETALL", KEYS[4])
for at = 1, #last, 2 do heard[last[at]] = tonumber(last[at + 1]) end
heard[ARGV[2]] = now
if registered[ARGV[2]] then redis.call("HSET", KEYS[4], ARGV[2], string.format("%.0f", now)) end
local answer, found = step(doc, ARGV[2], cjson.decode(ARGV[4]), now, run, registered, claims, heard)
if not answer then return "stale" end
if next(doc.workers) then
  redis.call("HSET", KEYS[1], ARGV[1], cjson.encode(doc))
else
  redis.call("HDEL", KEYS[1], ARGV[1])
end
for worker, hint in pairs(found) do
  hint.service = ARGV[1]
  redis.call("PUBLISH", ARGV[3] .. worker, cjson.encode(hint))
end
return cjson.encode(answer)
