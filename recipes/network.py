"""The cross-encoder over the frozen base, and what the base alone says of a pair.

The cross-encoder is trained as a *residual*: its logit is added to a fixed or slowly learnt weight
times the base's own similarity, so that training starts from what the base knows, instead of
unlearning it first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tokens = list[int]
_BATCH, _EMBEDDED = 64, 256


@dataclass(frozen=True)
class Windows:
    """Most tokens kept of each side of a pair, and of a text embedded alone."""

    first: int
    second: int
    alone: int = 254


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

    def alone(self, text: str, windows: Windows) -> Tokens:
        """``[CLS] text [SEP]``."""
        return self._closed(self.pieces(text, windows.alone))

    def pair(self, first: str, second: str, windows: Windows) -> tuple[Tokens, int]:
        """``[CLS] first [SEP] second [SEP]`` and where the second segment starts."""
        head = self._closed(self.pieces(first, windows.first))
        return [*head, *self._closed(self.pieces(second, windows.second))[1:]], len(head)

    def _closed(self, pieces: Tokens) -> Tokens:
        return [self.tokenizer.cls_token_id, *pieces, self.tokenizer.sep_token_id]


def padded(rows: Sequence[Tokens], starts: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
    """Inputs of shape (rows, longest); segment 1 begins at ``starts``."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, segments = torch.zeros_like(ids), torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
        if starts is not None:
            segments[index, starts[index] : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def autocast() -> torch.autocast:
    """Matrix products in bfloat16; the weights and their updates stay float32."""
    return torch.autocast("cpu", torch.bfloat16)


def fresh_cross_encoder(base: Path, *, frozen_layers: int) -> Any:
    """The base with one logit on top; embeddings and the lowest layers do not learn.

    No dropout: it costs a fifth of the speed here, and no pair is seen often.
    """
    from transformers import BertForSequenceClassification

    network = BertForSequenceClassification.from_pretrained(
        base,
        num_labels=1,
        attn_implementation="eager",  # faster than sdpa in bfloat16 on the CPUs measured
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.nn.init.normal_(network.classifier.weight, std=0.01)
    torch.nn.init.zeros_(network.classifier.bias)
    for module in [network.bert.embeddings, *network.bert.encoder.layer[:frozen_layers]]:
        module.requires_grad_(False)
    return network.train()


def cross_logits(
    network: Any, words: Words, pairs: Sequence[tuple[str, str]], windows: Windows
) -> torch.Tensor:
    """Logits of shape (n,), float32, with gradients if they are on."""
    cut = [words.pair(first, second, windows) for first, second in pairs]
    with autocast():
        output = network(**padded([row for row, _ in cut], [start for _, start in cut]))
    logits: torch.Tensor = output.logits[:, 0].float()
    return logits


def predict(
    network: Any, words: Words, pairs: Sequence[tuple[str, str]], windows: Windows
) -> Floats:
    """Logits of many pairs, shape (n,), in batches of similar length."""
    lengths = [len(words.pair(*pair, windows)[0]) for pair in pairs]
    order = sorted(range(len(pairs)), key=lengths.__getitem__)
    scores = np.zeros(len(pairs), dtype=np.float32)
    network.eval()
    with torch.no_grad():
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            logits = cross_logits(network, words, [pairs[i] for i in part], windows)
            scores[part] = logits.numpy()
    network.train()
    return scores


class Base:
    """The frozen base: text vectors (kept) and token vectors (made when asked)."""

    def __init__(self, path: Path, words: Words, windows: Windows) -> None:
        from transformers import BertModel

        network: Any = BertModel.from_pretrained(
            path, attn_implementation="eager", add_pooling_layer=False
        )
        self._network = network.eval()
        self._words, self._windows = words, windows
        self._vectors: dict[str, NDArray[np.float16]] = {}

    def encode(self, texts: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each text its vector (dim,) and token vectors (tokens, dim), of unit length."""
        rows = [self._words.alone(text, self._windows) for text in texts]
        inputs = padded(rows)
        with torch.no_grad(), autocast():
            states = self._network(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None].float()
        vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        tokens = torch.nn.functional.normalize(states, dim=-1)
        return [(vectors[i], tokens[i, : len(row)]) for i, row in enumerate(rows)]

    def represent(self, texts: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The same for many texts, in batches of similar length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for start in range(0, len(order), _BATCH // 4):
            part = order[start : start + _BATCH // 4]
            made |= dict(zip(part, self.encode([texts[i] for i in part]), strict=True))
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
        new = sorted(set(texts) - self._vectors.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(new), _EMBEDDED):
            part = new[start : start + _EMBEDDED]
            for text, (vector, _) in zip(part, self.encode(part), strict=True):
                self._vectors[text] = vector.numpy().astype(np.float16)


def max_sim(query: torch.Tensor, document: torch.Tensor) -> torch.Tensor:
    """Mean over the query's tokens of the highest cosine with a document token."""
    return (query @ document.T).max(dim=1).values.mean()
