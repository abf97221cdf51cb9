"""Whether a cached question is the asked one: screen, verify, decide, under a calibrated policy."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from funnel.cache.calibrator import Calibrator
from funnel.cache.decision import (
    Candidate,
    Decision,
    Policy,
    Verdict,
    decide,
    in_orders,
    lower_of_orders,
    needed_by,
    reach_of,
    screen,
    to_score,
    unread,
)
from funnel.cache.guards import VERSION, Margins
from funnel.cache.settings import CacheSettings
from funnel.cache.spelling import dictionary
from funnel.cache.verifier import Verifier, VerifierFault, is_symmetric
from funnel.deadline import Deadline
from funnel.errors import FunnelError
from funnel.log import get_logger
from funnel.models.base import Encoder

log = get_logger(__name__)
DEFAULT_FLOOR = 0.7
SHIPPED_VERIFIER = "embedded:duplicate"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The policy in force and where it comes from; ``problem`` says why there is none."""

    policy: Policy
    problem: str = ""


def threshold_for(
    settings: CacheSettings,
    calibrator: Calibrator | None,
    revision: str,
    embedder: tuple[str, str] | None = None,
) -> Threshold:
    """The policy that settings and calibrator give a verifier of this revision.

    ``embedder`` is the name and the revision of the one that finds the candidates; None leaves
    open whether the calibrator is for it. Without a certificate for the target nothing is ever
    accepted: exact tiers only.
    """
    policy = Policy(
        threshold=math.inf,
        floor=_floor(settings, calibrator),
        limit=settings.candidates,
        guards=settings.guards,
        margins=calibrator.margins if calibrator else Margins(),
        scripts=frozenset(calibrator.scripts) if calibrator else frozenset(),
        languages=frozenset(calibrator.languages) if calibrator else frozenset(),
    )
    if not settings.semantic:
        return Threshold(policy, "semantic_off")
    if settings.threshold is not None:
        return Threshold(replace(policy, threshold=settings.threshold))
    if calibrator is None:
        return Threshold(policy, "uncalibrated")
    mismatch = _mismatch(settings, calibrator, revision, embedder)
    point = calibrator.point(settings.target_precision)
    if mismatch or point is None:
        return Threshold(policy, mismatch or "target_not_certified")
    return Threshold(replace(policy, threshold=point.threshold))


def _mismatch(
    settings: CacheSettings,
    calibrator: Calibrator,
    revision: str,
    embedder: tuple[str, str] | None,
) -> str:
    """What the certificate is not about, or nothing."""
    if calibrator.revision != revision:
        return "calibrated_for_another_verifier"
    if embedder is not None and not calibrator.is_of_embedder(*embedder):
        return "calibrated_for_another_embedder"
    if calibrator.guards != settings.guards:
        return "calibrated_with_other_guards"
    return ""


def calibrator_for(settings: CacheSettings) -> Calibrator | None:
    """The calibrator that the settings name, or the shipped one for the shipped verifier.

    Raises:
        ConfigError: the calibrator file is missing or damaged.
    """
    if settings.calibrator is not None:
        return Calibrator.load(settings.calibrator)
    if settings.verifier.model != SHIPPED_VERIFIER:
        return None
    return Calibrator.shipped(whole_answer=settings.guards.whole_answer)


def _floor(settings: CacheSettings, calibrator: Calibrator | None) -> float:
    if settings.floor is not None:
        return settings.floor
    return calibrator.floor if calibrator else DEFAULT_FLOOR


class Matcher:
    """The semantic tier's judgement, without any store.

    Until ``prepare`` has loaded the models there is no semantic tier.

    Raises:
        ConfigError: the calibrator file is missing or damaged.
    """

    def __init__(self, settings: CacheSettings, encoder: Encoder, verifier: Verifier) -> None:
        self.verifier = verifier
        self._settings = settings
        self._encoder = encoder
        self._calibrator = calibrator_for(settings)
        self._threshold = Threshold(
            threshold_for(settings, self._calibrator, "").policy, "verifier_not_loaded"
        )
        self.policy = self._threshold.policy
        self.identity: dict[str, object] = {}

    async def prepare(self, *, load: bool = True) -> None:
        """Load the models; a verifier that cannot be loaded leaves the exact tiers.

        Without ``load`` no model is, and nothing can be judged: only the policy is settled.
        """
        scorer = self.verifier.scorer
        identify = self._load_models if load else self._read_revision
        try:
            embedder = await asyncio.to_thread(lambda: self._encoder.revision)
            revision = await identify() if self._settings.semantic else ""
        except FunnelError as error:
            self._without_verifier(str(error))
            return
        except Exception as error:  # whatever a model library throws
            self._without_verifier(type(error).__name__)
            return
        names = (self._encoder.name, embedder)
        self._threshold = threshold_for(self._settings, self._calibrator, revision, names)
        self.policy = self._threshold.policy
        self.identity = {
            "embedder": list(names),
            "verifier": [scorer.name, revision],
            "calibrator": self._calibrator.digest if self._calibrator else "",
            "guards": {**self._settings.guards.model_dump(), "version": VERSION},
        }
        self._warn()

    def _warn(self) -> None:
        made_with = self._calibrator.guards_version if self._calibrator else ""
        if made_with and made_with != VERSION:
            log.warning("cache.guards_changed_since_calibration", then=made_with, now=VERSION)
        if self.problem and self.problem != "semantic_off":
            log.warning("cache.semantic_tier_off", reason=self.problem)

    def _without_verifier(self, error: str) -> None:
        log.warning("cache.model_not_loaded", error=error)
        self._threshold = Threshold(self.policy, "verifier_error")

    async def _load_models(self) -> str:
        scorer = self.verifier.scorer
        await asyncio.to_thread(lambda: self._encoder.dim)  # which loads it
        revision = await asyncio.to_thread(lambda: scorer.revision)
        await scorer.ascore([("warm", "up")], deadline=Deadline())
        if self._settings.guards.spelling or self.policy.languages:
            await asyncio.to_thread(dictionary)
        return revision

    async def _read_revision(self) -> str:
        from funnel.models.scorer import revision_of

        return await asyncio.to_thread(revision_of, self.verifier.scorer.name)

    @property
    def problem(self) -> str:
        """Why no question can match, or nothing."""
        if self._threshold.problem or math.isfinite(self.policy.threshold):
            return self._threshold.problem
        return "tightened"

    def tighten(self, threshold: float) -> None:
        """Demand a higher score from now on, never a lower one; infinite ends the semantic tier."""
        self.policy = replace(self.policy, threshold=max(threshold, self.policy.threshold))

    def refuses(self, query: str) -> str:
        """Why this query has no semantic tier, or nothing."""
        if self.problem:
            return self.problem
        # A prompt may take half of the window.
        if 2 * (len(query) + 2) > self._encoder.max_tokens and self._too_long(query):
            return "query_beyond_window"
        return unread(query, self.policy)

    def _too_long(self, query: str) -> bool:
        return self._encoder.count_tokens([query], side="query")[0] > self._encoder.max_tokens

    def reach(self, query: str) -> float:
        """The cosine from which on kept questions are candidates of this one."""
        return reach_of(query, self.policy)

    async def judge(
        self,
        query: str,
        candidates: Sequence[Candidate],
        deadline: Deadline,
        *,
        thorough: bool = False,
    ) -> Decision:
        """Screen, verify, decide.

        Most hits are on the nearest question, so that one is verified alone, at a fifth of the
        price; if it is refused, all others go to the verifier in one pass. What its encoders alone
        rule out has no score. ``thorough``: all in one pass whatever the first is, and scores for
        all, for explanations. The decision is the same.

        A verifier that fails is a decision for nobody, with the reason.
        """
        verdicts = screen(query, candidates, self.policy)
        waiting = to_score(verdicts)
        first = len(waiting) if thorough else 1
        try:
            scores = await self._scores(waiting[:first], deadline, thorough=thorough)
            decision = decide(verdicts, scores, self.policy)
            if decision.chosen is None and len(waiting) > first:
                scores += await self._scores(waiting[first:], deadline)
                decision = decide(verdicts, scores, self.policy)
        except VerifierFault as fault:
            return Decision(None, verdicts, fault.reason)
        return decision

    async def _scores(
        self,
        verdicts: Sequence[Verdict],
        deadline: Deadline,
        *,
        thorough: bool = False,
    ) -> list[float]:
        symmetric = is_symmetric(self.verifier.scorer)
        pairs = in_orders([verdict.read for verdict in verdicts], symmetric=symmetric)
        orders = 1 if symmetric else 2
        cosines = [_cosine_as_read(verdict) for verdict in verdicts for _ in range(orders)]
        needed = [needed_by(verdict, self.policy) for verdict in verdicts for _ in range(orders)]
        scores = await self.verifier.score(
            pairs, deadline, self._shared_cosines(cosines), None if thorough else needed
        )
        return lower_of_orders(scores, symmetric=symmetric)

    def _shared_cosines(self, cosines: list[float | None]) -> list[float | None] | None:
        """The cosines, if they are of the very encoder whose cosines the verifier weighs in."""
        wanted = getattr(self.verifier.scorer, "cosine_of", "")
        return cosines if wanted and wanted == self._encoder.revision else None

    def time_limit(self, deadline: Deadline) -> Deadline:
        """How long a model may take: the verifier's limit, and half of what the query has left."""
        left = deadline.remaining_s()
        limit = self._settings.verifier.timeout_ms / 1000
        return deadline.within(limit if left is None else min(limit, left / 2))


def _cosine_as_read(verdict: Verdict) -> float | None:
    """Of the two questions as the verifier reads them; None if a slip in one was respelt."""
    return None if verdict.slips else verdict.candidate.cosine
