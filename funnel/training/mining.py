"""Mine hard negatives: documents that look right to BM25 or the bi-encoder and are not."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from funnel.errors import ConfigError, InputError
from funnel.training.figures import sigmoid
from funnel.training.lexical import LexicalIndex, best
from funnel.training.pools import Pool
from funnel.training.records import Triple

if TYPE_CHECKING:
    from funnel.models.base import FloatArray

Encode = Callable[[Sequence[str]], "FloatArray"]
Score = Callable[[Sequence[tuple[str, str]]], "FloatArray"]
_BLOCK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningSettings:
    """How many negatives, from which ranks, and how far below the positive they must score.

    ``range_min`` skips the first ranks, where unlabelled positives live; ``range_max`` ends the
    candidates. ``relative_margin`` 0.05 keeps a negative only if the cross-encoder finds it at
    least 5% less probable than the positive (NV-Retriever's TopK-PercPos, arXiv:2407.15831);
    ``max_probability`` drops whatever it finds more probable than that.
    """

    per_positive: int = 4
    range_min: int = 0
    range_max: int = 50
    relative_margin: float = 0.05
    max_probability: float = 1.0

    def __post_init__(self) -> None:
        if self.per_positive < 1:
            raise ConfigError(f"per_positive is {self.per_positive}, expected at least 1")
        if not 0 <= self.range_min < self.range_max:
            raise ConfigError(
                f"range is {self.range_min} to {self.range_max}, expected 0 <= min < max"
            )
        if not 0.0 <= self.relative_margin < 1.0:
            raise ConfigError(f"relative_margin is {self.relative_margin}, expected 0 up to 1")
        if not 0.0 < self.max_probability <= 1.0:
            raise ConfigError(f"max_probability is {self.max_probability}, expected above 0 to 1")


@dataclass(frozen=True, slots=True)
class MiningCounts:
    """What became of the candidates.

    ``errors`` are those the bi-encoder ranked above a positive; ``false_negatives`` were dropped
    by the cross-encoder; ``unfilled`` positives got fewer negatives than wanted.
    """

    queries: int
    candidates: int
    errors: int
    false_negatives: int
    negatives: int
    unfilled: int


@dataclass(frozen=True, slots=True)
class Mined:
    """Triples (scored as probabilities if a cross-encoder filtered them) and the counts."""

    triples: tuple[Triple, ...]
    counts: MiningCounts


@dataclass(frozen=True, slots=True)
class _Candidates:
    documents: tuple[int, ...]
    errors: frozenset[int]


def mine(
    pool: Pool,
    settings: MiningSettings,
    *,
    encode: Encode | None,
    score: Score | None,
    encode_queries: Encode | None = None,
) -> Mined:
    """Find negatives for every (query, positive) of ``pool``.

    Candidates come from BM25 and, with ``encode`` (texts to unit vectors, shape (n, dim)), from
    the bi-encoder; what it ranks above a positive comes first, then the two lists in turn. If it
    reads queries in another way than documents, ``encode_queries`` does that. With ``score``
    (pairs to logits, shape (n,)) false negatives are dropped.

    Raises:
        InputError: no candidate is left for any query.
    """
    candidates = _candidates(pool, settings, encode, encode_queries or encode)
    probabilities = _probabilities(pool, candidates, score) if score else None
    triples: list[Triple] = []
    dropped = unfilled = 0
    for position, found in enumerate(candidates):
        for positive in pool.positives[position]:
            chosen, lost = _chosen(position, positive, found, probabilities, settings)
            dropped += lost
            unfilled += len(chosen) < settings.per_positive
            triples += [_triple(pool, position, positive, bad, probabilities) for bad in chosen]
    if not triples:
        raise InputError(
            "no negative was found for any query: widen the range, lower the margin, or give a "
            "larger corpus (in a file of pairs, what a chain of positives joins is no negative)"
        )
    total = sum(len(found.documents) for found in candidates)
    errors = sum(len(found.errors) for found in candidates)
    counts = MiningCounts(len(pool.queries), total, errors, dropped, len(triples), unfilled)
    return Mined(tuple(triples), counts)


Probabilities = dict[tuple[int, int], float]


def _chosen(
    position: int,
    positive: int,
    found: _Candidates,
    probabilities: Probabilities | None,
    settings: MiningSettings,
) -> tuple[list[int], int]:
    """The negatives of one positive and how many candidates were dropped on the way to them."""
    if probabilities is None:
        return list(found.documents[: settings.per_positive]), 0
    highest = probabilities[position, positive] * (1.0 - settings.relative_margin)
    highest = min(highest, settings.max_probability)
    chosen: list[int] = []
    dropped = 0
    for document in found.documents:
        if len(chosen) == settings.per_positive:
            break
        if probabilities[position, document] <= highest:
            chosen.append(document)
        else:
            dropped += 1
    return chosen, dropped


def _triple(
    pool: Pool, position: int, positive: int, negative: int, probabilities: Probabilities | None
) -> Triple:
    scores = (
        (probabilities[position, positive], probabilities[position, negative])
        if probabilities
        else (None, None)
    )
    texts = (pool.queries[position], pool.documents[positive], pool.documents[negative])
    return Triple(*texts, *scores)


def _probabilities(pool: Pool, candidates: Sequence[_Candidates], score: Score) -> Probabilities:
    keys = [
        (position, document)
        for position, found in enumerate(candidates)
        for document in (*pool.positives[position], *found.documents)
    ]
    logits = score([(pool.queries[query], pool.documents[text]) for query, text in keys])
    return dict(zip(keys, map(float, sigmoid(logits)), strict=True))


def _candidates(
    pool: Pool, settings: MiningSettings, encode: Encode | None, encode_queries: Encode | None
) -> list[_Candidates]:
    lexical = LexicalIndex(pool.documents)
    places = {text: place for place, text in enumerate(pool.documents)}
    dense: Iterable[FloatArray | None] = [None] * len(pool.queries)
    if encode and encode_queries:
        dense = _similarities(encode(pool.documents), encode_queries(pool.queries))
    found: list[_Candidates] = []
    for position, (query, scores) in enumerate(zip(pool.queries, dense, strict=True)):
        known = _known(pool, position, places)
        deepest = settings.range_max + len(known)
        vectors, worst = np.array([], np.int64), 0
        if scores is not None:
            vectors = best(scores, deepest)
            worst = int((scores > scores[list(pool.positives[position])].min()).sum())
        found.append(_merged(lexical.top(query, deepest), vectors, worst, known, settings))
    return found


def _known(pool: Pool, position: int, places: Mapping[str, int]) -> set[int]:
    """What is no negative of a query: its positives, what a chain of such joins, and itself."""
    known = set(pool.positives[position])
    if pool.chained:
        known.update(pool.chained[position])
    if pool.queries[position] in places:
        known.add(places[pool.queries[position]])
    return known


def _merged(
    words: NDArray[np.int64],
    vectors: NDArray[np.int64],
    worst_positive: int,
    known: Collection[int],
    settings: MiningSettings,
) -> _Candidates:
    window = slice(settings.range_min, settings.range_max)
    ahead = [int(d) for d in vectors[:worst_positive] if int(d) not in known]
    by_vectors = [int(d) for d in vectors if int(d) not in known][window]
    by_words = [int(d) for d in words if int(d) not in known][window]
    errors = [document for document in by_vectors if document in set(ahead)]
    merged = dict.fromkeys([*errors, *_in_turn(by_words, by_vectors)])
    return _Candidates(tuple(merged), frozenset(errors))


def _in_turn(left: Sequence[int], right: Sequence[int]) -> list[int]:
    longest = max(len(left), len(right))
    return [side[rank] for rank in range(longest) for side in (left, right) if rank < len(side)]


def _similarities(documents: "FloatArray", queries: "FloatArray") -> Iterator["FloatArray"]:
    """For each query its cosines with all documents, computed in blocks."""
    for start in range(0, len(queries), _BLOCK):
        yield from queries[start : start + _BLOCK] @ documents.T
