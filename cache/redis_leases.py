"""Which leases this process holds, and which it may hold without knowing.

A request for a lease that timed out may still have been granted: nobody would give that lease back,
and everybody would wait for it. So every lease carries its owner's name, and an owner takes over or
gives back what it cannot be holding on purpose.
"""

import secrets
import time
from collections.abc import Callable

from funnel.cache.store import Lease

_MOST = 1000


class LeaseBook:
    """One process's leases. ``clock`` returns seconds and must not go backwards."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.owner = secrets.token_hex(8)
        self._clock = clock
        self._held: dict[str, float] = {}
        self._doubtful: dict[str, float] = {}

    def mark(self, lease: Lease) -> str:
        """What the server keeps for a lease of ours."""
        return f"{self.owner}:{lease.token}"

    def granted(self, lease: Lease, ttl_s: float) -> None:
        """A lease was given to a caller."""
        self._doubtful.pop(lease.name, None)
        self._note(self._held, lease.name, ttl_s)

    def unanswered(self, name: str, ttl_s: float) -> None:
        """A request for a lease was not answered: it may have been granted."""
        self._note(self._doubtful, name, ttl_s)

    def given_back(self, name: str) -> None:
        """A lease is nobody's any more."""
        self._held.pop(name, None)
        self._doubtful.pop(name, None)

    def doubtful(self) -> list[str]:
        """Names that the server may hold for us although no caller of ours does."""
        now = self._clock()
        self._held = {name: end for name, end in self._held.items() if end > now}
        self._doubtful = {name: end for name, end in self._doubtful.items() if end > now}
        return [name for name in self._doubtful if name not in self._held]

    def _note(self, leases: dict[str, float], name: str, ttl_s: float) -> None:
        if len(leases) >= _MOST:
            leases.pop(next(iter(leases)))
        leases[name] = self._clock() + ttl_s
