"""What an encoder says of a text, kept for a while: the same documents come back query by query."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

KEPT_BYTES = 256 * 2**20
"""About 3,000 passages of 100 tokens in 384 dimensions, as float16."""


@dataclass(frozen=True, slots=True)
class Representation:
    """A text's unit vector (dim,) and the unit vectors of its tokens (tokens, dim).

    ``truncated`` says that the text was longer than the window.
    """

    pooled: "FloatArray"
    tokens: "NDArray[Any]"
    truncated: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of its vectors."""
        return self.pooled.nbytes + self.tokens.nbytes


class RepresentationCache:
    """Least recently used texts go first once the bound is passed. Safe to share.

    Token vectors are kept as float16: their cosines move by less than 0.001.
    """

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, Representation] = OrderedDict()
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors kept."""
        return self._bytes

    def known(self, model: str, texts: Sequence[str]) -> list[bool]:
        """Which texts of a model are kept."""
        with self._lock:
            return [_key(model, text) in self._kept for text in texts]

    def fetch(
        self,
        model: str,
        texts: Sequence[str],
        compute: Callable[[list[str]], Sequence[Representation]],
    ) -> list[Representation]:
        """Representations of texts; those not kept are computed, each distinct text once."""
        found = {text: self.get(model, text) for text in dict.fromkeys(texts)}
        missing = [text for text, kept in found.items() if kept is None]
        if missing:
            for text, made in zip(missing, compute(missing), strict=True):
                found[text] = self.put(model, text, made)
        return [kept for text in texts if (kept := found[text]) is not None]

    def get(self, model: str, text: str) -> Representation | None:
        """What is kept of a text, or None."""
        key = _key(model, text)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        return None if kept is None else _widened(kept)

    def put(self, model: str, text: str, made: Representation) -> Representation:
        """Keep a text's vectors.

        Returns:
            Them as they will come back, so that a text's score does not depend on whether it was
            asked for before.
        """
        key = _key(model, text)
        kept = replace(made, tokens=made.tokens.astype(np.float16))
        with self._lock:
            self._drop(key)
            self._kept[key] = kept
            self._bytes += kept.nbytes
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))
        return _widened(kept)

    def clear(self) -> None:
        """Forget all texts."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept.nbytes


def _widened(kept: Representation) -> Representation:
    return replace(kept, tokens=kept.tokens.astype(np.float32))


def _key(model: str, text: str) -> bytes:
    data = f"{model}\0{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).digest()


@cache
def shared_representations() -> RepresentationCache:
    """The process's one cache, shared by the late-interaction stage and the scorers."""
    return RepresentationCache()
