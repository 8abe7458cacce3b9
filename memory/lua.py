"""The steps that must happen wholly or not at all, as scripts that the server runs.

A script that fails does not undo what it wrote. So each checks all that can fail (types, versions, that
arguments are complete) before its first write; what is left is a server out of memory, which refuses a script
at its start.

KEYS are the tenant's log and pages. The pages' hash holds `page:<n>` and `floor`: the last version at which
somebody wrote or erased pages. A snapshot taken before the floor knows facts that are forgotten since, or
lacks changes that are trimmed since, and must not be written.
"""

from __future__ import annotations

_SHARED = """
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
-- The last version ever given, whether or not its entry is still there; nil without a log.
local function last_version()
  if redis.call('EXISTS', log) == 0 then return nil end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
end
local function write_pages(set, del)
  for i = 1, #set, 2 do redis.call('HSET', pages, set[i], set[i + 1]) end
  for i = 1, #del do redis.call('HDEL', pages, del[i]) end
end
if not (has_type(log, 'stream') and has_type(pages, 'hash')) then
  return redis.error_reply('WRONGTYPE a key of this tenant is not what the store wrote')
end
"""

COMMITTED, REPEATED, CONFLICT, LOST = 0, 1, 2, 3

# ARGV: first version, nonce, number of entries, the fields of each, ids to erase, pages to set, pages to delete
# (lists, each after its length). Entry i takes the version first + i - 1. Returns {COMMITTED}, {REPEATED} (this
# very commit came through before), {CONFLICT, last version, whether the version's entry is still there} or
# {LOST} (there are pages, so there was a log).
COMMIT = (
    _SHARED
    + """
local version, nonce = take(), take()
local entries = {}
for i = 1, tonumber(take()) do entries[i] = take_list() end
local erase, set, del = take_list(), take_list(), take_list()
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
for i = 1, #entries do redis.call('XADD', log, (version + i - 1) .. '-0', 'nonce', nonce, unpack(entries[i])) end
for i = 1, #erase do redis.call('XDEL', log, erase[i]) end
write_pages(set, del)
if #erase + #set + #del > 0 then redis.call('HSET', pages, 'floor', version + #entries - 1) end
if #erase > 0 and KEYS[3] then redis.call('INCR', KEYS[3]) end
return {0}
"""
)

# ARGV: version, pages to set, pages to delete. Returns {COMMITTED} or {CONFLICT, floor, last version}.
SNAPSHOT = (
    _SHARED
    + """
local version = take()
local set, del = take_list(), take_list()
local floor = tonumber(redis.call('HGET', pages, 'floor') or 0)
local last = last_version() or 0
if floor > tonumber(version) or last < tonumber(version) then return {2, floor, last} end
write_pages(set, del)
redis.call('HSET', pages, 'floor', version)
return {0}
"""
)

# KEYS: a counter. ARGV: the value it had when the rewrite began. Ends the count unless more was erased since.
SETTLE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return redis.status_reply('OK')
"""
