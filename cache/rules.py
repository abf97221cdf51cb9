"""Rules that say which cached question answers an asked one: ours, and those of the peers."""

import inspect
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from funnel.cache.decision import Candidate, Policy, Verdict, decide, screen, to_score, unread
from funnel.cache.pair_scores import PairScores
from funnel.log import get_logger

log = get_logger(__name__)


class Unscored(Exception):
    """A rule needs scores that are not known yet; ``pairs`` are what to learn."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs
        super().__init__(f"{len(pairs)} pairs to score")


class Rule(Protocol):
    """Chooses among the nearest cached questions, best first, or refuses them all."""

    name: str

    def choose(self, asked: str, candidates: Sequence[Candidate]) -> Candidate | None:
        """The cached question whose answer is served, or None for a miss."""


class ExactRule:
    """Only the very text."""

    name = "exact"

    def choose(self, asked: str, candidates: Sequence[Candidate]) -> Candidate | None:  # noqa: ARG002
        """Nothing: exact repeats are found before any rule is asked."""
        return None


class CosineRule:
    """The nearest one, if its cosine is at least ``threshold``: what most caches do."""

    def __init__(self, threshold: float, name: str = "cosine") -> None:
        self.name = name
        self.threshold = threshold

    def choose(self, asked: str, candidates: Sequence[Candidate]) -> Candidate | None:  # noqa: ARG002
        """The first candidate, or None."""
        if candidates and candidates[0].cosine >= self.threshold:
            return candidates[0]
        return None


class VerifiedRule:
    """Ours: the decision code that serving runs, over scores that were computed before.

    ``screened`` remembers floor and guards per pair, which no threshold changes; rules that
    differ in the threshold only may share it. ``beyond`` are texts that the embedder does not read
    to their end: they have no semantic tier.
    """

    name = "verified"

    def __init__(
        self,
        policy: Policy,
        scores: PairScores,
        screened: dict[tuple[str, str], Verdict] | None = None,
        beyond: frozenset[str] = frozenset(),
    ) -> None:
        self.policy = policy
        self._scores = scores
        self._screened = {} if screened is None else screened
        self._beyond = beyond

    def choose(self, asked: str, candidates: Sequence[Candidate]) -> Candidate | None:
        """The best verified candidate.

        Raises:
            Unscored: a needed pair is not in ``scores``.
        """
        if asked in self._beyond or unread(asked, self.policy):
            return None
        verdicts = [self._screen(asked, candidate) for candidate in candidates]
        waiting = to_score(verdicts)
        known = [self._scores.get(*verdict.read) for verdict in waiting]
        if None in known:
            raise Unscored([verdict.read for verdict in waiting])
        scores = [score for score in known if score is not None]
        chosen = decide(verdicts, scores, self.policy).chosen
        return None if chosen is None else chosen.candidate

    def _screen(self, asked: str, candidate: Candidate) -> Verdict:
        pair = (asked, candidate.query)
        if pair not in self._screened:
            (self._screened[pair],) = screen(asked, [candidate], self.policy)
        return self._screened[pair]


def peer_rules() -> list[Rule]:
    """The decision rules, at their defaults, of the peers that are installed here and work."""
    makers = {"redisvl": _redisvl, "gptcache": _gptcache}
    rules = []
    for package, make in makers.items():
        if find_spec(package) is None:
            continue
        try:
            rules.append(make())
        except Exception as error:  # half an install, or another version of theirs
            log.warning("replay.peer_left_out", peer=package, error=str(error))
    return rules


def _redisvl() -> Rule:
    """RedisVL's SemanticCache: the nearest within its default cosine distance."""
    peer = import_module("redisvl.extensions.cache.llm").SemanticCache
    default = inspect.signature(peer.__init__).parameters["distance_threshold"].default
    return CosineRule(1.0 - float(default), "redisvl")


def _gptcache() -> Rule:
    """GPTCache's similar-search default: its distance evaluation at its default threshold.

    Its vector store reports the squared Euclidean distance, which is 2 - 2 cos for unit vectors.
    """
    distance = import_module("gptcache.similarity_evaluation.distance")
    evaluation = distance.SearchDistanceEvaluation()
    low, high = evaluation.range()
    needed = (high - low) * import_module("gptcache.config").Config().similarity_threshold
    return _GptCacheRule(evaluation, needed)


class _GptCacheRule:
    name = "gptcache"

    def __init__(self, evaluation: Any, needed: float) -> None:
        self._evaluation = evaluation
        self._needed = needed

    def choose(self, asked: str, candidates: Sequence[Candidate]) -> Candidate | None:  # noqa: ARG002
        ranked = [(self._rank(candidate), candidate) for candidate in candidates]
        best = max(ranked, key=lambda pair: pair[0], default=None)
        return best[1] if best is not None and best[0] >= self._needed else None

    def _rank(self, candidate: Candidate) -> float:
        found = {"search_result": (2.0 - 2.0 * candidate.cosine, None)}
        rank: float = self._evaluation.evaluation({}, found)
        return rank
