"""The SQLite store's tables. Triggers keep the counts, so that no code path can forget them."""

APPLICATION_ID = 0x46554E43
"""Marks a file as ours, so that a database of another program is never touched."""

SCHEMA = 2

CREATE = """
CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  born INTEGER NOT NULL,
  current INTEGER NOT NULL,
  floor INTEGER NOT NULL,
  token INTEGER NOT NULL,
  seq INTEGER NOT NULL DEFAULT 0,
  entries INTEGER NOT NULL DEFAULT 0,
  aliases INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0,
  evictions INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE records (
  id INTEGER PRIMARY KEY,
  partition TEXT NOT NULL,
  key TEXT NOT NULL,
  scope TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  token INTEGER NOT NULL,
  expires REAL NOT NULL,
  retain REAL NOT NULL,
  used REAL NOT NULL,
  seq INTEGER NOT NULL,
  size INTEGER NOT NULL,
  vector BLOB,
  payload BLOB NOT NULL,
  UNIQUE (partition, key)
);
CREATE INDEX records_expires ON records (expires);
CREATE INDEX records_used ON records (used);
CREATE INDEX records_scope ON records (scope);
CREATE INDEX records_seq ON records (seq);
CREATE INDEX records_epoch ON records (epoch);
CREATE TABLE documents (
  document BLOB NOT NULL,
  record INTEGER NOT NULL,
  PRIMARY KEY (document, record)
) WITHOUT ROWID;
CREATE INDEX documents_record ON documents (record);
CREATE TABLE aliases (
  partition TEXT NOT NULL,
  key TEXT NOT NULL,
  target TEXT NOT NULL,
  note BLOB NOT NULL,
  expires REAL NOT NULL,
  retain REAL NOT NULL,
  PRIMARY KEY (partition, key)
) WITHOUT ROWID;
CREATE INDEX aliases_expires ON aliases (expires);
CREATE TABLE leases (
  name TEXT PRIMARY KEY,
  token INTEGER NOT NULL,
  expires REAL NOT NULL,
  ttl REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE writes (
  name TEXT PRIMARY KEY,
  expires REAL NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER record_added AFTER INSERT ON records BEGIN
  UPDATE meta SET entries = entries + 1, bytes = bytes + new.size, seq = new.seq;
END;
CREATE TRIGGER record_dropped AFTER DELETE ON records BEGIN
  UPDATE meta SET entries = entries - 1, bytes = bytes - old.size;
  DELETE FROM documents WHERE record = old.id;
END;
CREATE TRIGGER alias_added AFTER INSERT ON aliases BEGIN
  UPDATE meta SET aliases = aliases + 1;
END;
CREATE TRIGGER alias_dropped AFTER DELETE ON aliases BEGIN
  UPDATE meta SET aliases = aliases - 1;
END;
"""

READ = """
SELECT m.current, m.floor, r.payload
FROM meta m LEFT JOIN records r
  ON r.partition = :partition AND r.key = :key AND r.epoch >= m.floor
  AND r.expires > :now AND r.expires - r.retain <= :now + 1
"""
"""A record that outlives its own retention was written before the clock was set back: not valid."""

READ_ALIAS = """
SELECT a.target, a.note, r.payload
FROM aliases a
JOIN meta m
JOIN records r ON r.partition = a.partition AND r.key = a.target AND r.epoch >= m.floor
WHERE a.partition = :partition AND a.key = :key
  AND a.expires > :now AND a.expires - a.retain <= :now + 1
  AND r.expires > :now AND r.expires - r.retain <= :now + 1
"""

INSERT = """
INSERT INTO records (partition, key, scope, epoch, token, expires, retain, used, seq, size, vector,
                     payload)
SELECT :partition, :key, :scope, :epoch, :token, :now + :retain, :retain, :now, seq + 1, :size,
       :vector, :payload
FROM meta
"""

LATEST_LEADER = """
SELECT r.token FROM records r JOIN meta m ON r.epoch >= m.floor
WHERE r.partition = :partition AND r.key = :key AND r.expires > :now
"""

LIVE = "expires > :now AND expires - retain <= :now + 1 AND epoch >= (SELECT floor FROM meta)"
OLDEST_FIRST = "1 ORDER BY used"
STALE = "epoch < (SELECT floor FROM meta)"
OF_DOCUMENTS = "id IN (SELECT record FROM documents WHERE document IN ({marks}))"

NEWER = """
SELECT seq, partition, key, vector FROM records
WHERE seq > :seq AND epoch >= :floor ORDER BY seq LIMIT :limit
"""

DROP_OLDEST_ALIASES = """
DELETE FROM aliases WHERE (partition, key) IN (
  SELECT partition, key FROM aliases ORDER BY expires LIMIT :limit
)
"""

DROP_DANGLING = """
DELETE FROM aliases WHERE NOT EXISTS (
  SELECT 1 FROM records r JOIN meta m ON r.epoch >= m.floor
  WHERE r.partition = aliases.partition AND r.key = aliases.target
)
"""
