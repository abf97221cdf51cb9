"""One replay from log to report: embed, play, sweep the threshold, compare with the baselines."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.cache.decision import Policy, Verdict, reach_of
from funnel.cache.pair_scores import PairScores, Progress
from funnel.cache.replay import Play, Stream, play_scored
from funnel.cache.replay_log import Asked
from funnel.cache.rules import CosineRule, ExactRule, Rule, VerifiedRule, peer_rules
from funnel.cache.tally import Tally, tally
from funnel.models.base import Encoder, Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRECISIONS = (0.95, 0.985, 0.99)
_STEPS = 24
_LOWEST_COSINE = 0.6
_LOWEST_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One threshold of a rule, what it did, and request by request how."""

    threshold: float
    tally: Tally
    play: Play

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "threshold": self.threshold,
            "hit_rate": self.tally.hit_rate,
            "hit_precision": self.tally.hit_precision,
            "hit_precision_low": self.tally.hit_precision_low,
        }


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Everything a replay found.

    ``threshold`` is None (and ``tally`` that of the exact tiers) when nothing is certified.
    ``lookup_ms`` are whole lookups, embedding and verifier included, one at a time.
    """

    threshold: float | None
    target_precision: float
    problem: str
    tally: Tally
    curve: tuple[CurvePoint, ...]
    cosine: tuple[CurvePoint, ...]
    baselines: dict[str, Tally]
    lookup_ms: tuple[float, ...]
    ranking_ms: float | None
    seconds: float
    skipped_lines: int
    wrong: tuple[dict[str, Any], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``funnel cache replay``."""
        saved = None
        if self.ranking_ms is not None and self.lookup_ms:
            by_text = sum(self.tally.by_tier.get(tier, 0) for tier in ("exact", "alias"))
            looked = self.tally.requests - by_text  # these went the whole way of the semantic tier
            usual = median(self.lookup_ms)
            saved = self.tally.hits * self.ranking_ms - looked * usual
        return {
            **self.tally.to_dict(),
            "threshold": self.threshold,
            "target_precision": self.target_precision,
            "problem": self.problem or None,
            "p50_lookup_ms": _quantile(self.lookup_ms, 0.50),
            "p99_lookup_ms": _quantile(self.lookup_ms, 0.99),
            "ranking_ms": self.ranking_ms,
            "saved_ms": saved,
            "curve": [point.to_dict() for point in self.curve],
            "cosine_curve": [point.to_dict() for point in self.cosine],
            "best_at_precision": {
                str(target): {
                    "verified": best_at(self.curve, target),
                    "cosine": best_at(self.cosine, target),
                }
                for target in PRECISIONS
            },
            "baselines": {name: one.to_dict() for name, one in self.baselines.items()},
            "wrong": list(self.wrong),
            "skipped_lines": self.skipped_lines,
            "seconds": self.seconds,
        }


def best_at(curve: Iterable[CurvePoint], precision: float) -> dict[str, Any] | None:
    """The point of the highest hit rate whose measured precision is at least ``precision``.

    Chosen on the log itself, for rules to be compared at equal precision; not a certificate.
    """
    best = best_point(curve, precision)
    return None if best is None else best.to_dict()


def best_point(curve: Iterable[CurvePoint], precision: float) -> CurvePoint | None:
    """The point itself; see ``best_at``."""
    fit = [p for p in curve if p.tally.hits and (p.tally.hit_precision or 0.0) >= precision]
    return max(fit, key=lambda point: point.tally.hit_rate, default=None)


@dataclass(frozen=True, slots=True)
class EmbeddedLog:
    """A log with its distinct texts in order of first request and their vectors, (n, dim).

    ``beyond`` are the texts that the embedder did not read to their end.
    """

    requests: tuple[Asked, ...]
    texts: tuple[str, ...]
    vectors: "NDArray[np.float32]"
    beyond: frozenset[str] = frozenset()


def embed_log(encoder: Encoder, log: Sequence[Asked], *, progress: bool = False) -> EmbeddedLog:
    """Embed each distinct text of a log once."""
    texts = tuple(dict.fromkeys(asked.query for asked in log))
    vectors = np.asarray(encoder.encode(texts, progress=progress, side="query"), dtype=np.float32)
    return EmbeddedLog(tuple(log), texts, vectors, frozenset(_beyond_window(encoder, texts)))


def _beyond_window(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    long = [text for text in texts if 2 * (len(text) + 2) > encoder.max_tokens]
    counts = encoder.count_tokens(long, side="query") if long else []
    return [text for text, count in zip(long, counts, strict=True) if count > encoder.max_tokens]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the rules of one replay share, whatever their thresholds."""

    scores: PairScores
    screened: dict[tuple[str, str], Verdict]
    beyond: frozenset[str]


@dataclass(frozen=True, slots=True)
class Replayer:
    """What a replay needs: the verifier and the policy that serving would use."""

    scorer: Scorer
    policy: Policy
    progress: Callable[[str], Progress] | None = None

    def run(
        self,
        log: EmbeddedLog,
        *,
        target_precision: float,
        problem: str = "",
        lookup_ms: Sequence[float] = (),
        ranking_ms: float | None = None,
        skipped_lines: int = 0,
    ) -> ReplayReport:
        """Replay a log under the policy, sweep thresholds, and play the baselines."""
        began = time.perf_counter()
        floors = [min(reach_of(text, self.policy), _LOWEST_COSINE) for text in log.texts]
        stream = Stream(log.requests, log.texts, log.vectors, floors)
        scores = PairScores(self.scorer, self.progress("verify") if self.progress else None)
        known = _Known(scores, {}, log.beyond)
        never_exact = math.isinf(self.policy.threshold)
        rule = ExactRule() if never_exact else self._rule(self.policy.threshold, known)
        play = play_scored(stream, rule, self.policy.limit, scores)
        return ReplayReport(
            threshold=None if never_exact else self.policy.threshold,
            target_precision=target_precision,
            problem=problem,
            tally=tally(stream, play),
            curve=self._curve(stream, known),
            cosine=self._cosine_curve(stream),
            baselines=self._baselines(stream),
            lookup_ms=tuple(lookup_ms),
            ranking_ms=ranking_ms,
            seconds=time.perf_counter() - began,
            skipped_lines=skipped_lines,
            wrong=tuple(wrong_hits(stream.requests, play)),
        )

    def _curve(self, stream: Stream, known: "_Known") -> tuple[CurvePoint, ...]:
        """Thresholds over the range of scores seen, loosest first."""
        play_scored(stream, self._rule(math.inf, known), self.policy.limit, known.scores)
        return tuple(
            self._point(stream, self._rule(threshold, known), threshold, known.scores)
            for threshold in _spread(known.scores.values())
        )

    def _rule(self, threshold: float, known: "_Known") -> VerifiedRule:
        policy = replace(self.policy, threshold=threshold)
        return VerifiedRule(policy, known.scores, known.screened, known.beyond)

    def _cosine_curve(self, stream: Stream) -> tuple[CurvePoint, ...]:
        thresholds = [*np.linspace(_LOWEST_COSINE, 0.9, 13), *np.linspace(0.905, 0.995, 19)]
        return tuple(self._point(stream, CosineRule(float(t)), float(t)) for t in thresholds)

    def _baselines(self, stream: Stream) -> dict[str, Tally]:
        rules: list[Rule] = [ExactRule(), CosineRule(0.9, "cosine_0.90"), *peer_rules()]
        return {rule.name: tally(stream, stream.play(rule, self.policy.limit)) for rule in rules}

    def _point(
        self, stream: Stream, rule: Rule, threshold: float, scores: PairScores | None = None
    ) -> CurvePoint:
        if scores is None:
            play = stream.play(rule, self.policy.limit)
        else:
            play = play_scored(stream, rule, self.policy.limit, scores)
        return CurvePoint(threshold, tally(stream, play), play)


def _spread(values: Sequence[float]) -> list[float]:
    """Thresholds from nearly the lowest score to the highest.

    Half of them at even steps, for the plot; half by how many scores are above them, closer and
    closer towards the top, where precision is high and few hits more or less matter.
    """
    finite = np.sort([value for value in values if math.isfinite(value)])[::-1]
    if finite.size == 0:
        return []
    even = np.linspace(np.quantile(finite, _LOWEST_SHARE), finite[0], _STEPS)
    counts = np.geomspace(1, finite.size, _STEPS).astype(int)
    return sorted({float(value) for value in (*even, *finite[counts - 1])})


def wrong_hits(requests: Sequence[Asked], play: Play) -> Iterable[dict[str, Any]]:
    """The hits between different groups themselves, for reading."""
    for asked, source, tier in zip(requests, play.source, play.tier, strict=True):
        served = requests[source]
        groups = (asked.group, served.group)
        if tier and None not in groups and groups[0] != groups[1]:
            yield {"query": asked.query, "served": served.query, "tier": tier}


def _quantile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
