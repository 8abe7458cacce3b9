"""The atomic steps of the store, as Lua scripts that the server runs.

A script that fails does not undo its writes. So each script checks everything that can fail (types, versions, tokens, complete
arguments) before its first write. One failure is left: a server out of memory, which refuses a script at its start.

KEYS are the tenant's log and pages, then the script's further keys. A list in ARGV follows its length.

Fencing tokens only rise: LEASE alone gives them, and no script deletes the last one, not even an erasure (DROP). A server may be
stopped while it writes a snapshot, and go on later. If its token could be given again, its late parts would pass for parts of the
new holder.
"""

from __future__ import annotations

_FUNCTIONS = """
local log, pages = KEYS[1], KEYS[2]
local next_argument = 1
local function take()
  next_argument = next_argument + 1
  return ARGV[next_argument - 1]
end
local function take_list()
  local list = {}
  for i = 1, tonumber(take()) do list[i] = take() end
  return list
end
local function has_type(key, wanted)
  local got = redis.call('TYPE', key).ok
  return got == wanted or got == 'none'
end
-- An answer given since under the same name, for another fact, stays.
local function delete_answer(answers, name, version)
  local found = redis.call('HGET', answers, name)
  if found and string.sub(found, 1, #version + 1) == version .. ':' then redis.call('HDEL', answers, name) end
end
-- The last version ever given, whether or not its entry is still there; nil without a log.
local function last_version()
  if redis.call('EXISTS', log) == 0 then return nil end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
end
"""

_SHARED = (
    _FUNCTIONS
    + """
if not (has_type(log, 'stream') and has_type(pages, 'hash')) then
  return redis.error_reply('WRONGTYPE a key of this tenant is not what the store wrote')
end
"""
)

# The end of scripts with a lease in KEYS[3] and parts in KEYS[4]: deletes the parts that `named` does not hold, and the lease.
_SWEEP = """
for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
  if not named[string.match(field, '^(%d+:%d+):')] then redis.call('HDEL', KEYS[4], field) end
end
redis.call('DEL', KEYS[3])
return {0}
"""

COMMITTED, REPEATED, CONFLICT, LOST, FENCED, ANSWERED = 0, 1, 2, 3, 4, 5

# KEYS: log, pages, data keys, answers, turn, spent. ARGV: first version, nonce, number of entries, the fields of each; lists of
# data keys to set and to delete, answers to set and to delete (name and the version of its fact), and the result of
# `idempotency_keys.spent`; the writer. Entry i gets the version first + i - 1. Returns {COMMITTED}, {REPEATED} (an earlier attempt
# of this commit succeeded), {CONFLICT, last version, whether the version's entry still exists}, {LOST} (pages without a log) or
# {ANSWERED} (an answer of this name exists already, or is spent).
COMMIT = (
    _SHARED
    + """
local version, nonce = take(), take()
local entries = {}
for i = 1, tonumber(take()) do entries[i] = take_list() end
local set_keys, del_keys, set_answers, del_answers, spent_now = take_list(), take_list(), take_list(), take_list(), take_list()
local keys, answers, spent, before = KEYS[3], KEYS[4], KEYS[6], spent_now[1]
if not (has_type(keys, 'hash') and has_type(answers, 'hash') and has_type(spent, 'zset')) then
  return redis.error_reply('WRONGTYPE a key of this tenant is not what the store wrote')
end
local id = version .. '-0'
local last = last_version()
if last == nil and redis.call('EXISTS', pages) == 1 then return {3} end
last = last or 0
if last ~= tonumber(version) - 1 then
  local entry = redis.call('XRANGE', log, id, id)[1]
  if not entry then return {2, last, 0} end
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'nonce' and entry[2][i + 1] == nonce then
      -- This changes nothing, but gives the connection a write for WAITAOF to wait for.
      redis.call('XSETID', log, last .. '-0')
      return {1}
    end
  end
  return {2, last, 1}
end
-- Who lost to others may claim the next turn (RedisStore.claim): else a fast writer starves a slow one.
local turn, writer = redis.call('GET', KEYS[5]), take()
if turn == writer then redis.call('DEL', KEYS[5]) elseif turn then return {2, last, 1} end
for i = 1, #set_answers, 2 do
  local used = redis.call('ZSCORE', spent, set_answers[i])
  if redis.call('HEXISTS', answers, set_answers[i]) == 1 or (used and tonumber(used) > tonumber(before)) then return {5} end
end
for i = 1, #entries do redis.call('XADD', log, (version + i - 1) .. '-0', 'nonce', nonce, unpack(entries[i])) end
for i = 1, #set_keys, 2 do redis.call('HSET', keys, set_keys[i], set_keys[i + 1]) end
for i = 1, #del_keys do redis.call('HDEL', keys, del_keys[i]) end
for i = 1, #del_answers, 2 do delete_answer(answers, del_answers[i], del_answers[i + 1]) end
for i = 1, #set_answers, 2 do redis.call('HSET', answers, set_answers[i], set_answers[i + 1]) end
for i = 4, #spent_now, 2 do redis.call('ZADD', spent, spent_now[i + 1], spent_now[i]) end
if #spent_now > 3 then
  redis.call('ZREMRANGEBYSCORE', spent, '-inf', before)
  redis.call('ZREMRANGEBYRANK', spent, 0, -1 - tonumber(spent_now[3]))
  redis.call('PEXPIRE', spent, spent_now[2])
end
return {0}
"""
)

# KEYS: log, pages, answers. ARGV: list of names and versions of their facts. Returns {COMMITTED}.
DISCARD = (
    _SHARED
    + """
local gone = take_list()
for i = 1, #gone, 2 do delete_answer(KEYS[3], gone[i], gone[i + 1]) end
return {0}
"""
)

# KEYS: log, pages, lease, fence. ARGV: milliseconds. Returns {COMMITTED, token} or {FENCED} (another server has the lease).
LEASE = (
    _SHARED
    + """
if redis.call('EXISTS', KEYS[3]) == 1 then return {4} end
local token = redis.call('INCR', KEYS[4])
redis.call('SET', KEYS[3], token, 'PX', take())
return {0, token}
"""
)

# KEYS: log, pages, lease, parts. ARGV: token, milliseconds, field, bytes. Returns {COMMITTED} or {FENCED}.
PART = (
    _SHARED
    + """
if redis.call('GET', KEYS[3]) ~= take() then return {4} end
redis.call('PEXPIRE', KEYS[3], take())
redis.call('HSET', KEYS[4], take(), take())
return {0}
"""
)

# KEYS: log, pages, lease, parts. ARGV: token, version, list of page numbers and manifests. Puts the manifests in place,
# keeps the ones before them, deletes parts that no manifest names, and trims the log up to the snapshot before. Returns
# {COMMITTED}, {FENCED} or {CONFLICT, floor, last version}.
SWITCH = (
    _SHARED
    + """
local token, version = take(), tonumber(take())
local manifests = take_list()
if redis.call('GET', KEYS[3]) ~= token then return {4} end
local floor = tonumber(redis.call('HGET', pages, 'floor') or 0)
local last = last_version() or 0
if floor > version or last < version then return {2, floor, last} end
for i = 1, #manifests, 2 do
  local before = redis.call('HGET', pages, 'page:' .. manifests[i])
  if before then redis.call('HSET', pages, 'old:' .. manifests[i], before) end
  redis.call('HSET', pages, 'page:' .. manifests[i], manifests[i + 1])
end
redis.call('HSET', pages, 'floor', version, 'reach', floor)
redis.call('XTRIM', log, 'MINID', (floor + 1) .. '-0')
local named = {}
local all = redis.call('HGETALL', pages)
for i = 1, #all, 2 do
  local page = string.match(all[i], '^%a+:(%d+)$')
  local read, manifest = pcall(cjson.decode, all[i + 1])  -- a damaged one names no parts
  if page and read then named[page .. ':' .. string.format('%d', manifest.token)] = true end
end
"""
    + _SWEEP
)

# KEYS: log, pages, lease, parts. ARGV: token, version, list of page numbers and manifests. Puts the manifests in place of all
# pages there are, as the next version, and empties the log. Returns {COMMITTED}, {FENCED} or {CONFLICT, last version}.
REPLACE = (
    _SHARED
    + """
local token, version = take(), tonumber(take())
local manifests = take_list()
if redis.call('GET', KEYS[3]) ~= token then return {4} end
local last = last_version()
if last ~= version then
  redis.call('DEL', KEYS[3])
  return {2, last or 0}
end
redis.call('DEL', pages)
local named = {}
for i = 1, #manifests, 2 do
  redis.call('HSET', pages, 'page:' .. manifests[i], manifests[i + 1])
  named[manifests[i] .. ':' .. token] = true
end
redis.call('HSET', pages, 'floor', version + 1, 'reach', version + 1)
redis.call('XADD', log, (version + 1) .. '-0', 'replaced', '')
redis.call('XTRIM', log, 'MAXLEN', 0)
"""
    + _SWEEP
)

# KEYS: log, pages, data keys, fence, then the tenant's other keys. ARGV: the last version that the caller knows. Erases everything
# except the fence and the last version, which rises by one so that other servers notice. Damaged values do not stop it: the time in
# milliseconds replaces an unreadable number, since no tenant has had so many changes or snapshots. Returns
# {COMMITTED, version, number of destroyed data keys}; version 0 if the tenant had no keys.
DROP = (
    _FUNCTIONS
    + """
local keys, fence, erased, there = KEYS[3], KEYS[4], {}, false
for i = 1, #KEYS do
  if KEYS[i] ~= fence then
    table.insert(erased, KEYS[i])
    there = there or redis.call('EXISTS', KEYS[i]) == 1
  end
end
if not there then return {0, 0, 0} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function version_in(found)
  local number = found and string.match(found, '^%d+$') and tonumber(found)
  return number and number < 2 ^ 53 - 1 and number or nil
end
local last = has_type(log, 'stream') and last_version()
last = version_in(last and string.format('%.0f', last)) or now
local floor = has_type(pages, 'hash') and version_in(redis.call('HGET', pages, 'floor'))
last = math.max(last, floor or 0, tonumber(take())) + 1
local count = has_type(keys, 'hash') and redis.call('HLEN', keys) or 0
local numbered = has_type(fence, 'string') and string.match(redis.call('GET', fence) or '0', '^%d+$')
redis.call('DEL', unpack(erased))
if not numbered then redis.call('SET', fence, string.format('%.0f', now)) end
redis.call('XADD', log, string.format('%.0f-0', last), 'dropped', '')
redis.call('XTRIM', log, 'MAXLEN', 0)
redis.call('HSET', pages, 'floor', string.format('%.0f', last), 'reach', string.format('%.0f', last))
return {0, last, count}
"""
)

# KEYS: expiries, expiries of an earlier version. ARGV: tenant, time of its next expiry or empty, next mark or empty, times of the
# marks to delete. Also moves the old-format mark (member = tenant) if it still has the expected score.
EXPIRED = """
local tenant, upcoming, mark = ARGV[1], ARGV[2], ARGV[3]
local earlier = redis.call('ZSCORE', KEYS[2], tenant)
for i = 4, #ARGV do
  redis.call('ZREM', KEYS[1], tenant .. ':' .. ARGV[i])
  if earlier and tonumber(earlier) == tonumber(ARGV[i]) then
    if upcoming == '' then redis.call('ZREM', KEYS[2], tenant) else redis.call('ZADD', KEYS[2], upcoming, tenant) end
  end
end
if mark ~= '' then redis.call('ZADD', KEYS[1], mark, tenant .. ':' .. mark) end
return redis.status_reply('OK')
"""
