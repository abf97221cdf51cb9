"""What the base alone says of texts and pairs."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from funnel.models.batching import token_batches
from funnel.models.encoder_networks import open_network
from funnel.models.hardware import cpu_has_fast_bf16
from funnel.models.source import ModelSource

Floats = NDArray[np.float32]
Tokens = list[int]
_BUDGET = 4096


class Base:
    """The frozen base as it serves: text vectors (kept) and token vectors (made when asked)."""

    def __init__(self, source: ModelSource) -> None:
        self._network = open_network(source, "bf16" if cpu_has_fast_bf16() else "fp32")
        self._vectors: dict[str, NDArray[np.float16]] = {}

    def token_ids(self, texts: Sequence[str]) -> list[Tokens]:
        """The word pieces of each text as the base reads it, special ones included."""
        return [tokens.ids for tokens in self._network.tokenize(texts)]

    def represent(self, texts: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each text its vector (dim,) and token vectors (tokens, dim), of unit length."""
        tokens = self._network.tokenize(texts)
        made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for batch in token_batches([len(each) for each in tokens], _BUDGET):
            rows = self._network.representations([tokens[i] for i in batch])
            for i, row in zip(batch, rows, strict=True):
                made[i] = torch.from_numpy(row.pooled), torch.from_numpy(row.tokens).float()
        return [made[i] for i in range(len(texts))]

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """Cosines of the two texts' vectors, shape (n,); every text is embedded once."""
        self._embed(text for pair in pairs for text in pair)
        return np.array(
            [
                self._vectors[first].astype(np.float32) @ self._vectors[second].astype(np.float32)
                for first, second in pairs
            ],
            dtype=np.float32,
        )

    def vectors(self, texts: Sequence[str]) -> Floats:
        """Text vectors, shape (n, dim)."""
        self._embed(texts)
        return np.stack([self._vectors[text] for text in texts]).astype(np.float32)

    def _embed(self, texts: Iterable[str]) -> None:
        new = sorted(set(texts) - self._vectors.keys())
        tokens = self._network.tokenize(new)
        for batch in token_batches([len(each) for each in tokens], _BUDGET):
            vectors = self._network.pooled([tokens[i] for i in batch]).astype(np.float16)
            self._vectors |= {new[i]: vector for i, vector in zip(batch, vectors, strict=True)}


def max_sim(query: torch.Tensor, document: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean over the query's tokens of the highest cosine with a document token."""
    return (query @ document.T).max(dim=1).values @ weights / weights.sum()
