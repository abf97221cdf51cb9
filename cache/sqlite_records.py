"""What is done to the records of a SQLite file, within a transaction of the caller's."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from funnel.cache import sqlite_schema as sql
from funnel.cache.nearest import Neighbour
from funnel.cache.store import MISSING, Epoch, Lease, Missing, Stored


def epoch(connection: sqlite3.Connection) -> Epoch:
    """Where the corpus stands."""
    return Epoch(*connection.execute("SELECT current, floor FROM meta").fetchone())


def gauge(connection: sqlite3.Connection, column: str) -> int:
    """One number of the meta table."""
    return int(connection.execute(f"SELECT {column} FROM meta").fetchone()[0])  # noqa: S608


def bump(connection: sqlite3.Connection, *, invalidate: bool) -> Epoch:
    """Raise the epoch, and with ``invalidate`` the floor to it."""
    connection.execute("UPDATE meta SET current = current + 1")
    if invalidate:
        connection.execute("UPDATE meta SET floor = current")
    return epoch(connection)


def announce(connection: sqlite3.Connection, name: str, expires: float) -> None:
    """Note an index write that the store must be told of by then."""
    connection.execute("INSERT OR REPLACE INTO writes VALUES (?, ?)", (name, expires))


def withdraw(connection: sqlite3.Connection, name: str) -> None:
    """Forget an index write: the store was told."""
    connection.execute("DELETE FROM writes WHERE name = ?", (name,))


def is_overdue(connection: sqlite3.Connection, now: float) -> bool:
    """Whether a writer died before it told the store of its write."""
    found = connection.execute("SELECT 1 FROM writes WHERE expires <= ? LIMIT 1", (now,))
    return found.fetchone() is not None


def end_overdue(connection: sqlite3.Connection, now: float) -> None:
    """End the epoch if a writer died, unless somebody has."""
    if connection.execute("DELETE FROM writes WHERE expires <= ?", (now,)).rowcount:
        bump(connection, invalidate=True)


def begin_anew(connection: sqlite3.Connection, seen: int) -> Epoch:
    """Raise epoch and floor above ``seen``, unless somebody has."""
    connection.execute(
        "UPDATE meta SET current = :next, floor = :next WHERE current < :seen",
        {"next": seen + 1, "seen": seen},
    )
    return epoch(connection)


def read(connection: sqlite3.Connection, partition: str, key: str, now: float) -> Stored | Missing:
    """One live record by its own key."""
    place = {"partition": partition, "key": key, "now": now}
    payload = connection.execute(sql.READ, place).fetchone()[2]
    return MISSING if payload is None else Stored(partition, key, payload)


def read_by_alias(connection: sqlite3.Connection, place: dict[str, Any]) -> Stored | Missing:
    """The live record that a live alias leads to. ``place`` names partition, key and now."""
    row = connection.execute(sql.READ_ALIAS, place).fetchone()
    if row is None:
        return MISSING
    target, note, payload = row
    return Stored(place["partition"], target, payload, alias=note)


def confirm(connection: sqlite3.Connection, hits: Sequence[Neighbour], now: float) -> list[Stored]:
    """Those of the hits that are live records, with their cosines, in the same order."""
    found: list[Stored] = []
    for hit in hits:
        partition, _, key = hit.id.partition(":")
        stored = read(connection, partition, key, now)
        if isinstance(stored, Stored):
            found.append(replace(stored, cosine=hit.score))
    return found


def refuses(connection: sqlite3.Connection, row: dict[str, Any]) -> bool:
    """Whether a put comes too late: the epoch has moved on, or a later leader has put."""
    if gauge(connection, "current") != row["epoch"]:
        return True
    kept = connection.execute(sql.LATEST_LEADER, row).fetchone()
    return kept is not None and int(kept[0]) > row["token"]


def insert(connection: sqlite3.Connection, row: dict[str, Any], documents: set[bytes]) -> None:
    """Put a record in place of the one of its key."""
    place = (row["partition"], row["key"])
    connection.execute("DELETE FROM records WHERE partition = ? AND key = ?", place)
    record = connection.execute(sql.INSERT, row).lastrowid
    connection.executemany(
        "INSERT INTO documents VALUES (?, ?)", [(document, record) for document in documents]
    )


def drop(
    connection: sqlite3.Connection, which: str, values: dict[str, Any], limit: int = 1
) -> tuple[int, int]:
    """Drop up to ``limit`` records. Returns how many, and how many of them were alive."""
    chosen = f"SELECT id FROM records WHERE {which} LIMIT {limit}"  # noqa: S608
    lived = connection.execute(
        f"SELECT count(*) FROM records WHERE id IN ({chosen}) AND {sql.LIVE}",  # noqa: S608
        values,
    ).fetchone()[0]
    dropped = connection.execute(
        f"DELETE FROM records WHERE id IN ({chosen})",  # noqa: S608
        values,
    ).rowcount
    return dropped, int(lived)


def write_down_use(connection: sqlite3.Connection, used: dict[tuple[str, str], float]) -> None:
    """Remember when records were last used."""
    connection.executemany(
        "UPDATE records SET used = ? WHERE partition = ? AND key = ?",
        [(when, *place) for place, when in used.items()],
    )


def take_lease(connection: sqlite3.Connection, name: str, ttl_s: float, now: float) -> Lease | None:
    """A lease, or None while another holds it."""
    over = "expires <= :now OR expires - ttl > :now + 1"  # the latter: the clock was set back
    connection.execute(f"DELETE FROM leases WHERE {over}", {"now": now})  # noqa: S608
    if connection.execute("SELECT 1 FROM leases WHERE name = ?", (name,)).fetchone():
        return None
    connection.execute("UPDATE meta SET token = token + 1")
    lease = Lease(name, gauge(connection, "token"))
    row = (name, lease.token, now + ttl_s, ttl_s)
    connection.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", row)
    return lease


def give_back(connection: sqlite3.Connection, lease: Lease | None) -> None:
    """End a lease, if there is one and it has not passed to another holder."""
    if lease is None:
        return
    place = (lease.name, lease.token)
    connection.execute("DELETE FROM leases WHERE name = ? AND token = ?", place)
