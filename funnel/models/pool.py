"""Models by name, each loaded once per process."""

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

from funnel.models.encoder import Embedder
from funnel.models.prompts import FILE as PROMPTS
from funnel.models.source import EMBEDDED, ModelName, model_name

if TYPE_CHECKING:
    from funnel.models.scorer import CrossEncoderScorer


Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""A folder's weights and prompts by name, file, size and time; empty where there is no folder."""
_MARKS = ("*.safetensors", "adapter.json", PROMPTS)


class ModelPool:
    """Hands out one instance per name and options. Safe to share between threads.

    Instances load at first use, so asking for one costs nothing. A folder whose model was written
    anew, by training in a notebook, is another model: who asks now gets a new instance, who has
    the old one keeps it.
    """

    @staticmethod
    @cache
    def shared() -> "ModelPool":
        """The pool of this process."""
        return ModelPool()

    def __init__(self) -> None:
        self._lock = Lock()
        self._encoders: dict[str, tuple[Stamp, Embedder]] = {}
        self._scorers: dict[str, tuple[Stamp, CrossEncoderScorer]] = {}

    def encoder(self, name: ModelName) -> Embedder:
        """The encoder of that name."""
        name = model_name(name)
        stamp = _stamp(name)
        with self._lock:
            if name not in self._encoders or self._encoders[name][0] != stamp:
                self._encoders[name] = stamp, Embedder(name)
            return self._encoders[name][1]

    def scorer(self, name: ModelName, **options: Any) -> "CrossEncoderScorer":
        """The scorer of that name with these options (see :class:`CrossEncoderScorer`)."""
        from funnel.models.scorer import CrossEncoderScorer

        name = model_name(name)
        key, stamp = json.dumps([name, options], sort_keys=True, default=str), _stamp(name)
        with self._lock:
            if key not in self._scorers or self._scorers[key][0] != stamp:
                self._scorers[key] = stamp, CrossEncoderScorer(name, **options)
            return self._scorers[key][1]

    def scorers(self) -> "tuple[CrossEncoderScorer, ...]":
        """Those asked for so far."""
        with self._lock:
            return tuple(scorer for _, scorer in self._scorers.values())

    def close(self) -> None:
        """Forget all models; their memory is freed when nobody holds them any more."""
        with self._lock:
            self._encoders.clear()
            self._scorers.clear()


def _stamp(name: str) -> Stamp:
    if name.startswith(EMBEDDED):
        return ()
    folder = Path(name).expanduser()
    with suppress(OSError):  # it is being replaced: whoever loads it will tell
        states = {file.name: file.stat() for mark in _MARKS for file in folder.glob(mark)}
        return tuple((n, s.st_ino, s.st_size, s.st_mtime_ns) for n, s in sorted(states.items()))
    return ()
