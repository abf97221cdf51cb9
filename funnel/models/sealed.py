"""Files that this machine can make again: compiled models and measured choices.

Each begins with the hash of the rest, so that a damaged one is noticed and made anew. Compiled
models are large, and a new version of a library makes all of them anew: once they take more than
``KEPT_BYTES``, those that were not used for longest are deleted.
"""

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from funnel.log import get_logger

DIGEST_BYTES = 32
KEPT_BYTES = 2 * 2**30
"""Most of all compiled models together, those in use aside."""
IN_USE_S = 3600.0
"""What was used so short a time ago, perhaps by another process, is never deleted."""
_COMPILED = ("openvino/*.blob", "onnx/*.onnx")
_TEMPORARY = "unfinished-"
_used: set[Path] = set()
log = get_logger(__name__)


def directory() -> Path:
    """Where they are: ``FUNNEL_CACHE_DIR``, or ``retrieval-funnel`` in the user's cache folder."""
    if chosen := os.environ.get("FUNNEL_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "retrieval-funnel"


def read(name: str) -> bytes | None:
    """What was kept under a name, or None if there is nothing or it is damaged."""
    path = directory() / name
    try:
        data = path.read_bytes()
    except OSError:
        return None
    _note_use(path)
    digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() == digest:
        return content
    log.warning("cached_file_damaged", name=name, mend="it is made anew")
    return None


def write(name: str, content: bytes) -> None:
    """Keep something, whole or not at all; where nothing can be written, go on without."""
    target = directory() / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _replace(target, hashlib.sha256(content).digest() + content)
    except OSError as error:
        log.warning("cached_file_not_written", name=name, error=str(error))
        return
    _note_use(target)
    with suppress(OSError):  # another process deletes at the same time
        _prune()


def _note_use(path: Path) -> None:
    _used.add(path)
    with suppress(OSError):  # a folder that may only be read
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _prune() -> None:
    """Delete the compiled models that were not used for longest; none that this process uses."""
    for path in directory().glob(f"*/{_TEMPORARY}*"):  # of processes killed while they wrote
        if time.time() - path.stat().st_mtime > IN_USE_S:
            path.unlink(missing_ok=True)
    files = [(path, path.stat()) for each in _COMPILED for path in directory().glob(each)]
    total = sum(state.st_size for _, state in files)
    for path, state in sorted(files, key=lambda file: file[1].st_atime):
        recent = time.time() - state.st_atime < IN_USE_S
        if total > KEPT_BYTES and not recent and path not in _used:
            path.unlink(missing_ok=True)
            total -= state.st_size
            log.info("cached_file_deleted", name=path.name, mend="it is made again when needed")


def _replace(target: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=_TEMPORARY, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.close()
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
