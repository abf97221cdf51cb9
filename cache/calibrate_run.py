"""From labelled pairs to a calibrator: the same screening and scoring as when serving."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from funnel.cache.calibration import (
    CONFIDENCE,
    Certificate,
    ScoredLabels,
    certify,
    least_accepted,
    least_of,
)
from funnel.cache.calibrator import Calibrator, CertifiedPoint
from funnel.cache.decision import Candidate, Policy, Verdict, reach_of, screen, to_score
from funnel.cache.guards import VERSION, Margins
from funnel.cache.language import language_of
from funnel.cache.pair_scores import PairScores, Progress
from funnel.cache.replay import earlier_neighbours
from funnel.cache.replay_log import Asked, LabelledPair
from funnel.cache.settings import GuardSettings
from funnel.cache.words import take_apart
from funnel.errors import InputError
from funnel.models.base import Encoder, Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGETS = (0.90, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995)
_RARE_SCRIPT = 0.01
_OTHER_LANGUAGES = 0.01  # of English pairs at most this share may be evidently others
_ENGLISH = 0.25  # and so many show English words; a language that we do not know shows none
_SPARED = 0.005  # of the pairs that the verifier would believe, the floor may lose this share
_NO_FLOOR = -1.0
_LOWEST = 0.5  # what is farther off than this in a log is not even scored


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """A calibrator and what the data can and cannot support.

    ``wanted`` is the certificate for the target that was asked for, None if it is out of reach;
    ``explanation`` says so in one sentence. ``left_out`` pairs were no evidence of their own.
    """

    calibrator: Calibrator
    target: float
    wanted: Certificate | None
    explanation: str
    left_out: int = 0


class CalibrationRun:
    """Calibrates one verifier over one encoder with the guards that serving uses."""

    def __init__(
        self,
        encoder: Encoder,
        scorer: Scorer,
        guards: GuardSettings,
        *,
        margins: Margins | None = None,
        progress: Callable[[str], Progress] | None = None,
    ) -> None:
        self._encoder = encoder
        self._scorer = scorer
        self._policy = Policy(0.0, _NO_FLOOR, guards=guards, margins=margins or Margins())
        self._progress = progress

    def run(
        self,
        pairs: Sequence[LabelledPair],
        target: float,
        *,
        prevalence: float | None = None,
        source: str = "",
    ) -> CalibrationReport:
        """Score the pairs and certify thresholds for the target and for a grid of others.

        Raises:
            InputError: all pairs are duplicates, or none is.
        """
        evidence = _evidence(pairs)
        report = self._run_pairs(evidence, target, prevalence, source)
        return replace(report, left_out=len(pairs) - len(evidence))

    def _run_pairs(
        self, pairs: Sequence[LabelledPair], target: float, prevalence: float | None, source: str
    ) -> CalibrationReport:
        cosines = self._cosines(pairs)
        scores = self._scores(pairs, cosines)
        labels = np.array([pair.duplicate for pair in pairs])
        floor = _floor(cosines, scores)
        scores[self._are_below(floor, pairs, cosines)] = -np.inf
        data = ScoredLabels(scores, labels)
        return self._report(pairs, data, floor, target, prevalence, source)

    def scores(
        self, pairs: Sequence[LabelledPair], *, floor: float = _NO_FLOOR
    ) -> "NDArray[np.float64]":
        """What each pair scores with the guards' margins taken off, shape (n,).

        Minus infinity for vetoes, and for what a cache with this floor would not verify.
        """
        cosines = self._cosines(pairs)
        scores = self._scores(pairs, cosines)
        scores[self._are_below(floor, pairs, cosines)] = -np.inf
        return scores

    def run_log(
        self, log: Sequence[Asked], target: float, *, source: str = ""
    ) -> CalibrationReport:
        """Certify on a query log: each question against the nearest ones asked before it.

        The unit is a request, and its label whether the best-scored of the ``candidates`` is of
        its group: so a certificate is about served hits, at the log's own share of repeats.

        Raises:
            InputError: it would certify something, but all near requests are of one group.
        """
        known = [asked for asked in log if asked.group is not None]
        texts = list(dict.fromkeys(asked.query for asked in known))
        groups = {asked.query: asked.group for asked in reversed(known)}
        vectors = np.asarray(self._encode(texts), dtype=np.float32)
        lowest = [reach_of(text, replace(self._policy, floor=_LOWEST)) for text in texts]
        near = earlier_neighbours(vectors, lowest, self._policy.limit)
        pairs = [
            LabelledPair(texts[row], texts[other], groups[texts[row]] == groups[texts[other]])
            for row, line in enumerate(near)
            for other, _ in line
        ]
        cosines = np.array([cosine for line in near for _, cosine in line], dtype=np.float64)
        scores = self._scores(pairs, cosines)
        floor = _floor(cosines, scores)
        scores[self._are_below(floor, pairs, cosines)] = -np.inf
        labels = np.array([pair.duplicate for pair in pairs])
        best, right = _best_of_each([len(line) for line in near], scores, labels)
        data = ScoredLabels(scores[best], right)
        report = self._report([pairs[i] for i in best], data, floor, target, None, source)
        if report.calibrator.points:
            _expect_both(labels, "pairs of near requests")
        return report

    def _report(
        self,
        pairs: Sequence[LabelledPair],
        data: ScoredLabels,
        floor: float,
        target: float,
        prevalence: float | None,
        source: str,
    ) -> CalibrationReport:
        targets = sorted({*TARGETS, target})
        found = [certify(data, each, prevalence=prevalence) for each in targets]
        calibrator = self._calibrator(pairs, floor, prevalence, source, found)
        wanted = found[targets.index(target)]
        return CalibrationReport(
            calibrator, target, wanted, _explained(data, target, prevalence, wanted)
        )

    def _encode(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        return self._encoder.encode(texts, progress=self._progress is not None, side="query")

    def _cosines(self, pairs: Sequence[LabelledPair]) -> "NDArray[np.float64]":
        texts = list(dict.fromkeys(t for pair in pairs for t in (pair.first, pair.second)))
        rows = {text: row for row, text in enumerate(texts)}
        vectors = self._encode(texts)
        first = vectors[[rows[pair.first] for pair in pairs]]
        second = vectors[[rows[pair.second] for pair in pairs]]
        return np.asarray((first * second).sum(axis=1), dtype=np.float64)

    def _scores(
        self, pairs: Sequence[LabelledPair], cosines: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        """The verifier's scores with the guards' margins taken off; -inf for vetoes."""
        lines = zip(pairs, cosines, strict=True)
        verdicts = [self._screen(pair, cosine, _NO_FLOOR) for pair, cosine in lines]
        known = PairScores(self._scorer, self._progress("verify") if self._progress else None)
        known.learn(verdict.read for verdict in to_score(verdicts))
        values = [_net(known.get(*verdict.read), verdict) for verdict in verdicts]
        return np.asarray(values, dtype=np.float64)

    def _are_below(
        self, floor: float, pairs: Sequence[LabelledPair], cosines: "NDArray[np.float64]"
    ) -> "NDArray[np.intp]":
        """Positions of the pairs that a cache with this floor would not verify for it."""
        far = np.flatnonzero(cosines < floor)
        reasons = [self._screen(pairs[int(i)], cosines[i], floor).reason for i in far]
        return far[[reason == "below_floor" for reason in reasons]]

    def _screen(self, pair: LabelledPair, cosine: float, floor: float) -> Verdict:
        candidate = Candidate("", pair.second, float(cosine))
        return screen(pair.first, [candidate], replace(self._policy, floor=floor))[0]

    def _calibrator(
        self,
        pairs: Sequence[LabelledPair],
        floor: float,
        prevalence: float | None,
        source: str,
        found: Sequence[Certificate | None],
    ) -> Calibrator:
        return Calibrator(
            verifier=self._scorer.name,
            revision=self._scorer.revision,
            embedder=self._encoder.name,
            embedder_revision=self._encoder.revision,
            floor=floor,
            guards=self._policy.guards,
            guards_version=VERSION,
            margins=self._policy.margins,
            scripts=_scripts(pairs),
            languages=_languages(pairs),
            confidence=CONFIDENCE,
            prevalence=prevalence,
            pairs=len(pairs),
            duplicates=sum(pair.duplicate for pair in pairs),
            source=source,
            made=datetime.now(UTC).date().isoformat(),
            points=tuple(_point(one) for one in found if one is not None),
        )


def _evidence(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    """The pairs that a certificate may count: each once, in whatever order of its texts.

    The bound takes pairs for independent, and a text beside itself is an exact hit, about which
    the verifier is never asked.
    """
    distinct = {
        (frozenset((pair.first, pair.second)), pair.duplicate): pair
        for pair in reversed(pairs)
        if pair.first != pair.second
    }
    evidence = list(reversed(distinct.values()))
    _expect_both([pair.duplicate for pair in evidence], "distinct pairs")
    return evidence


def _expect_both(labels: "Sequence[bool] | NDArray[np.bool_]", what: str) -> None:
    duplicates = sum(map(bool, labels))
    if duplicates in (0, len(labels)):
        found = "none is a duplicate" if duplicates == 0 else "all are duplicates"
        raise InputError(
            f"got {len(labels)} {what}, of which {found}; expected both: a threshold "
            "lies between duplicates and near misses, which look alike and ask something else"
        )


def _best_of_each(
    counts: Sequence[int], scores: "NDArray[np.float64]", labels: "NDArray[np.bool_]"
) -> "tuple[list[int], NDArray[np.bool_]]":
    """For each request with candidates the position of its best-scored one, and if it is right.

    Serving takes the nearest where that is accepted; so where the verifier believes the nearest
    (logit > 0), that one has to be right too.
    """
    best, right, start = [], [], 0
    for count in counts:
        mine = slice(start, start + count)
        scored = np.flatnonzero(np.isfinite(scores[mine]))
        if count:
            top = start + int(np.argmax(scores[mine]))
            first = start + int(scored[0]) if scored.size else top
            best.append(top)
            right.append(labels[top] and (labels[first] or scores[first] <= 0))
        start += count
    return best, np.array(right, dtype=bool)


def _net(score: float | None, verdict: Verdict) -> float:
    if score is None or not np.isfinite(score):
        return -np.inf
    return score - verdict.margin


def _floor(
    cosines: "NDArray[np.float64]",
    scores: "NDArray[np.float64]",
) -> float:
    """The cosine that all but a few of the pairs reach which the verifier believes (logit > 0).

    It looks at scores only, not at labels, so the certificates stay valid with it.
    """
    believed = cosines[scores > 0]
    if believed.size == 0:
        return 0.0
    return float(np.floor(np.quantile(believed, _SPARED) * 100) / 100)


def _scripts(pairs: Sequence[LabelledPair]) -> tuple[str, ...]:
    """Scripts in which at least one pair in a hundred is written."""
    counts = Counter(s for pair in pairs for s in take_apart(pair.first).scripts)
    return tuple(sorted(s for s, count in counts.items() if count >= _RARE_SCRIPT * len(pairs)))


def _languages(pairs: Sequence[LabelledPair]) -> tuple[Literal["en"], ...]:
    """English where nearly all pairs are read as such; what else they are in, nobody tells."""
    counts = Counter(language_of(text) for pair in pairs for text in (pair.first, pair.second))
    texts = counts.total()
    few_others = counts["other"] <= _OTHER_LANGUAGES * texts
    return ("en",) if few_others and counts["en"] > _ENGLISH * texts else ()


def _point(one: Certificate) -> CertifiedPoint:
    return CertifiedPoint(
        target=one.target,
        threshold=one.threshold,
        accepted=one.accepted,
        wrong=one.wrong,
        precision_low=one.precision_low,
        recall=one.recall,
    )


def _explained(
    data: ScoredLabels, target: float, prevalence: float | None, wanted: Certificate | None
) -> str:
    if wanted is not None:
        return (
            f"at least {wanted.precision_low:.2%} of hits are right with {CONFIDENCE:.0%} "
            f"confidence: {wanted.wrong} wrong of {wanted.accepted} accepted pairs; "
            f"{wanted.recall:.1%} of the duplicates are recognised"
        )
    problem = f"this data cannot support {target:.1%}"
    least = least_of(data, target, prevalence)
    if least is None:
        return f"{problem}: {_too_few(data, target, prevalence)}, or lower --target-precision"
    lowest = np.sort(data.scores)[-least]
    top = data.scores >= lowest
    refused = int(np.isneginf(data.scores[top]).sum())
    return (
        f"{problem}: that takes {least} accepted pairs without an error (more with errors), and of "
        f"the {int(top.sum())} best-scored pairs {int((~data.labels[top]).sum())} are labelled as "
        f"no duplicates and {refused} are refused by floor or guards; bring more pairs, mend their "
        "labels, or lower --target-precision"
    )


def _too_few(data: ScoredLabels, target: float, prevalence: float | None) -> str:
    duplicates, others = data.duplicates, len(data.labels) - data.duplicates
    if prevalence is None:
        return (
            f"that takes {least_accepted(target)} accepted pairs without an error, and it has "
            f"{duplicates} duplicates; bring more pairs"
        )
    return (
        f"at a prevalence of {prevalence:g} its {duplicates} duplicates and {others} other pairs "
        "are too few, even if none were mistaken; bring more of both"
    )
