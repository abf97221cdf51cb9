"""The decision whether a cached question is the asked one; one code for serving and for replay.

Three pure steps: ``screen`` the nearest candidates with floor and guards, score what is left in
both orders (``in_orders``, by whoever calls), and ``decide`` at the threshold. The nearest one that
is left wins if it is accepted, else the one of the highest score: so the others need no score once
the nearest is the question. On a stream of 2,500 Quora questions both rules gave the same hits at
six thresholds, and this one was at no threshold less precise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from funnel.cache.guards import Finding, Margins, inspect
from funnel.cache.language import language_of
from funnel.cache.settings import GuardSettings
from funnel.cache.spelling import may_hold_slip, read_alike
from funnel.cache.words import take_apart
from funnel.models.base import TextPair

REACH = 0.4
"""Cosine down to which candidates of a misspelt question are looked for.

One slip takes more off a cosine than many a paraphrase: "reset my pasword" is below the shipped
floor to "reset my password". Farther off the verifier hardly ever believes what was respelt.
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cached question near the asked one; ``asked`` as in an entry."""

    key: str
    query: str
    cosine: float
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """What it takes to be a hit.

    ``threshold`` infinite: never. ``scripts`` and ``languages`` are what may be read; empty: any.
    """

    threshold: float
    floor: float
    limit: int = 5
    guards: GuardSettings = field(default_factory=GuardSettings)
    margins: Margins = field(default_factory=Margins)
    scripts: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one candidate.

    ``read`` is the asked and the cached question as guards and verifier read them, with ``slips``
    of the pen respelt. ``score`` is the verifier's lower one of both orders, None when it was not
    asked or ruled the candidate out without a score; ``needed`` is the threshold with the guards'
    margins. ``reason`` is empty when accepted.
    """

    candidate: Candidate
    read: TextPair
    slips: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    score: float | None = None
    needed: float = math.inf
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether it is the same question."""
        return not self.reason

    @property
    def asked(self) -> bool:
        """Whether the verifier was asked about it."""
        return self.accepted or self.reason in ("below_threshold", "not_scored")

    @property
    def margin(self) -> float:
        """What the guards add to the threshold."""
        return sum(finding.margin or 0.0 for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome over all candidates: the best accepted one, or why there is none."""

    chosen: Verdict | None
    verdicts: tuple[Verdict, ...]
    reason: str


def unread(query: str, policy: Policy) -> str:
    """Why the verifier's certificate says nothing of this question, or nothing."""
    if policy.scripts and not take_apart(query).scripts <= policy.scripts:
        return "script_not_calibrated"
    return "" if _is_in_language(query, policy) else "language_not_calibrated"


def _is_in_language(query: str, policy: Policy) -> bool:
    return not policy.languages or language_of(query) in ("", *policy.languages)


def reach_of(query: str, policy: Policy) -> float:
    """The cosine from which on a kept question may be this one: lower for a misspelt query."""
    misspelt = policy.guards.spelling and may_hold_slip(query)
    return min(policy.floor, REACH) if misspelt else policy.floor


def screen(query: str, candidates: Sequence[Candidate], policy: Policy) -> tuple[Verdict, ...]:
    """Floor and guards over the nearest candidates.

    Below the floor, which is one for questions as they are written, a candidate is only let through
    if a slip was respelt: then the verifier alone says how near they are.

    What may still be a hit comes back with the reason ``"unscored"``.
    """
    best = sorted(candidates, key=lambda c: (-c.cosine, c.key))[: policy.limit]
    return tuple(_screened(query, candidate, policy) for candidate in best)


def _screened(query: str, candidate: Candidate, policy: Policy) -> Verdict:
    plain = (query, candidate.query)
    if candidate.cosine < reach_of(query, policy):
        return Verdict(candidate, plain, reason="below_floor")
    if not _is_in_language(candidate.query, policy):
        return Verdict(candidate, plain, reason="language_not_calibrated")
    read, slips = read_alike(*plain) if policy.guards.spelling else (plain, ())
    if candidate.cosine < policy.floor and not slips:
        return Verdict(candidate, plain, reason="below_floor")
    findings = tuple(inspect(*read, policy.guards, policy.margins))
    veto = next((finding for finding in findings if finding.veto), None)
    reason = "unscored" if veto is None else f"guard_{veto.kind}"
    return Verdict(candidate, read, slips, findings, reason=reason)


def to_score(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that the verifier has to look at, in their order."""
    return [verdict for verdict in verdicts if verdict.reason == "unscored"]


def in_orders(pairs: Sequence[TextPair], *, symmetric: bool) -> list[TextPair]:
    """What to score: both orders of each pair side by side, or one if the verifier has none."""
    if symmetric:
        return list(pairs)
    return [ordered for first, second in pairs for ordered in ((first, second), (second, first))]


def lower_of_orders(values: Sequence[float], *, symmetric: bool) -> list[float]:
    """One score per verdict from the scores of ``in_orders``; NaN when any of them is NaN."""
    if symmetric:
        return list(values)
    halves = zip(values[::2], values[1::2], strict=True)
    return [math.nan if math.isnan(a) or math.isnan(b) else min(a, b) for a, b in halves]


def decide(verdicts: Sequence[Verdict], scores: Sequence[float], policy: Policy) -> Decision:
    """Judge the screened candidates by the scores of ``to_score(verdicts)``, in that order.

    Fewer scores are enough if the first one is accepted.
    """
    waiting = iter(scores)
    judged = tuple(
        _judged(verdict, next(waiting, None), policy) if verdict.reason == "unscored" else verdict
        for verdict in verdicts
    )
    accepted = [verdict for verdict in judged if verdict.accepted]
    if not accepted:
        return Decision(None, judged, _reason(judged))
    nearest = next(verdict for verdict in judged if verdict.asked)
    best = max(accepted, key=lambda v: (v.score or 0.0) - v.margin)
    return Decision(nearest if nearest.accepted else best, judged, "")


def needed_by(verdict: Verdict, policy: Policy) -> float:
    """What the verifier must say of it: the threshold with the guards' margins."""
    return policy.threshold + verdict.margin


def _judged(verdict: Verdict, score: float | None, policy: Policy) -> Verdict:
    needed = needed_by(verdict, policy)
    if score is None:
        return replace(verdict, needed=needed, reason="nearer_one_taken")
    scored = math.isfinite(score)
    refused = scored or score == -math.inf  # ruled out without a score
    reason = "" if scored and score >= needed else "below_threshold" if refused else "not_scored"
    return replace(verdict, score=float(score) if scored else None, needed=needed, reason=reason)


def _reason(judged: Sequence[Verdict]) -> str:
    """Why nothing was accepted: what became of the candidate that came furthest."""
    order = ("not_scored", "below_threshold", "guard", "below_floor")
    reasons = [verdict.reason for verdict in judged]
    for prefix in order:
        for reason in reasons:
            if reason.startswith(prefix):
                return reason
    return "no_candidates"
