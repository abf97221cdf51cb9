"""The contract of a cache store: opaque records by key, nearest records by vector, one epoch.

A store keeps bytes and knows nothing of what they mean: :mod:`funnel.cache.codec` seals and opens
them. All names it is given (``partition``, ``key``, ``scope``, lease names) are lower-case hex or
empty, so they are safe in keys and file names; document ids are the caller's own and are not.

Layout rules for stores on a server: a record with its own expiry is the truth; whatever helps to
find it (vectors, reverse index, change log) may be lost or late, so every record found through it
is confirmed by reading the record itself, and an expired one is simply not returned. All keys of
one namespace share a hash tag, so that multi-key work stays in one slot of a cluster.

Errors: a store raises :class:`funnel.errors.CacheError` (only) when it cannot answer, within its
``timeout_ms``. The cache turns that into a miss.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from funnel.types import EMPTY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]


class Missing:
    """The type of ``MISSING``: a miss is a value of its own, never ``None``."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()

LONGEST_S: Final = 10 * 365 * 86_400
"""Ten years: the longest that anything is kept, far below what a server's clock can count to."""


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """Where the corpus stands, as the store says.

    ``current`` grows with every index write and every purge. ``floor`` is the oldest epoch whose
    records are still valid: a record with ``epoch < floor`` reads as missing. A full invalidation
    sets ``floor`` to ``current``; a targeted one leaves it and deletes what is affected.
    """

    current: int = 0
    floor: int = 0


ROOM = "\0room"
"""Among a record's documents where any new one may enter its answer: shorter than its k, or with no
vector by which a near document could find it."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one answered query.

    Args:
        partition: the hash of everything that must be equal for an answer to be reused.
        key: the hash of the query's text; unique within the partition.
        scope: the hash of the tenant, empty for none; what ``purge(scope=…)`` selects by.
        payload: the sealed entry.
        retain_s: seconds from now after which the store forgets it (freshness is decided above), or
            ``LONGEST_S`` if that is sooner.
        epoch: ``Epoch.current`` as read before the answer was computed.
        token: the fencing token of the lease it was computed under, 0 without a lease.
        vector: the query's embedding, shape (dim,), unit length; None keeps it out of ``nearest``.
        documents: ids of the documents in the answer, and ``ROOM``, for the reverse index.
    """

    partition: str
    key: str
    scope: str
    payload: bytes
    retain_s: float
    epoch: int
    token: int = 0
    vector: "Vector | None" = None
    documents: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as read back.

    ``key`` is the record's own key. ``alias`` is the sealed note of the alias that led to it, None
    when it was read by its own key. ``cosine`` is set by ``nearest``.
    """

    partition: str
    key: str
    payload: bytes
    alias: bytes | None = None
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer to ``get``: what was found, and the epoch read in the same round trip."""

    found: Stored | Missing
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The answer to ``nearest``: best first, confirmed, with the epoch of the same round trip."""

    found: Sequence[Stored]
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to compute ``name``. ``token`` grows with every lease granted in the namespace."""

    name: str
    token: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Gauges of a store. ``extra`` is the store's own (mirror size, lag, server version …)."""

    kind: str
    entries: int
    aliases: int
    bytes: int
    evictions: int
    epoch: Epoch
    extra: Mapping[str, Any] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What every store is built with.

    ``namespace`` separates deployments that share a server. ``timeout_ms`` bounds every call.
    ``max_entries`` bounds records, and aliases likewise; ``max_bytes`` bounds payloads and vectors
    together. The store evicts on its own side and keeps within them for ever.
    """

    namespace: str = "funnel"
    timeout_ms: float = 50.0
    max_entries: int = 100_000
    max_bytes: int = 512 * 1024 * 1024


class Store(ABC):
    """Where entries live. Used by many tasks of one event loop at once."""

    shared: bool = False
    """Whether other processes see the same records (then leases are worth their round trips)."""

    @property
    def where(self) -> str:
        """Which one it is, for messages: a server without its credentials, or a file."""
        return type(self).__name__

    @property
    def answered_at(self) -> float:
        """When it last answered, be it too late for who asked (monotonic seconds); -inf: unknown.

        Of a store that is far away: one that answers some is not to blame if others had to queue.
        """
        return -math.inf

    @abstractmethod
    async def get(self, partition: str, key: str) -> Reading:
        """Read one record by its key or by an alias of it, and the epoch, in one round trip.

        An alias costs at most one further read. Expired, evicted and below-floor records, and
        aliases whose target is gone, are ``MISSING``.
        """

    @abstractmethod
    async def get_many(self, partition: str, keys: Sequence[str]) -> Sequence[Stored | Missing]:
        """Read records by their own keys (no aliases), in the order of ``keys``."""

    @abstractmethod
    async def nearest(
        self, partition: str, vector: "Vector", *, limit: int, floor: float
    ) -> Neighbours:
        """Find the ``limit`` records of a partition nearest to ``vector``, at least at ``floor``.

        Cosine similarity, highest first; each one confirmed to be alive and valid.
        """

    @abstractmethod
    async def nearest_anywhere(
        self, vector: "Vector", *, limit: int, floor: float
    ) -> Sequence[Stored]:
        """The same over all partitions: whom a new document might concern.

        Unlike ``nearest`` it is complete, and may take seconds to be: it knows every record that
        was put before the call, by whatever process, and fewer than ``limit`` means that there are
        no more. A store that cannot be certain of that raises.
        """

    @abstractmethod
    async def put(self, record: Record) -> bool:
        """Keep a record, replacing one of the same key. Returns whether it was kept.

        Refused, atomically, when ``record.epoch`` is not the current epoch any more (the index was
        written while the answer was computed), when the kept record of that key has a higher
        ``token``, and when the record alone exceeds ``max_bytes``.
        """

    @abstractmethod
    async def alias(
        self, partition: str, key: str, target: str, *, note: bytes, retain_s: float
    ) -> None:
        """Let ``key`` lead to the record ``target`` of the same partition for ``retain_s``.

        ``target`` is a record's own key, never an alias. A record of its own under ``key`` wins
        over the alias.
        """

    @abstractmethod
    async def delete(self, partition: str, key: str) -> bool:
        """Drop one record (or alias) by its key. Returns whether there was one."""

    @abstractmethod
    async def delete_documents(self, ids: Sequence[str]) -> int:
        """Drop all records whose answer holds one of these documents. Returns how many."""

    @abstractmethod
    async def epoch(self) -> Epoch:
        """Read the epoch."""

    @abstractmethod
    async def bump(self, *, invalidate: bool) -> Epoch:
        """Raise ``current`` by one; with ``invalidate`` raise ``floor`` to it as well."""

    @abstractmethod
    async def purge(self, *, scope: str | None = None) -> int:
        """Drop all records of one scope, or of the whole namespace; returns how many.

        Touches nothing outside the namespace, and never lowers the epoch.
        """

    @abstractmethod
    async def acquire(self, name: str, *, ttl_s: float) -> Lease | None:
        """Take the lease ``name`` for ``ttl_s``, or return None while another holds it."""

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """Give a lease back; a lease that has passed to another holder is left alone."""

    @abstractmethod
    async def stats(self) -> StoreStats:
        """Gauges; cheap enough to be scraped every few seconds."""

    @abstractmethod
    async def ping(self) -> None:
        """Return when the store answers."""

    async def announce(self, name: str, *, ttl_s: float) -> None:  # noqa: B027
        """Note that somebody is about to write the index; again to make it hold for longer.

        Unless it is withdrawn within ``ttl_s``, whoever wrote has died before it told what changed:
        then the epoch ends, as by ``bump(invalidate=True)``, before any process reads a record. A
        store that is not shared dies with its writer and has nothing to note.
        """

    async def withdraw(self, name: str) -> None:  # noqa: B027
        """Note that the writer has told all; a name that is unknown, or was ended, is ignored."""

    def touch(self, partition: str, key: str) -> None:  # noqa: B027
        """Count a record as used just now, though it was not read here.

        A hit that a process serves from its own memory would otherwise look like no use at all,
        and the most asked entry would be the first evicted. Neither waits nor raises; a store
        writes many of them down at once, later, and may lose some. Unknown records are ignored.
        """

    async def start(self) -> None:  # noqa: B027
        """Connect and load the mirror; raises CacheError when the store cannot be reached.

        May be called again after a failure, and everything must work without it (later).
        """

    async def aclose(self) -> None:  # noqa: B027
        """Stop background work and close connections; further calls raise CacheError."""
