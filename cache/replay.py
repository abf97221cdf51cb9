"""Replaying a query log against a rule: what a cache would have served, rightly and wrongly.

The cache is played as one that forgets nothing: entries neither expire nor are evicted. A request
is an exact or alias hit when its text was answered before, else the rule chooses among the nearest
questions that were computed (and so kept) before it. What is longer than a query may be passes by
the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from funnel.cache.decision import Candidate
from funnel.cache.pair_scores import PairScores
from funnel.cache.replay_log import Asked
from funnel.cache.rules import Rule, Unscored
from funnel.query import MAX_QUERY_CHARS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float32]

_BLOCK_CELLS = 20_000_000
_NEIGHBOURS = 64


@dataclass(frozen=True, slots=True)
class Play:
    """What became of each request: the request that it was answered from, and the tier.

    ``source[i]`` is the index of the request whose computed answer was served, i itself for a
    miss; ``tier[i]`` is ``"exact"``, ``"alias"``, ``"semantic"`` or empty. ``looks`` are the
    (request, source) pairs that a rule had to decide on, in order.
    """

    source: tuple[int, ...]
    tier: tuple[str, ...]
    looks: tuple[tuple[int, int], ...]


class Stream:
    """A log made ready: distinct texts, and for each the nearest that came before it.

    Args:
        requests: the log, in order.
        vectors: embeddings of ``texts``, shape (n, dim), unit length.
        texts: the distinct texts in order of their first request.
        floors: cosine below which nothing is a neighbour, for each text or for all.
    """

    def __init__(
        self,
        requests: Sequence[Asked],
        texts: Sequence[str],
        vectors: "Matrix",
        floors: Sequence[float] | float,
    ) -> None:
        self.requests = tuple(requests)
        self.texts = tuple(texts)
        numbers = {text: number for number, text in enumerate(texts)}
        self.text_of = tuple(numbers[asked.query] for asked in requests)
        self.neighbours = earlier_neighbours(vectors, floors, _NEIGHBOURS)

    def play(self, rule: Rule, limit: int) -> Play:
        """One pass over the log; ``limit`` is how many candidates the rule sees.

        Raises:
            Unscored: the rule needs scores; learn them and play again.
        """
        answered: dict[int, int] = {}  # text -> request whose answer it gets
        computed: dict[int, int] = {}  # text -> request that computed it
        source, tier, looks = [], [], []
        missing: list[tuple[str, str]] = []
        for request, text in enumerate(self.text_of):
            if len(self.texts[text]) > MAX_QUERY_CHARS:
                source.append(request)
                tier.append("")
                continue
            if text in answered:
                source.append(answered[text])
                tier.append("exact" if text in computed else "alias")
                continue
            near = [pair for pair in self.neighbours[text] if pair[0] in computed][:limit]
            looks += [(request, computed[other]) for other, _ in near]
            candidates = [Candidate(str(o), self.texts[o], cosine) for o, cosine in near]
            try:
                chosen = rule.choose(self.texts[text], candidates)
            except Unscored as unscored:
                missing += unscored.pairs
                chosen = None
            if chosen is None:
                computed[text] = answered[text] = request
            else:
                answered[text] = computed[int(chosen.key)]
            source.append(answered[text])
            tier.append("" if chosen is None else "semantic")
        if missing:
            raise Unscored(missing)
        return Play(tuple(source), tuple(tier), tuple(looks))


def play_scored(stream: Stream, rule: Rule, limit: int, scores: PairScores) -> Play:
    """Play until no score is missing; each round learns what the last one lacked.

    What a rule decides changes what is cached, and so which pairs matter; hence the rounds. Every
    round fixes at least the first request that lacked a score, and in practice two or three do.
    """
    while True:
        try:
            return stream.play(rule, limit)
        except Unscored as unscored:
            scores.learn(unscored.pairs)


def earlier_neighbours(
    vectors: "Matrix", floors: Sequence[float] | float, limit: int
) -> list[list[tuple[int, float]]]:
    """For each row the earlier rows at its floor or nearer with their cosine, nearest first."""
    lowest = np.broadcast_to(np.asarray(floors, dtype=np.float32), len(vectors))
    found: list[list[tuple[int, float]]] = []
    step = max(1, _BLOCK_CELLS // max(1, len(vectors)))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        cosines = block @ vectors[: start + len(block)].T
        for row, line in enumerate(cosines):
            earlier = line[: start + row]
            near = np.flatnonzero(earlier >= lowest[start + row])
            best = near[np.argsort(-earlier[near], kind="stable")][:limit]
            found.append([(int(other), float(earlier[other])) for other in best])
    return found
