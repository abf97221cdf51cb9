"""Write a directory whole or not at all: into a temporary sibling, then renamed into place."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from funnel.errors import ConfigError, ModelError


def check_output(path: Path, *, overwrite: bool, needed_bytes: int) -> None:
    """Refuse before the work what would fail after it.

    Raises:
        ConfigError: ``path`` exists and ``overwrite`` is off, or its parent cannot be written.
        ModelError: the disk has less than ``needed_bytes`` free.
    """
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists already; name another output or pass --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as problem:
        raise ConfigError(f"cannot write to {path.parent}: {problem.strerror}") from problem
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"cannot write to {path.parent}: no permission")
    if free < needed_bytes:
        raise ModelError(
            f"{path.parent} has {free / 1e6:.0f} MB free, about {needed_bytes / 1e6:.0f} MB are "
            "needed for the model and one checkpoint; free some space or name another output"
        )


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory that becomes ``path`` if the block ends well.

    On any error ``path`` is left as it was. An existing ``path`` is replaced.

    Raises:
        ModelError: the disk is full or cannot be written; says so instead of a stack trace.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    staging.chmod(0o755)
    try:
        yield staging
        _swap(staging, path)
    except Exception as problem:
        if mended := failed_write(problem, path):
            raise mended from problem
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def atomic_text(path: Path, text: str) -> None:
    """Write one UTF-8 file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    staging = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        staging.chmod(0o644)
        staging.replace(path)
    except OSError as problem:
        raise ModelError(_explained(problem, path)) from problem
    finally:
        staging.unlink(missing_ok=True)


def _swap(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    path.rename(old / "was")
    staging.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def failed_write(problem: Exception, path: Path) -> ModelError | None:
    """Say in one sentence that a write failed; None if ``problem`` is something else."""
    system = _system_error(problem)
    return ModelError(_explained(system, path)) if system else None


_OS_ERROR = re.compile(r"os error (\d+)|errno[ =]*(\d+)", re.IGNORECASE)


def _system_error(problem: BaseException) -> OSError | None:
    """Find the OSError; safetensors and torch report one as text in errors of their own."""
    if isinstance(problem, OSError):
        return problem
    if found := _OS_ERROR.search(str(problem)):
        number = int(found[1] or found[2])
        return OSError(number, os.strerror(number))
    if "PytorchStreamWriter failed writing" in str(problem):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _explained(problem: OSError, path: Path) -> str:
    what = "the disk is full" if problem.errno == errno.ENOSPC else problem.strerror or str(problem)
    return f"could not save to {path}: {what}; nothing was written there, free space and try again"
