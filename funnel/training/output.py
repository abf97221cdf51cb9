"""Write a directory whole or not at all: into a temporary sibling, then renamed into place."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from funnel.errors import ConfigError, ModelError

MODEL_FILES = ("adapter.json", "config.json", "modules.json")
"""Any of them shows that a folder holds a model."""
_TRY_AGAIN = "nothing was written there, free space or mend that and try again"


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse before the work what would fail after it.

    Raises:
        ConfigError: ``path`` exists and ``overwrite`` is off or it is no model, it has no name of
            its own, or its parent cannot be written.
    """
    try:
        _check_replaceable(path)
        check_new(path, overwrite=overwrite)
    except OSError as problem:
        raise ConfigError(f"cannot write to {path.parent}: {problem.strerror}") from problem


def check_new(path: Path, *, overwrite: bool) -> None:
    """Refuse a file or folder that exists, unless it may be replaced, or that cannot be made.

    Raises:
        ConfigError: says which.
    """
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists already; name another output or pass --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(f"cannot write to {path.parent}: {problem.strerror}") from problem
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"cannot write to {path.parent}: no permission")


def check_file(path: Path, *, overwrite: bool, sources: Sequence[Path]) -> None:
    """Refuse a file as :func:`check_new` does, and where it would replace a folder or a source.

    Raises:
        ConfigError: says which.
    """
    check_new(path, overwrite=overwrite)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, expected the name of a file to write")
    if path.exists() and any(path.samefile(source) for source in sources if source.exists()):
        raise ConfigError(f"{path} is what is read; name another output")


def check_ours(folder: Path, marks: Sequence[str], what: str) -> None:
    """Refuse to replace or remove what is neither new, nor empty, nor recognisable by ``marks``.

    The path is a user's, and a slip of the hand must not cost a folder of other things.

    Raises:
        ConfigError: it is a file, or a folder that holds other things than ``what``.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file, expected {what} or a new name; name another output")
    if any((folder / mark).is_file() for mark in marks) or not any(folder.iterdir()):
        return
    raise ConfigError(
        f"{folder} holds files but no {' or '.join(marks)}, so it is not {what} and is not "
        "replaced; name another output or move it away"
    )


def holds_model(folder: Path) -> bool:
    """Whether it looks like a model's directory."""
    return any((folder / name).is_file() for name in MODEL_FILES)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory that becomes ``path`` if the block ends well.

    On any error ``path`` is left as it was. A model or an empty folder at ``path`` is replaced.

    Raises:
        ConfigError: ``path`` is a file or a folder of other things, or has no name of its own.
        ModelError: the disk is full or cannot be written; says so instead of a stack trace.
    """
    with told_writes(path):
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield staging
            _make_readable(staging)
            _swap(staging, path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def atomic_text(path: Path, text: str) -> None:
    """Write one UTF-8 file whole or not at all.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    with told_writes(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        staging = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            staging.chmod(0o644)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)


@contextmanager
def told_writes(path: Path) -> Iterator[None]:
    """Turn a failed write to ``path`` into one sentence.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    try:
        yield
    except Exception as problem:
        if mended := failed_write(problem, path):
            raise mended from problem
        raise


def _make_readable(folder: Path) -> None:
    """As any new file is; some libraries leave theirs to the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _check_replaceable(path: Path) -> None:
    if path.name in ("", ".."):
        raise ConfigError(
            f"output {str(path)!r} has no name of its own, expected the name of a directory to "
            "write; name one, such as ./my-model"
        )
    check_ours(path, MODEL_FILES, "a model's directory")


def _swap(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
        return
    _check_replaceable(path)  # once more: it may have come while the block ran
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        _exchange(staging, path, old / "was")
    except (OSError, ModelError):
        with suppress(OSError):
            old.rmdir()  # only an empty one goes: it may hold the only copy of the old model
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(staging: Path, path: Path, was: Path) -> None:
    path.rename(was)
    try:
        staging.rename(path)
    except OSError as problem:
        _restore(was, path, problem)
        raise


def _restore(was: Path, path: Path, problem: OSError) -> None:
    try:
        was.rename(path)
    except OSError:
        raise ModelError(
            f"could not save to {path}: {problem.strerror}; what was there before is whole in "
            f"{was}, move it back by hand"
        ) from problem


def failed_write(problem: Exception, path: Path, *, mend: str = _TRY_AGAIN) -> ModelError | None:
    """Say in one sentence that a write failed; None if ``problem`` is something else."""
    system = _system_error(problem)
    return ModelError(_explained(system, path, mend)) if system else None


_TORCH_FAILED_WRITING = (
    "PytorchStreamWriter failed writing",
    "basic_ios::clear: iostream error",
    "] . unexpected pos",  # while it closes the file that it could not write to its end
)
_OS_ERROR = re.compile(r"os error (\d+)|errno[ =]*(\d+)", re.IGNORECASE)


def _system_error(problem: BaseException) -> OSError | None:
    """Find the OSError; safetensors and torch report one as text in errors of their own."""
    if isinstance(problem, OSError):
        return problem
    if found := _OS_ERROR.search(str(problem)):
        number = int(found[1] or found[2])
        return OSError(number, os.strerror(number))
    if any(words in str(problem) for words in _TORCH_FAILED_WRITING):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _explained(problem: OSError, path: Path, mend: str = _TRY_AGAIN) -> str:
    what = "the disk is full" if problem.errno == errno.ENOSPC else problem.strerror or str(problem)
    return f"could not save to {path}: {what}; {mend}"
