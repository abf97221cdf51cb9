"""Checkpoints of a run: where they lie, whether they are whole, and whether they still fit."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from funnel.errors import ConfigError, ModelError
from funnel.log import get_logger
from funnel.training.output import atomic_text, check_ours, told_writes

_log = get_logger(__name__)
_COMPLETE = "complete"  # holds the seconds that the run had taken
_WEIGHTS = "trained.safetensors"
_RUN = "run.json"
_TAUGHT = "teacher-"  # and what it was asked: the scores that a teacher gave

Trainer = TypeVar("Trainer", bound=type[Any])


def checkpoint_folder(output: Path) -> Path:
    """Checkpoints live beside the output, never in it."""
    return output.with_name(f"{output.name}.checkpoints")


def data_fingerprint(rows: Sequence[object]) -> str:
    """SHA-256 over the rows in order: a resumed run must see the same data."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()


def open_run(output: Path, *, resume: bool, overwrite: bool) -> Path | None:
    """Find the checkpoint to go on from, None for a fresh start. Nothing is written or removed.

    Whether it is of the same run, ``check_same_run`` tells.

    Raises:
        ConfigError: there is nothing to resume, or an unfinished run would be lost, or its folder
            holds something else.
    """
    folder = checkpoint_folder(output)
    _check_folder(folder)
    last = _last_complete(folder)
    if resume:
        if last is None:
            raise ConfigError(
                f"nothing to resume: {folder} holds no complete checkpoint; run without --resume"
            )
        return last
    if last is not None and not overwrite:
        raise ConfigError(
            f"{folder} holds an unfinished run; go on with --resume or start over with --overwrite"
        )
    return None


def unfinished(output: Path) -> bool:
    """Whether a run was interrupted and can be resumed."""
    return _last_complete(checkpoint_folder(output)) is not None


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Keep other runs, in this process or another, from an output and its checkpoints.

    A killed run keeps nobody out. Where files cannot be locked, nobody is kept out.

    Raises:
        ConfigError: another run is at it.
    """
    import portalocker

    lock = portalocker.Lock(output.with_name(f".{output.name}.lock"), fail_when_locked=True)
    with told_writes(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except portalocker.exceptions.AlreadyLocked as problem:
            raise ConfigError(
                f"another run is training {output} now; wait for it, or name another output"
            ) from problem
        except portalocker.exceptions.LockException as problem:
            _log.warning("training.output_not_locked", output=str(output), error=str(problem))
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.filename).unlink(missing_ok=True)
        lock.release()


def begin_run(output: Path, identity: Mapping[str, object]) -> None:
    """Start with an empty checkpoint folder that says what run it belongs to.

    Raises:
        ConfigError: the folder holds something else than the checkpoints of a run.
        ModelError: it cannot be emptied or written.
    """
    folder = checkpoint_folder(output)
    _check_folder(folder)
    with told_writes(folder):
        _clear(folder)
    atomic_text(folder / _RUN, json.dumps(_plain(identity), indent=1, sort_keys=True))


def taught(output: Path, asked: Sequence[object]) -> list[float] | None:
    """The scores that a teacher gave for the run of ``output``; None if none were kept.

    ``asked`` is who was asked what.
    """
    try:
        kept: list[float] = json.loads(_taught_file(output, asked).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept


def keep_taught(output: Path, asked: Sequence[object], scores: Sequence[float]) -> None:
    """Keep a teacher's scores until the run of ``output`` is done; asked again, it rounds anew.

    Raises:
        ConfigError: the folder holds something else than the checkpoints of a run.
        ModelError: they cannot be written.
    """
    folder = checkpoint_folder(output)
    _check_folder(folder)
    if not (folder / _RUN).exists():
        atomic_text(folder / _RUN, "{}")
    atomic_text(_taught_file(output, asked), json.dumps(list(scores)))


def _taught_file(output: Path, asked: Sequence[object]) -> Path:
    return checkpoint_folder(output) / f"{_TAUGHT}{data_fingerprint(asked)[:16]}.json"


def seconds_before(checkpoint: Path | None) -> float:
    """How long a run had taken when it wrote a checkpoint; 0 if that is not known."""
    if checkpoint is None:
        return 0.0
    try:
        return float((checkpoint / _COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0


def exact(trainer: Trainer, seconds: Callable[[], float]) -> Trainer:
    """Give a sentence-transformers trainer checkpoints that restore every trained number.

    Only the trained parameters are written (safetensors, in full precision), so LoRA and frozen
    layers cost no space and no head is lost; a marker makes a checkpoint cut off by a kill or a
    full disk recognisable, and says how many ``seconds`` the run has taken.
    """

    class Exact(trainer):  # type: ignore[misc, valid-type]  # the base is chosen by the caller
        """The trainer with our own files."""

        def _save(self, output_dir: str | None = None, **_: Any) -> None:
            from safetensors.torch import save_file

            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(_trained(self.model), folder / _WEIGHTS)

        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            super()._save_checkpoint(*args, **kwargs)
            done = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / _COMPLETE
            done.write_text(f"{seconds():.2f}", encoding="utf-8")

        def _load_from_checkpoint(self, checkpoint_path: str, **_: Any) -> None:
            load_trained(self.model, Path(checkpoint_path))

        def add_model_card_callback(self, *_: Any) -> None:
            """Write no card here: ``funnel.training.card`` does."""

    return Exact  # type: ignore[return-value]


def load_trained(model: Any, checkpoint: Path) -> None:
    """Put a checkpoint's parameters into ``model``.

    Raises:
        ModelError: the checkpoint is damaged or belongs to another model.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = load_file(checkpoint / _WEIGHTS)
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{checkpoint} is damaged ({problem}); start over without it") from problem
    wanted = {name for name, value in model.named_parameters() if value.requires_grad}
    if wanted != set(saved):
        raise ModelError(f"{checkpoint} belongs to a model with other trained layers; start over")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in saved:
                value.copy_(saved[name])


def _trained(model: Any) -> dict[str, Any]:
    return {
        name: value.detach().cpu().contiguous()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def _check_folder(folder: Path) -> None:
    with told_writes(folder):
        check_ours(folder, (_RUN,), "the checkpoints of a run")


def _clear(folder: Path) -> None:
    """Remove all but the mark, which the new run replaces (so a kill leaves a folder of ours).

    What a teacher said stays, too: it was asked for the run that begins.
    """
    for found in folder.iterdir() if folder.exists() else ():
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        elif found.name != _RUN and not found.name.startswith(_TAUGHT):
            found.unlink()


def _last_complete(folder: Path) -> Path | None:
    done = [path.parent for path in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(done, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def check_same_run(output: Path, identity: Mapping[str, object]) -> None:
    """Refuse to go on with a run of other data or settings, or from another base.

    Raises:
        ConfigError: names what has changed.
    """
    folder = checkpoint_folder(output)
    try:
        before = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{folder / _RUN} cannot be read ({problem}); start over") from problem
    now = _plain(identity)
    changed = sorted(
        name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
    )
    if changed:
        told = ", ".join(
            f"{name}: was {before.get(name)!r}, is {now.get(name)!r}" for name in changed
        )
        raise ConfigError(f"cannot resume {folder}: the run has changed ({told}); start over")


def _plain(identity: Mapping[str, object]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(identity)))
    return plain
