"""Models by name, each loaded once per process."""

import json
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from funnel.models.encoder import Embedder

if TYPE_CHECKING:
    from funnel.models.scorer import CrossEncoderScorer


class ModelPool:
    """Hands out one instance per name and options. Safe to share between threads.

    Instances load at first use, so asking for one costs nothing.
    """

    @staticmethod
    @cache
    def shared() -> "ModelPool":
        """The pool of this process."""
        return ModelPool()

    def __init__(self) -> None:
        self._lock = Lock()
        self._encoders: dict[str, Embedder] = {}
        self._scorers: dict[str, CrossEncoderScorer] = {}

    def encoder(self, name: str) -> Embedder:
        """The encoder of that name."""
        with self._lock:
            if name not in self._encoders:
                self._encoders[name] = Embedder(name)
            return self._encoders[name]

    def scorer(self, name: str, **options: Any) -> "CrossEncoderScorer":
        """The scorer of that name with these options (see :class:`CrossEncoderScorer`)."""
        from funnel.models.scorer import CrossEncoderScorer

        key = json.dumps([name, options], sort_keys=True, default=str)
        with self._lock:
            if key not in self._scorers:
                self._scorers[key] = CrossEncoderScorer(name, **options)
            return self._scorers[key]

    def scorers(self) -> "tuple[CrossEncoderScorer, ...]":
        """Those asked for so far."""
        with self._lock:
            return tuple(self._scorers.values())

    def close(self) -> None:
        """Forget all models; their memory is freed when nobody holds them any more."""
        with self._lock:
            self._encoders.clear()
            self._scorers.clear()
