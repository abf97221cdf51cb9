"""The encoder of ``embedded:duplicate``: the base, tuned so that its cosine tells questions apart.

Two losses on the same vectors: binary cross-entropy on a weight times the cosine, for pairs with a
label, and for duplicates InfoNCE ("Representation learning with contrastive predictive coding",
van den Oord et al., 2018) against the other texts of the batch and of those before ("Cross-batch
memory for embedding learning", Wang et al., 2020). Texts of the same cluster, and those that the
base holds for nearer than the duplicate ("GISTEmbed", Solatorio, 2024), are no negatives.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import structlog
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from funnel.training.figures import classification_figures
from recipes.bert import TwinEncoder
from recipes.duplicate import cosine_logit
from recipes.network import Base, Floats, Words, padded
from recipes.pairs import Clusters, Pair, fold, within_caps
from recipes.questions import Questions
from recipes.schedule import Schedule, train
from recipes.written import SAME

_log = structlog.get_logger(__name__)
SEED = 11
WINDOW = 64
BATCH = 96
_SMOOTHING = (0.97, 0.015)
_CONTRAST = 0.3
_SCALE = 20.0
_MEMORY = 6_000
_CONTRASTED = frozenset({"real", "extra", "transitive", "overlap", "intent", SAME})
_SURE = 0.8
_NEVER = -1e4
_AT_ONCE = 128
CAPS = {
    "transitive": 9_000, "transitive negative": 12_000, "one word apart": 8_000, "swap": 1_500,
    "name": 5_000, "antonym": 5_000, "number": 2_500, "negation": 1_500, "direction": 500,
    "restate": 500, "clause": 2_000, "conjunct": 2_000, "surface": 2_500, "same sentence": 3_000,
}  # fmt: skip
"""Most pairs of a kind in a round; kinds that are not named enter whole."""
MOSTLY_WRITTEN = CAPS | {
    "real": 40_000, "extra": 15_000, "overlap": 6_000, "transitive": 4_000,
    "transitive negative": 5_000, "one word apart": 3_000, "name": 2_000, "antonym": 2_000,
    "same sentence": 1_500,
}  # fmt: skip
"""The same for a run that is to learn the written groups."""


class _Memory:
    """Vectors of the texts of the batches before, as tuned then and as the base has them."""

    def __init__(self, width: int, base_width: int) -> None:
        self.tuned = torch.zeros(0, width)
        self.base = torch.zeros(0, base_width)
        self.clusters = torch.zeros(0, dtype=torch.long)

    def put(self, tuned: Tensor, base: Tensor, clusters: Tensor) -> None:
        self.tuned = torch.cat([self.tuned, tuned.detach()])[-_MEMORY:]
        self.base = torch.cat([self.base, base])[-_MEMORY:]
        self.clusters = torch.cat([self.clusters, clusters])[-_MEMORY:]


class TwinTrainer:
    """Rounds over capped kinds of pairs, in batches of similar length."""

    def __init__(
        self, network: TwinEncoder, questions: Questions, extra: Sequence[Pair],
        words: Words, base: Base,
    ) -> None:  # fmt: skip
        self.network = network
        self._words, self._base = words, base
        self._dev = questions.dev
        self._pairs = [*(p for p in questions.train if p.kind != "extra"), *extra]
        self._rng = random.Random(SEED)  # noqa: S311  # sampling
        self._clusters = self._numbered()
        weight, bias = cosine_logit(questions.train, base)
        network.weight.data.fill_(weight)
        network.bias.data.fill_(bias)
        self._memory = _Memory(network.width, base.vectors([""]).shape[1])

    def run(
        self, schedule: Schedule, checkpoint: Path, caps: Mapping[str, int] = CAPS
    ) -> int:  # fmt: skip
        """Train until the schedule ends; returns the steps."""
        return train(
            self.network, self._batches(caps), self._loss, schedule,
            check=self._check, checkpoint=checkpoint,
        )  # fmt: skip

    def _numbered(self) -> dict[str, int]:
        clusters = Clusters()
        for pair in self._pairs:
            for text in pair[:2]:
                clusters.find(fold(text))
            if pair.label >= _SURE:
                clusters.join(fold(pair.first), fold(pair.second))
        numbers: dict[str, int] = {}
        texts = {text for pair in self._pairs for text in pair[:2]}
        return {t: numbers.setdefault(clusters.find(fold(t)), len(numbers)) for t in texts}

    def _batches(self, caps: Mapping[str, int]) -> Iterator[list[Pair]]:
        while True:
            chosen = within_caps(self._pairs, caps, self._rng)
            for start in range(0, len(chosen), BATCH * 40):
                part = chosen[start : start + BATCH * 40]
                yield from self._chunk([self._pairs[i] for i in part])

    def _chunk(self, pairs: list[Pair]) -> Iterator[list[Pair]]:
        self._base.cosines([pair[:2] for pair in pairs])
        ordered = sorted(pairs, key=lambda p: max(map(len, self._pieces(p))))
        batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
        self._rng.shuffle(batches)
        yield from batches

    def _pieces(self, pair: Pair) -> list[list[int]]:
        return [self._words.pieces(text, WINDOW) for text in pair[:2]]

    def _loss(self, pairs: list[Pair]) -> Tensor:
        vectors = twin_vectors(self.network, self._words, _texts(pairs))
        cosines = (vectors[: len(pairs)] * vectors[len(pairs) :]).sum(1)
        logits = self.network.weight * cosines + self.network.bias
        scale, floor = _SMOOTHING
        labels = torch.tensor([pair.label for pair in pairs]) * scale + floor
        return F.binary_cross_entropy_with_logits(logits, labels) + _CONTRAST * self._contrast(
            pairs, vectors
        )

    def contrast(self, pairs: list[Pair]) -> Tensor:
        """InfoNCE of a batch as it would be trained on."""
        return self._contrast(pairs, twin_vectors(self.network, self._words, _texts(pairs)))

    def _contrast(self, pairs: list[Pair], vectors: Tensor) -> Tensor:
        """InfoNCE of the batch's duplicates, both sides; remembers the batch."""
        count, memory = len(pairs), self._memory
        base = torch.from_numpy(self._base.vectors(_texts(pairs)))
        clusters = torch.tensor([self._clusters[text] for text in _texts(pairs)])
        others = torch.cat([vectors, memory.tuned])
        base_others = torch.cat([base, memory.base])
        all_clusters = torch.cat([clusters, memory.clusters])
        memory.put(vectors, base, clusters)
        sure = [i for i, p in enumerate(pairs) if p.kind in _CONTRASTED and p.label >= _SURE]
        if not sure:
            return vectors.new_zeros(())
        anchors = torch.tensor([*sure, *(i + count for i in sure)])
        partners = torch.tensor([*(i + count for i in sure), *sure])[:, None]
        alike, base_alike = vectors[anchors] @ others.T, base[anchors] @ base_others.T
        positive, base_positive = alike.gather(1, partners), base_alike.gather(1, partners)
        hidden = (all_clusters[None] == clusters[anchors][:, None]) | (base_alike > base_positive)
        choices = torch.cat([positive, alike.masked_fill(hidden, _NEVER)], 1)
        return F.cross_entropy(_SCALE * choices, torch.zeros(len(anchors), dtype=torch.long))

    def _check(self) -> None:
        scores = twin_cosines(self.network, self._words, [p[:2] for p in self._dev])
        figures = classification_figures(scores, [pair.label for pair in self._dev])
        _log.info("dev", **{name: round(value, 3) for name, value in figures.items()})


def _texts(pairs: Sequence[Pair]) -> list[str]:
    """First sides, then second sides."""
    return [pair.first for pair in pairs] + [pair.second for pair in pairs]


def twin_vectors(network: TwinEncoder, words: Words, texts: Sequence[str]) -> Tensor:
    """Unit vectors (n, width), with gradients if they are on."""
    cut = [words.single(text, WINDOW) for text in texts]
    ids, mask, _ = padded(cut, list(map(len, cut)))
    vectors: Tensor = network(ids, mask)
    return vectors


def twin_cosines(network: TwinEncoder, words: Words, pairs: Sequence[tuple[str, str]]) -> Floats:
    """Cosines of many pairs, shape (n,)."""
    texts = sorted(
        {text for pair in pairs for text in pair}, key=lambda t: len(words.pieces(t, WINDOW))
    )
    place = {text: i for i, text in enumerate(texts)}
    with torch.no_grad():
        starts = range(0, len(texts), _AT_ONCE)
        parts = [twin_vectors(network, words, texts[i : i + _AT_ONCE]) for i in starts]
    vectors = torch.cat(parts).numpy()
    first = vectors[[place[a] for a, _ in pairs]]
    second = vectors[[place[b] for _, b in pairs]]
    return np.asarray((first * second).sum(1), dtype=np.float32)
