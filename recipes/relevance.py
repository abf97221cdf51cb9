"""``embedded:relevance``: does a passage answer a query?

A residual over the base's cosine and MaxSim, trained list-wise: softmax cross-entropy of the
passages' grades against the sum of all three parts, with a little binary cross-entropy so that the
sum also means something for a single pair.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch

from funnel.evaluation.metrics import ndcg
from recipes.network import (
    Base,
    Floats,
    Windows,
    Words,
    cross_logits,
    fresh_cross_encoder,
    max_sim,
    predict,
)
from recipes.passages import Group, Passages, Ranking
from recipes.schedule import Schedule, train

_log = structlog.get_logger(__name__)
SEED = 6
WINDOWS = Windows(first=64, second=160)
READING = Windows(first=64, second=200)
COSINE, MAXSIM, BIAS = 10.0, 25.0, -17.5
FROZEN_LAYERS = 2
GROUPS = 4
RATE, WARMUP = 6e-5, 100
_POINTWISE = 0.3


def batches(groups: Sequence[Group], rng: random.Random) -> Iterator[list[Group]]:
    """A few groups of similar length at a time, for ever."""
    while True:
        order = rng.sample(range(len(groups)), len(groups))
        for start in range(0, len(order), GROUPS * 40):
            chunk = [groups[i] for i in order[start : start + GROUPS * 40]]
            chunk.sort(key=lambda group: max(map(len, group.passages)))
            parts = [chunk[i : i + GROUPS] for i in range(0, len(chunk), GROUPS)]
            rng.shuffle(parts)
            yield from parts


def similarities(base: Base, query: str, passages: Sequence[str]) -> tuple[Floats, Floats]:
    """Cosine and MaxSim of a query with its passages, each of shape (n,)."""
    (vector, tokens), *others = base.encode([query, *passages])
    cosines = [float(vector @ other) for other, _ in others]
    matches = [float(max_sim(tokens, other)) for _, other in others]
    return np.array(cosines, dtype=np.float32), np.array(matches, dtype=np.float32)


def train_relevance(
    passages: Passages, base_path: Path, words: Words, base: Base, schedule: Schedule, out: Path
) -> tuple[Any, int]:
    """The trained network and the steps taken."""
    torch.manual_seed(SEED)
    network = fresh_cross_encoder(base_path, frozen_layers=FROZEN_LAYERS)

    def loss_of(batch: list[Group]) -> torch.Tensor:
        pairs = [(group.query, passage) for group in batch for passage in group.passages]
        residual = cross_logits(network, words, pairs, WINDOWS)
        prior = torch.from_numpy(np.concatenate([_prior(base, group) for group in batch]))
        sizes = [len(group.passages) for group in batch]
        totals = (residual + prior).split(sizes)
        losses = [group_loss(t, g.grades) for t, g in zip(totals, batch, strict=True)]
        return torch.stack(losses).mean()

    def check() -> None:
        for name, rankings in passages.held_out.items():
            score = mean_ndcg(network, words, base, rankings[:15])
            _log.info("held out", set=name, ndcg=round(score, 4))

    rng = random.Random(SEED)
    steps = train(
        network, batches(passages.train, rng), loss_of, schedule, check=check, checkpoint=out
    )
    return network, steps


def _prior(base: Base, group: Group) -> Floats:
    cosines, matches = similarities(base, group.query, group.passages)
    return COSINE * cosines + MAXSIM * matches


def group_loss(totals: torch.Tensor, grades: Sequence[int]) -> torch.Tensor:
    """List-wise loss against gains ``2 ** grade - 1``, plus the point-wise part."""
    labels = torch.tensor(grades, dtype=torch.float32)
    gains = 2**labels - 1
    loss = torch.zeros(())
    if gains.sum() > 0:
        loss = -(gains / gains.sum() * torch.log_softmax(totals, dim=0)).sum()
    chance = labels / max(1.0, float(labels.max()))
    pointwise = torch.nn.functional.binary_cross_entropy_with_logits(totals + BIAS, chance)
    return loss + _POINTWISE * pointwise


def mean_ndcg(
    network: Any, words: Words, base: Base, rankings: Sequence[Ranking], cross: float = 1.0
) -> float:
    """Mean nDCG@10 when the first stage's passages are reranked by the combined score."""
    figures = []
    for ranking in rankings:
        cosines, matches = similarities(base, ranking.query, ranking.passages)
        scores = COSINE * cosines + MAXSIM * matches
        if cross:
            pairs = [(ranking.query, passage) for passage in ranking.passages]
            scores = scores + cross * predict(network, words, pairs, READING)
        order = [ranking.ids[i] for i in np.argsort(-scores, kind="stable")]
        figures.append(ndcg(order, ranking.judged, 10))
    return float(np.mean(figures))
