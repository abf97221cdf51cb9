"""Files that this machine can make again: compiled models and measured choices.

Each begins with the hash of the rest, so that a damaged one is noticed and made anew.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from funnel.log import get_logger

DIGEST_BYTES = 32
log = get_logger(__name__)


def directory() -> Path:
    """Where they are: ``FUNNEL_CACHE_DIR``, or ``retrieval-funnel`` in the user's cache folder."""
    if chosen := os.environ.get("FUNNEL_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "retrieval-funnel"


def read(name: str) -> bytes | None:
    """What was kept under a name, or None if there is nothing or it is damaged."""
    try:
        data = (directory() / name).read_bytes()
    except OSError:
        return None
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


def _replace(target: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.close()
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
