"""``embedded:relevance``: does a passage answer a query?

Cosine and MaxSim of the base with fixed weights, so that one pair can be scored by itself. A token
of the query counts in MaxSim by how rare it is, on top of an equal share. A cross-encoder trained
as a residual beside them gained nothing within the time of these recipes (see the README), so the
shipped model has none.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import structlog
import torch

from funnel.evaluation.metrics import ndcg
from funnel.models.adapters import Combination
from recipes.logistic import logistic_regression
from recipes.network import Base, Floats, max_sim
from recipes.passages import Ranking, first_stage, read_reranking, read_sentences

_log = structlog.get_logger(__name__)
MAXSIM_SHARE = 2 / 3
"""Of the score's spread within a list: cosine, MaxSim and MaxSim by rarity get a third each.

Weights fitted to the development sets give cosine less, are better there and worse elsewhere.
"""
_AT_ONCE = 512
_RELEVANT = {"TREC DL21": 2}


class Similarities:
    """Cosine and MaxSim of every query with its passages; each distinct text is read once.

    ``token_weights``: what each token of a query counts in MaxSim, float32 (vocabulary,).
    """

    def __init__(self, base: Base, token_weights: Floats) -> None:
        self._base = base
        self._token_weights = torch.from_numpy(token_weights)
        self._found: dict[tuple[str, str], tuple[float, float, float]] = {}

    def read(self, rankings: Sequence[Ranking]) -> None:
        """Compute what :meth:`of` will be asked for."""
        asked: dict[str, set[str]] = defaultdict(set)
        for ranking in rankings:
            for passage in ranking.passages:
                asked[passage].add(ranking.query)
        texts = sorted({ranking.query for ranking in rankings})
        queries = dict(zip(texts, self._base.represent(texts), strict=True))
        ids = dict(zip(texts, self._base.token_ids(texts), strict=True))
        passages = sorted(asked, key=len)
        for start in range(0, len(passages), _AT_ONCE):
            part = passages[start : start + _AT_ONCE]
            for passage, (vector, tokens) in zip(part, self._base.represent(part), strict=True):
                for query in asked[passage]:
                    own, parts = queries[query]
                    plain = max_sim(parts, tokens, torch.ones(len(parts)))
                    weighted = max_sim(parts, tokens, self._token_weights[ids[query]])
                    similar = float(own @ vector), float(plain), float(weighted)
                    self._found[query, passage] = similar

    def of(self, ranking: Ranking) -> tuple[Floats, Floats, Floats]:
        """Cosine, MaxSim and weighted MaxSim, all of shape (passages,)."""
        found = [self._found[ranking.query, passage] for passage in ranking.passages]
        table = np.array(found, dtype=np.float32)
        return table[:, 0], table[:, 1], table[:, 2]


def rarity_weights(sets: Iterable[Sequence[Ranking]], base: Base, vocabulary: int) -> Floats:
    """Each token's inverse document frequency among passages, plus what a query's has on average.

    So the weighted MaxSim is about half the plain one, half one by rarity alone. Special tokens,
    which every passage has, keep the constant part. Shape (vocabulary,).
    """
    rankings = [ranking for each in sets for ranking in each]
    passages = sorted({text for ranking in rankings for text in ranking.passages})
    known = Counter(token for ids in base.token_ids(passages) for token in set(ids))
    counts = np.array([known[token] for token in range(vocabulary)], dtype=np.float32)
    rarity = np.log(1 + (len(passages) - counts + 0.5) / (counts + 0.5))
    asked = base.token_ids(sorted({ranking.query for ranking in rankings}))
    usual = float(np.mean([rarity[token] for ids in asked for token in ids]))
    return np.asarray(rarity + usual, dtype=np.float32)


def development_sets(data: Path) -> dict[str, list[Ranking]]:
    """What the weights are chosen and calibrated on."""
    return {
        "TREC DL21": read_reranking(data / "trec-dl21"),
        "SciFact train": first_stage(data / "scifact", "train", depth=50, limit=100),
        "WikiQA": read_sentences(data / "qa/wikiqa_abcnn/train.txt", limit=150),
    }


def test_sets(data: Path) -> dict[str, list[Ranking]]:
    """What is only measured."""
    return {
        "TREC DL20, BM25's 100": read_reranking(data / "trec-dl20"),
        "SciFact test, BM25's 50": first_stage(data / "scifact", "test", depth=50),
        "Cranfield, BM25's 50": first_stage(data / "cranfield", "test", depth=50),
    }


def fitted(sets: Mapping[str, Sequence[Ranking]], similarities: Similarities) -> Combination:
    """Both similarities with their shares of the spread, scaled to log-odds of relevance."""
    for rankings in sets.values():
        similarities.read(rankings)
    found = [
        (name, ranking, *similarities.of(ranking))
        for name, rankings in sets.items()
        for ranking in rankings
    ]
    cosine_spread = _spread(cosines for *_, cosines, _, _ in found)
    match_spread = _spread(matches for *_, matches in found)
    ratio = MAXSIM_SHARE / (1 - MAXSIM_SHARE) * cosine_spread / match_spread
    mixed, labels = [], []
    for name, ranking, cosines, _, matches in found:
        mixed.append(cosines + ratio * matches)
        level = _RELEVANT.get(name, 1)
        labels += [ranking.judged.get(each, 0) >= level for each in ranking.ids]
    (scale,), bias = logistic_regression(np.concatenate(mixed)[:, None], labels)
    return Combination(cross=0.0, cosine=scale, maxsim=scale * ratio, bias=bias)


def _spread(lists: Iterable[Floats]) -> float:
    """The usual standard deviation within a list."""
    return float(np.sqrt(np.mean([values.var() for values in lists])))


def mean_ndcg(rankings: Sequence[Ranking], scores: Sequence[Floats]) -> float:
    """Mean nDCG@10 of the passages in the order of their scores."""
    figures = []
    for ranking, values in zip(rankings, scores, strict=True):
        order = [ranking.ids[i] for i in np.argsort(-values, kind="stable")]
        figures.append(ndcg(order, ranking.judged, 10))
    return float(np.mean(figures))


def relevance_figures(
    sets: Mapping[str, Sequence[Ranking]], similarities: Similarities, combine: Combination
) -> dict[str, dict[str, float]]:
    """nDCG@10 of the model and of the cheap rerankers, for every set."""
    found: dict[str, dict[str, float]] = {}
    for name, rankings in sets.items():
        similarities.read(rankings)
        scored = [_rerankers(*similarities.of(ranking), combine) for ranking in rankings]
        found[name] = {
            each: round(mean_ndcg(rankings, [scores[each] for scores in scored]), 4)
            for each in scored[0]
        }
        _log.info("measured", set=name, **found[name])
    return found


def _rerankers(
    cosines: Floats, plain: Floats, matches: Floats, combine: Combination
) -> dict[str, Floats]:
    return {
        "BM25": -np.arange(len(cosines), dtype=np.float32),
        "cosine": cosines,
        "MaxSim": plain,
        "z-score sum of both": _standard(cosines) + _standard(plain),
        "embedded:relevance": combine.logits(cosine=cosines, maxsim=matches),
    }


def _standard(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-6), np.float32)
