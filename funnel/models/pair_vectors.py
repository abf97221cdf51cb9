"""Cosines and token vectors of texts that come in pairs: each distinct text is read once, and kept.

Imports torch: import lazily.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from funnel.models.batching import token_batches
from funnel.models.representations import Representation, shared_representations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from funnel.models.base import TextPair
    from funnel.models.encoder import EncoderNetwork
    from funnel.models.tokens import Tokens

    FloatArray = NDArray[np.float32]

Rows = Mapping[str, Representation]
_BUDGET = 512  # padded tokens of a batch


class PairVectors:
    """One encoder's reading of texts.

    Args:
        network: the encoder.
        pooled_only: no token vectors are asked for, so none are kept.
    """

    def __init__(self, network: "EncoderNetwork", *, pooled_only: bool = False) -> None:
        self.network = network
        self._pooled_only = pooled_only
        self._key = f"{network.key}:pooled" if pooled_only else network.key

    def unread(self, texts: Sequence[str]) -> list[bool]:
        """Which texts would have to be read."""
        return [not known for known in shared_representations().known(self._key, texts)]

    def of(self, texts: Sequence[str]) -> Rows:
        """What the encoder says of each text."""
        rows = shared_representations().fetch(self._key, texts, self._read)
        return dict(zip(texts, rows, strict=True))

    def cosines(self, pairs: "Sequence[TextPair]") -> "FloatArray":
        """Cosines of both texts' vectors, shape (n,)."""
        rows = self.of([text for pair in pairs for text in pair])
        return np.array([cosine_between(pair, rows) for pair in pairs], np.float32)

    def _read(self, texts: list[str]) -> list[Representation]:
        tokens = self.network.tokenize(texts)
        rows: dict[int, Representation] = {}
        for batch in token_batches([len(each) for each in tokens], _BUDGET):
            read = [tokens[i] for i in batch]
            made = self._pooled(read) if self._pooled_only else self.network.representations(read)
            rows |= dict(zip(batch, made, strict=True))
        return [rows[i] for i in range(len(texts))]

    def _pooled(self, batch: "Sequence[Tokens]") -> list[Representation]:
        vectors = self.network.pooled(batch)
        return [Representation(vector, vector[:0, None]) for vector in vectors]


def cosine_between(pair: "TextPair", rows: Rows) -> float:
    """Of a pair whose texts were read."""
    first, second = pair
    return float(rows[first].pooled @ rows[second].pooled)
