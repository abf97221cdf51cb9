"""What SQLite and the file system refuse, in words that name the mend."""

import errno
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from funnel.errors import CacheError

_ELSEWHERE = "or give cache.path another place"
_WRITABLE = (
    "a file that this process may read and write, in a folder where it may do so; make {folder} "
    f"and what is in it writable for this process, {_ELSEWHERE}"
)
_ROOM = f"room on its disk; make some there, {_ELSEWHERE}"
_A_DISK = f"a disk that can be read and written; see to the one that holds it, {_ELSEWHERE}"
_A_TURN = (
    "its turn in time; another process is writing: if that goes on, raise cache.timeout_ms or end "
    "what holds the file"
)
_ANYTHING = f"an answer; if it stays so, move the file away, {_ELSEWHERE}"

# By SQLite's primary result codes.
_EXPECTED: Mapping[int, str] = MappingProxyType(
    {
        sqlite3.SQLITE_READONLY: _WRITABLE,
        sqlite3.SQLITE_CANTOPEN: _WRITABLE,
        sqlite3.SQLITE_PERM: _WRITABLE,
        sqlite3.SQLITE_FULL: _ROOM,
        sqlite3.SQLITE_IOERR: _A_DISK,
        sqlite3.SQLITE_BUSY: _A_TURN,
        sqlite3.SQLITE_LOCKED: _A_TURN,
    }
)
_OF_THE_SYSTEM: Mapping[int, str] = MappingProxyType(
    {errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EIO: _A_DISK}
)


def primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's result code without its details; None of an error of Python's own module."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def refused(path: Path, error: sqlite3.Error) -> CacheError:
    """The error for what SQLite says of a file that is not damaged."""
    return _told(path, str(error), _EXPECTED.get(primary_code(error) or 0, _ANYTHING))


def unusable(path: Path, error: OSError) -> CacheError:
    """The error for what the system says when the file is looked for or made."""
    reason = error.strerror or str(error)
    return _told(path, reason, _OF_THE_SYSTEM.get(error.errno or 0, _WRITABLE))


def _told(path: Path, got: str, expected: str) -> CacheError:
    return CacheError(f"{path}: got '{got}', expected {expected.format(folder=path.parent)}")
