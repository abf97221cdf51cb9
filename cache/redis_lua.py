"""The Redis store's layout and the scripts that keep it consistent.

Every call of the store is one script, so it is one round trip, atomic, and (all keys of a namespace
share a hash tag) served by one node of a cluster. With ``P`` for ``{funnel1:NAMESPACE}:``

=================  ======  ==========================================================
``P meta``         hash    current, floor, token, seq, born, bytes, evictions
``P r:ID``         hash    a record, with its own expiry; e(poch) t(oken) p(ayload) v(ector)
``P a:ID``         string  an alias, with its own expiry: target and note
``P side``         hash    ID → size, scope, partition, document hashes, epoch
``P used``         zset    ID by last use, for eviction
``P expires``      zset    ID by expiry, to tidy up what expired by itself
``P aliases``      zset    alias ID by expiry
``P d:HASH``       set     IDs of the records that hold a document
``P s:SCOPE``      set     IDs of a scope's records
``P parts``        hash    records per partition
``P v:PARTITION``  vset    keys by query vector, on servers that have vector sets
``P l:NAME``       string  a lease, with its own expiry: its owner, token and request
``P writes``       zset    index writes that the store has not been told of, by when they must be
``P log``          stream  capped change log; n is consecutive, so a reader notices a gap
=================  ======  ==========================================================

where ID is ``partition:key``. If ``meta`` is lost (a flush, an eviction by the server), a new one
starts with a floor above every epoch given before, so that what survived is never read again. One
that holds anything but numbers counts as lost.

While a cluster moves the slot to another node, each of the two has a part of the keys. A script
that changes records would do half of its work then, and so refuses: both nodes answer a command of
two keys, neither of which is there, with an error.
"""

import hashlib
from dataclasses import dataclass, field

SCHEMA = 1

_PRELUDE = """
local P = ARGV[1]
local M = P .. 'meta'
local gone = {}
local function text(number) return string.format('%.0f', number) end
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function whole(value)  -- a number that HINCRBY takes and Lua holds exactly
  if type(value) == 'string' and #value <= 16 and string.match(value, '^-?%d+$') then
    return tonumber(value)
  end
end
local function epoch()
  local e = redis.pcall('HMGET', M, 'current', 'floor')
  local current, floor = whole(e[1]), whole(e[2])
  if current and floor then return {current, floor} end
end
local function sound()  -- whether somebody has not written something else into meta
  local m = redis.pcall('HMGET', M, 'token', 'born', 'seq', 'bytes', 'evictions')
  for i = 1, 5 do
    if not whole(m[i]) then return false end
  end
  return epoch() ~= nil
end
local function overdue()  -- writes whose writer died before it told of them
  local count = redis.pcall('ZCOUNT', P .. 'writes', '-inf', text(now()))
  return type(count) == 'number' and count > 0
end
local function told_epoch()
  if not overdue() then return epoch() end
end
local function birth(seen)
  local e = epoch()
  local start = text(math.max(now(), seen + 1, e and e[1] + 1 or 0))
  redis.call('UNLINK', M)  -- it may be of another type
  redis.call('HSET', M, 'current', start, 'floor', start, 'token', start, 'born', start,
             'seq', 0, 'bytes', 0, 'evictions', 0)
end
local function note(op, id)
  local n = redis.call('HINCRBY', M, 'seq', 1)
  redis.call('XADD', P .. 'log', 'MAXLEN', '~', 10000, '*', 'n', n, 'o', op, 'i', id)
end
local function raise(invalidate)
  local current = redis.call('HINCRBY', M, 'current', 1)
  if not invalidate then return end
  redis.call('HSET', M, 'floor', current)
  note('c', '')
end
local function ensure()
  redis.call('EXISTS', P .. 'none', P .. 'nothing')  -- an error while nodes share the slot's keys
  if not sound() then birth(0) end
  if overdue() then
    redis.call('ZREMRANGEBYSCORE', P .. 'writes', '-inf', text(now()))
    raise(true)
  end
end
local function insist()
  redis.call('UNLINK', P .. 'none')  -- once a script has written, a full server lets it finish
  ensure()
end
local function unpacked(raw)
  if type(raw) ~= 'string' then return nil end
  local fine, value = pcall(cmsgpack.unpack, raw)
  if fine and type(value) == 'table' then return value end
end
local function read(id, floor)
  local r = redis.pcall('HMGET', P .. 'r:' .. id, 'e', 'p')
  local e = not r.err and r[2] and tonumber(r[1])
  return e and e >= floor and r[2]
end
local function read_alias(partition, id, floor)
  local alias = unpacked(redis.pcall('GET', P .. 'a:' .. id))
  local target, note = alias and tostring(alias[1]), alias and tostring(alias[2])
  return alias and read(partition .. ':' .. target, floor), target, note
end
local function vector(id)
  local v = redis.pcall('HGET', P .. 'r:' .. id, 'v')
  return type(v) == 'string' and v
end
local function unindex(id)
  local side = unpacked(redis.call('HGET', P .. 'side', id))
  if not side then return end
  redis.call('HDEL', P .. 'side', id)
  redis.call('ZREM', P .. 'used', id)
  redis.call('ZREM', P .. 'expires', id)
  redis.call('SREM', P .. 's:' .. side[2], id)
  for _, doc in ipairs(side[4]) do redis.call('SREM', P .. 'd:' .. doc, id) end
  redis.call('HINCRBY', M, 'bytes', -side[1])
  if redis.call('HINCRBY', P .. 'parts', side[3], -1) <= 0 then
    redis.call('HDEL', P .. 'parts', side[3])
    redis.call('UNLINK', P .. 'v:' .. side[3])
  end
end
local function forget(id)
  local lived = redis.call('UNLINK', P .. 'r:' .. id)
  unindex(id)
  note('d', id)
  gone[#gone + 1] = id
  return lived
end
local function sweep(count)
  local due = redis.call('ZRANGEBYSCORE', P .. 'expires', '-inf', text(now()), 'LIMIT', 0, count)
  for _, id in ipairs(due) do forget(id) end
end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the hash a server knows it by. Its first argument is always ``P``."""

    body: str
    source: str = field(init=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        source = _PRELUDE + self.body
        object.__setattr__(self, "source", source)
        digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


GET = Script("""
local e = told_epoch()
if not e then return false end
local partition, key = ARGV[2], ARGV[3]
local payload = read(partition .. ':' .. key, e[2])
if payload then return {text(e[1]), text(e[2]), payload} end
local found, target, note_of_alias = read_alias(partition, partition .. ':' .. key, e[2])
if found then return {text(e[1]), text(e[2]), found, target, note_of_alias} end
return {text(e[1]), text(e[2])}
""")
"""partition, key → false | current, floor[, payload[, target, note]]"""

READ = Script("""
local e = told_epoch()
if not e then return false end
local found = {text(e[1]), text(e[2])}
for i = 2, #ARGV do found[i + 1] = read(ARGV[i], e[2]) end
return found
""")
"""ids → false | current, floor, payload or nil for each id"""

VECTORS = Script("""
local found = {}
for i = 2, #ARGV do found[i - 1] = vector(ARGV[i]) end
return found
""")
"""ids → vector or nil for each id"""

LIVING = Script("""
local e = told_epoch()
local found = {}
for i = 2, #ARGV do found[i - 1] = e and read(ARGV[i], e[2]) and vector(ARGV[i]) end
return found
""")
"""ids → vector or nil for each id: of those that READ finds only"""

DROP_OVERTAKEN = Script("""
insist()
local current = epoch()[1]
for i = 2, #ARGV do
  local at = tonumber(redis.pcall('HGET', P .. 'r:' .. ARGV[i], 'e'))
  if at and at < current then forget(ARGV[i]) end
end
return #gone
""")
"""ids → how many were dropped, as there was a write since they were put"""

SCAN = Script("""
local page = redis.call('HSCAN', P .. 'side', ARGV[2], 'COUNT', ARGV[3])
local found = {page[1]}
for i = 1, #page[2], 2 do
  local v = vector(page[2][i])
  if v and #v > 0 then
    found[#found + 1] = page[2][i]
    found[#found + 1] = v
  end
end
return found
""")
"""cursor, count → next cursor, id, vector, id, vector …"""

PLACE = Script("""
local m = redis.pcall('HMGET', M, 'born', 'seq')
m[1], m[2] = m[1] or false, whole(m[2]) and m[2]
local last = redis.call('XREVRANGE', P .. 'log', '+', '-', 'COUNT', 1)
return {m[1], m[2], last[1] and last[1][1] or '0-0'}
""")
"""→ born, seq, last log id"""

PUT = Script("""
ensure()
local id, scope, partition, payload, vector = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local retain, at, token = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local max_entries, max_bytes = tonumber(ARGV[10]), tonumber(ARGV[11])
local e = epoch()
local size = #payload + #vector
if e[1] ~= at or size > max_bytes or retain < 1 then return {0} end
local kept = redis.pcall('HMGET', P .. 'r:' .. id, 'e', 't')
if kept.err then redis.call('UNLINK', P .. 'r:' .. id) end
local kept_epoch, kept_token = tonumber(kept[1]), tonumber(kept[2])
if kept_epoch and kept_token and kept_epoch >= e[2] and kept_token > token then return {0} end
local docs = {}
for i = 12, #ARGV do docs[#docs + 1] = ARGV[i] end
redis.call('HSET', P .. 'r:' .. id, 'e', at, 't', ARGV[9], 'p', payload, 'v', vector)
redis.call('PEXPIRE', P .. 'r:' .. id, text(retain))
unindex(id)
local time = now()
redis.call('HSET', P .. 'side', id, cmsgpack.pack({size, scope, partition, docs, at}))
redis.call('ZADD', P .. 'used', text(time), id)
redis.call('ZADD', P .. 'expires', text(time + retain), id)
redis.call('SADD', P .. 's:' .. scope, id)
for _, doc in ipairs(docs) do redis.call('SADD', P .. 'd:' .. doc, id) end
redis.call('HINCRBY', P .. 'parts', partition, 1)
local bytes = redis.call('HINCRBY', M, 'bytes', size)
note('p', id)
sweep(64)
local entries = redis.call('HLEN', P .. 'side')
for _ = 1, 1000 do
  if entries <= max_entries and bytes <= max_bytes then break end
  local oldest = redis.call('ZRANGE', P .. 'used', 0, 0)[1]
  if not oldest then break end
  forget(oldest)
  redis.call('HINCRBY', M, 'evictions', 1)
  entries = redis.call('HLEN', P .. 'side')
  bytes = tonumber(redis.call('HGET', M, 'bytes'))
end
return {1, unpack(gone)}
""")
"""id, scope, partition, payload, vector, retain ms, epoch, token, max entries, max bytes, document
hashes → 1 kept or 0 refused, then ids dropped to make room"""

ALIAS = Script("""
local id, retain = ARGV[2], tonumber(ARGV[5])
if retain < 1 then return 0 end
redis.call('SET', P .. 'a:' .. id, cmsgpack.pack({ARGV[3], ARGV[4]}), 'PX', text(retain))
redis.call('ZREMRANGEBYSCORE', P .. 'aliases', '-inf', text(now()))
redis.call('ZADD', P .. 'aliases', text(now() + retain), id)
local over = math.min(redis.call('ZCARD', P .. 'aliases') - tonumber(ARGV[6]), 1000)
if over > 0 then
  local gone = redis.call('ZPOPMIN', P .. 'aliases', over)
  for i = 1, #gone, 2 do redis.call('UNLINK', P .. 'a:' .. gone[i]) end
end
return 1
""")
"""id, target key, note, retain ms, max aliases → 1 kept | 0 expired already"""

DELETE = Script("""
insist()
local lived = forget(ARGV[2]) + redis.call('UNLINK', P .. 'a:' .. ARGV[2])
redis.call('ZREM', P .. 'aliases', ARGV[2])
return lived
""")
"""id → how many of record and alias there were"""

DROP_SETS = Script("""
insist()
local left = tonumber(ARGV[2])
local found = {-1, 0}
for i = 3, #ARGV do
  local ids = redis.call('SRANDMEMBER', P .. ARGV[i], left)
  for _, id in ipairs(ids) do
    found[2] = found[2] + forget(id)
    redis.call('SREM', P .. ARGV[i], id)
    found[#found + 1] = id
  end
  left = left - #ids
  if left <= 0 then
    found[1] = i - 3
    break
  end
end
return found
""")
"""count, names of documents' and scopes' sets → which set (from 0) to go on with or -1 when done,
how many lived, dropped ids"""

DROP_STALE = Script("""
insist()
local floor = epoch()[2]
local page = redis.call('HSCAN', P .. 'side', ARGV[2], 'COUNT', ARGV[3])
local found = {page[1], 0}
for i = 1, #page[2], 2 do
  local side = unpacked(page[2][i + 1])
  if not side or tonumber(side[5]) < floor then
    found[2] = found[2] + forget(page[2][i])
    found[#found + 1] = page[2][i]
  end
end
return found
""")
"""cursor, count → next cursor, how many lived, dropped ids: records below the floor"""

DROP_DANGLING = Script("""
insist()
local page = redis.call('ZSCAN', P .. 'aliases', ARGV[2], 'COUNT', ARGV[3])
local floor = epoch()[2]
for i = 1, #page[2], 2 do
  local id = page[2][i]
  if not read_alias(string.match(id, '^[^:]*'), id, floor) then
    redis.call('UNLINK', P .. 'a:' .. id)
    redis.call('ZREM', P .. 'aliases', id)
  end
end
return page[1]
""")
"""cursor, count → next cursor: aliases whose target is gone"""

EPOCH = Script("""
local e = told_epoch()
return e and {text(e[1]), text(e[2])}
""")
"""→ false | current, floor"""

BUMP = Script("""
insist()
raise(ARGV[2] == '1')
local e = epoch()
return {text(e[1]), text(e[2])}
""")
"""1 to invalidate → current, floor"""

REBIRTH = Script("""
redis.call('UNLINK', P .. 'none')
local e = epoch()
if not e or e[1] < tonumber(ARGV[2]) then birth(tonumber(ARGV[2])) end
ensure()
e = epoch()
return {text(e[1]), text(e[2])}
""")
"""highest epoch ever seen → current, floor: begin anew above it, unless someone already has; and
end the epoch if a writer died before it told"""

ANNOUNCE = Script("""
insist()
redis.call('ZADD', P .. 'writes', text(now() + tonumber(ARGV[3])), ARGV[2])
return 1
""")
"""name, ttl ms → 1"""

WITHDRAW = Script("""
return redis.call('ZREM', P .. 'writes', ARGV[2])
""")
"""name → how many there were"""

ACQUIRE = Script("""
ensure()
local name, ttl, owner, mine_is_free = P .. 'l:' .. ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local holder = redis.call('GET', name)
if holder then
  local who, held, asked = string.match(holder, '^([^:]*):(%d+):?(.*)$')
  if asked == ARGV[6] then return tonumber(held) end  -- sent again, as the first reply was lost
  if not (mine_is_free and who == owner) then return false end
end
local token = redis.call('HINCRBY', M, 'token', 1)
redis.call('SET', name, owner .. ':' .. token .. ':' .. ARGV[6], 'PX', ttl)
return token
""")
"""name, ttl ms, owner, 1 if a lease of this owner counts as free, a name of the request → false |
token"""

RELEASE = Script("""
local holder = redis.call('GET', P .. 'l:' .. ARGV[2])
if holder and string.match(holder, '^[^:]*:%d+') == ARGV[3] then
  return redis.call('UNLINK', P .. 'l:' .. ARGV[2])
end
return 0
""")
"""name, owner:token → 1 released | 0 held by another"""

RELEASE_OWN = Script("""
for i = 3, #ARGV do
  local holder = redis.call('GET', P .. 'l:' .. ARGV[i])
  if holder and string.match(holder, '^[^:]*') == ARGV[2] then
    redis.call('UNLINK', P .. 'l:' .. ARGV[i])
  end
end
return 1
""")
"""owner, names: give back those that this owner holds"""

TEND = Script("""
insist()
sweep(256)
local time = text(now())
for i = 2, #ARGV do redis.call('ZADD', P .. 'used', 'XX', time, ARGV[i]) end
return gone
""")
"""ids used of late → ids of expired records that were tidied up"""

STATS = Script("""
local m = redis.pcall('HMGET', M, 'bytes', 'evictions', 'current', 'floor')
for i = 1, 4 do m[i] = text(whole(m[i]) or 0) end
return {redis.call('HLEN', P .. 'side'), redis.call('ZCOUNT', P .. 'aliases', text(now()), '+inf'),
        m[1], m[2], m[3], m[4]}
""")
"""→ entries, aliases, bytes, evictions, current, floor"""
