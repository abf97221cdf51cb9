"""One process of this machine measures at a time.

Services start many processes together. All would measure the same, and each would find the speed
that the others leave it; those that wait find what the first has kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from funnel.log import get_logger
from funnel.models.sealed import directory

if TYPE_CHECKING:
    import portalocker

LONGEST_WAIT_S = 180.0
"""Then a process measures beside the other, which may have been stopped."""
_POLL_S = 0.05
_FILE = "measuring.lock"
log = get_logger(__name__)


class _Turn:
    """This process's turn; its threads share it, as one may open models that another measures."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._holders = 0
        self._file: portalocker.Lock | None = None

    def take(self) -> None:
        with self._guard:
            if self._holders == 0:
                self._file = _locked()
            self._holders += 1

    def give_back(self) -> None:
        with self._guard:
            self._holders -= 1
            if self._holders == 0 and self._file is not None:
                self._file.release()


_turn = _Turn()


@contextmanager
def measuring() -> Iterator[None]:
    """Wait until no other process measures, at most ``LONGEST_WAIT_S``.

    What is measured may have been kept meanwhile: look again inside. Where nothing can be locked,
    go on without.
    """
    _turn.take()
    try:
        yield
    finally:
        _turn.give_back()


def _locked() -> "portalocker.Lock | None":
    import portalocker

    path = directory() / _FILE
    lock = portalocker.Lock(path, "a", timeout=LONGEST_WAIT_S, check_interval=_POLL_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire()
    except portalocker.exceptions.AlreadyLocked:
        log.warning("measuring_beside_another", waited_s=LONGEST_WAIT_S)
        return None
    except (portalocker.exceptions.LockException, OSError) as error:
        log.debug("measuring_not_locked", error=str(error))
        return None
    return lock
