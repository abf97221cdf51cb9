"""Deterministic stand-ins for models, for tests of everything around them."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from funnel.models.base import Side

FloatArray = NDArray[np.float32]


class FakeEncoder:
    """Hashes words to vectors and adds them up, so that shared words mean similar vectors.

    ``texts`` records everything that was embedded, in order, ``sides`` as what.
    """

    def __init__(self, name: str = "fake:hashing", *, dim: int = 64, revision: str = "1") -> None:
        self.name = name
        self.dim = dim
        self.revision = revision
        self.max_tokens = 256
        self.texts: list[str] = []
        self.sides: list[Side | None] = []

    def count_tokens(self, texts: Sequence[str], *, side: Side | None = None) -> list[int]:
        return [len(_words(text)) + 2 for text in texts]

    def encode(
        self, texts: Sequence[str], *, progress: bool = False, side: Side | None = None
    ) -> FloatArray:
        self.texts.extend(texts)
        self.sides.extend([side] * len(texts))
        sums = [matrix.sum(axis=0) for matrix in self.token_vectors(texts)]
        vectors = np.stack(sums) if sums else np.zeros((0, self.dim), dtype=np.float32)
        unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
        return self.encode(texts, side=side)

    def token_vectors(self, texts: Sequence[str], *, side: Side | None = None) -> list[FloatArray]:
        return [np.stack([_vector(word, self.dim) for word in _words(text)]) for text in texts]

    async def atoken_vectors(
        self, texts: Sequence[str], *, side: Side | None = None
    ) -> list[FloatArray]:
        self.sides.extend([side] * len(texts))
        return self.token_vectors(texts, side=side)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower()) or ["<empty>"]


@lru_cache(maxsize=1 << 16)
def _vector(word: str, dim: int) -> FloatArray:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    unit: FloatArray = vector / np.linalg.norm(vector)
    return unit
