"""What the cross-encoder, the tuned encoder and the base alone say of texts and pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from funnel.models.batching import token_batches
from funnel.models.encoder_networks import open_network
from funnel.models.hardware import cpu_has_fast_bf16
from funnel.models.source import ModelSource
from recipes.bert import CrossEncoder, TwinEncoder

Floats = NDArray[np.float32]
Tokens = list[int]
_BATCH, _AT_ONCE, _BUDGET = 64, 128, 4096


@dataclass
class Words:
    """Word pieces of texts, kept: every text is met many times."""

    tokenizer: Any
    _known: dict[str, Tokens] = field(default_factory=dict)

    def pieces(self, text: str, limit: int) -> Tokens:
        """The first ``limit`` word pieces, without special tokens."""
        if text not in self._known:
            found = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=510)
            self._known[text] = found["input_ids"]
        return self._known[text][:limit]

    def pair(self, first: str, second: str, window: int) -> tuple[Tokens, int]:
        """``[CLS] first [SEP] second [SEP]`` and where the second segment starts."""
        head = self.single(first, window)
        return [*head, *self.single(second, window)[1:]], len(head)

    def single(self, text: str, limit: int) -> Tokens:
        """``[CLS] text [SEP]`` with at most ``limit`` word pieces of the text."""
        pieces = self.pieces(text, limit)
        return [self.tokenizer.cls_token_id, *pieces, self.tokenizer.sep_token_id]


def padded(
    rows: Sequence[Tokens], starts: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and segments of shape (rows, longest); segment 1 begins at ``starts``."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, segments = torch.zeros_like(ids), torch.zeros_like(ids)
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
        segments[index, start : len(row)] = 1
    return ids, mask, segments


@torch.no_grad()
def predict(
    network: CrossEncoder, words: Words, pairs: Sequence[tuple[str, str]], window: int
) -> Floats:
    """Logits of many pairs, shape (n,), in batches of similar length."""
    cut = [words.pair(first, second, window) for first, second in pairs]
    order = sorted(range(len(pairs)), key=lambda i: len(cut[i][0]))
    scores = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        rows, starts = zip(*(cut[i] for i in part), strict=True)
        scores[part] = network(*padded(rows, starts)).numpy()
    return scores


@torch.no_grad()
def twin_cosines(
    network: TwinEncoder, words: Words, pairs: Sequence[tuple[str, str]], window: int
) -> Floats:
    """Cosines of many pairs, shape (n,); each text is read once."""
    texts = sorted(
        {text for pair in pairs for text in pair}, key=lambda text: len(words.pieces(text, window))
    )
    found = []
    for start in range(0, len(texts), _AT_ONCE):
        rows = [words.single(text, window) for text in texts[start : start + _AT_ONCE]]
        ids, mask, _ = padded(rows, list(map(len, rows)))
        found.append(network(ids, mask))
    place = {text: i for i, text in enumerate(texts)}
    vectors = torch.cat(found).numpy()
    first, second = (vectors[[place[pair[side]] for pair in pairs]] for side in (0, 1))
    return np.asarray((first * second).sum(1), dtype=np.float32)


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
