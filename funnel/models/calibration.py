"""Which way of running a model is fastest here at equal ranking: measured once, then remembered."""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from funnel.errors import ModelError
from funnel.log import get_logger
from funnel.models import sealed
from funnel.models.batching import token_batches
from funnel.models.hardware import set_torch_threads
from funnel.models.turn import measuring

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from funnel.models.base import TextPair
    from funnel.models.cross_networks import CrossNetwork
    from funnel.models.tokens import TextTokenizer, Tokens

    FloatArray = NDArray[np.float32]

MIN_NDCG = 0.998
"""Of a backend's order, nDCG@10 with float32's order as labels: see ``_GRADES``."""
MIN_OVERLAP = 0.98
"""Share of float32's ten best that are among the backend's ten best, averaged over queries."""
MAX_ERROR = 0.02
"""Root mean square difference from float32's scores, as a share of their spread within a query.

Few pairs seldom show an exchanged rank; this shows how near the scores are to exchanging some. On
lists of 100 passages bfloat16 measured 0.011 here with 99% overlap, and 0.05 went with 96%.
"""
WORTHWHILE = 0.9
"""A less exact backend must take less than this share of a more exact one's time."""
_GRADES = (3, 3, 2, 2, 2, 1, 1, 1, 1, 1)
"""What float32's ten best count as, coarse like people's judgements; all others are not relevant.
"""
log = get_logger(__name__)

_QUERIES = (
    "how do I get into my account again when I forgot my password",
    "train from the airport to the city centre",
    "why does bread not rise",
    "how many moons does Jupiter have",
    "my account is locked",
    "how long does the express train take to the main station",
    "dough that rises in a warm place",
    "who discovered the largest moon",
)
_SENTENCES = (
    "Choose 'Forgot password' on the sign-in page and follow the link in the message.",
    "A link for a new password is valid for one hour and can be used once.",
    "Your account is locked after ten wrong attempts; ask an administrator to open it.",
    "Accounts that nobody used for a year are closed after a warning.",
    "The express train to the main station leaves every thirty minutes from platform two.",
    "A taxi to the centre takes forty minutes and costs about as much as a dinner for two.",
    "Night buses stop at the arrivals hall, but not at every station of the city.",
    "Flights to the islands leave from the small terminal beside the car park.",
    "Yeast that is too old, or water that is too hot, leaves the dough flat.",
    "Let the dough rest in a warm place until it has doubled in size.",
    "Rye flour holds less gas than wheat flour, so its bread is dense.",
    "Butter and sugar are beaten until the mixture is white and light.",
    "Jupiter has at least ninety-five known moons, four of them seen by Galileo.",
    "Saturn's rings are made of ice and dust.",
    "Ganymede is the largest moon of the solar system.",
    "The telescope was built on a mountain far from the lights of the city.",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One backend on the calibration pairs, against float32 torch."""

    backend: str
    seconds: float
    ndcg: float
    overlap: float
    error: float = 0.0
    failed: str = ""

    @property
    def agrees(self) -> bool:
        """Whether its ranking may stand for that of float32."""
        return not self.failed and not self.reason

    @property
    def reason(self) -> str:
        """Why it may not; empty if it may."""
        if self.failed:
            return self.failed
        wrong = (
            ("nDCG@10", self.ndcg, "at least", MIN_NDCG, self.ndcg < MIN_NDCG),
            ("top-10 overlap", self.overlap, "at least", MIN_OVERLAP, self.overlap < MIN_OVERLAP),
            ("score error", self.error, "at most", MAX_ERROR, not self.error <= MAX_ERROR),
        )
        return ", ".join(
            f"{name} {got:.4f} where {bound} {limit} is needed"
            for name, got, bound, limit, failing in wrong
            if failing
        )


def choose(
    key: str,
    reference: str,
    openers: "Mapping[str, Callable[[], CrossNetwork]]",
    tokenizer: "TextTokenizer",
    exact: Collection[str] = (),
) -> tuple[str, list[Measured]]:
    """The fastest backend whose ranking agrees with the reference's; of equally fast ones the best.

    Args:
        key: names machine, model and versions; what was measured before under it is taken as it
            is, only what failed, perhaps by accident, is tried again.
        reference: the backend that is always right; one of ``openers``.
        openers: how to open each backend; the simplest first, which wins if all else is equal.
        tokenizer: makes the calibration pairs.
        exact: those that do not round, and so cannot win where one that does may serve: measured
            only if none may.
    """
    name = f"calibration/{key}.json"

    def complete(rows: list[Measured]) -> bool:
        return bool(rows) and not any(_wanted(each, rows, reference, exact) for each in openers)

    def measure(kept: list[Measured]) -> list[Measured]:
        rows = _in_own_thread(lambda: _measure(reference, openers, tokenizer, exact, kept))
        _keep(name, [row for row in rows if not row.failed])
        return rows

    measured = _once(lambda: _kept(name, reference), complete, measure)
    return _best(measured, reference), measured


def compared(
    key: str, reference: str, rounding: str, scores: "Callable[[str], FloatArray]"
) -> list[Measured]:
    """The reference's row and that of one that rounds; measured once, then remembered.

    One that fails, perhaps by accident, is tried again the next time.

    Args:
        key: names machine, model and versions.
        reference: what is always right.
        rounding: what may stand for it if it agrees.
        scores: of :func:`calibration_texts`, by the name of what makes them.
    """
    name = f"calibration/{key}.json"

    def measure(_: list[Measured]) -> list[Measured]:
        rows = _in_own_thread(lambda: _comparison(reference, rounding, scores))
        _keep(name, rows)
        return rows

    return _once(lambda: _kept(name, reference), lambda rows: len(rows) == 2, measure)


def _once(
    read: Callable[[], list[Measured]],
    complete: Callable[[list[Measured]], bool],
    measure: Callable[[list[Measured]], list[Measured]],
) -> list[Measured]:
    """What is kept if it is complete, or else is measured; while another process does, wait."""
    rows = read()
    if complete(rows):
        return rows
    with measuring():
        rows = read()
        return rows if complete(rows) else measure(rows)


def _comparison(
    reference: str, rounding: str, scores: "Callable[[str], FloatArray]"
) -> list[Measured]:
    set_torch_threads(1)
    expected, seconds = _clocked(lambda: scores(reference))
    row = _measured(rounding, lambda: _clocked(lambda: scores(rounding)), expected)
    log.info("backend_measured", **asdict(row), reason=row.reason)
    return [Measured(reference, seconds, 1.0, 1.0), row]


def _clocked(scores: "Callable[[], FloatArray]") -> "tuple[FloatArray, float]":
    began = time.perf_counter()
    found = scores()
    return found, time.perf_counter() - began


def _measured(
    backend: str, timed: "Callable[[], tuple[FloatArray, float]]", expected: "FloatArray"
) -> Measured:
    try:
        scores, seconds = timed()
        ndcg, overlap = agreement(expected, scores, len(_QUERIES))
        error = score_error(expected, scores, len(_QUERIES))
        return Measured(backend, seconds, ndcg, overlap, error)
    except Exception as error:  # foreign libraries have errors of their own; any means "not this"
        return Measured(backend, 0.0, 0.0, 0.0, failed=f"{type(error).__name__}: {error}"[:200])


def _keep(name: str, rows: Sequence[Measured]) -> None:
    sealed.write(name, json.dumps([asdict(row) for row in rows]).encode())


def _kept(name: str, reference: str) -> list[Measured]:
    content = sealed.read(name)
    if content is None:
        return []
    try:
        rows = [row for kept in json.loads(content) if not (row := Measured(**kept)).failed]
        _best(rows, reference)
    except (ValueError, TypeError, StopIteration) as error:
        log.warning("calibration_refused", error=str(error), mend="it is measured anew")
        return []
    return rows


def _wanted(backend: str, rows: Sequence[Measured], reference: str, exact: Collection[str]) -> bool:
    """Whether a backend is not measured yet and could win."""
    if any(row.backend == backend for row in rows):
        return False
    slow = next(row.seconds for row in rows if row.backend == reference)
    return not (
        backend in exact and any(row.agrees and row.seconds < WORTHWHILE * slow for row in rows)
    )


def _best(measured: Sequence[Measured], reference: str) -> str:
    """Of those that are about as fast as the fastest, the one that is nearest to the reference."""
    reference_row = next(row for row in measured if row.backend == reference)
    able = [reference_row, *(row for row in measured if row.agrees and row is not reference_row)]
    fastest = min(row.seconds for row in able)
    fast = [row for row in able if WORTHWHILE * row.seconds <= fastest]
    return min(fast, key=lambda row: row.error).backend


def _measure(
    reference: str,
    openers: "Mapping[str, Callable[[], CrossNetwork]]",
    tokenizer: "TextTokenizer",
    exact: Collection[str],
    kept: Sequence[Measured],
) -> list[Measured]:
    set_torch_threads(1)
    pairs = calibration_pairs(tokenizer)
    network = openers[reference]()
    expected, seconds = _timed(network, pairs)
    rows = [*kept] or [Measured(reference, seconds, 1.0, 1.0)]
    for backend in sorted(openers, key=lambda name: name in exact):
        if not _wanted(backend, rows, reference, exact):
            continue
        rows.append(_candidate(backend, openers[backend], pairs, expected))
        log.info("backend_measured", **asdict(rows[-1]), reason=rows[-1].reason)
    return rows


def _candidate(
    backend: str,
    opener: "Callable[[], CrossNetwork]",
    pairs: "Sequence[Tokens]",
    expected: "FloatArray",
) -> Measured:
    return _measured(backend, lambda: _timed(opener(), pairs), expected)


def calibration_pairs(tokenizer: "TextTokenizer") -> "list[Tokens]":
    """Each query with passages of one to eight sentences, the queries one after the other."""
    texts = calibration_texts()
    firsts, seconds = (tokenizer.ids(side) for side in zip(*texts, strict=True))
    return [tokenizer.pair(*pair) for pair in zip(firsts, seconds, strict=True)]


def calibration_texts() -> "list[TextPair]":
    """The same before they are tokenised."""
    passages = [
        " ".join(_SENTENCES[(start + step) % len(_SENTENCES)] for step in range(1 + start % 8))
        for start in range(len(_SENTENCES))
    ]
    return [(query, passage) for query in _QUERIES for passage in passages]


def agreement(expected: "FloatArray", scores: "FloatArray", queries: int) -> tuple[float, float]:
    """How well one set of scores ranks like another: mean nDCG@10 and overlap of the ten best.

    The other's order is the labels: its ten best count as ``_GRADES``.

    Args:
        expected: scores of all queries' documents, query by query, shape (queries * n,).
        scores: the other backend's, same shape.
        queries: how many queries there are.
    """
    gains = np.zeros((queries, len(expected) // queries))
    discounts = 1 / np.log2(np.arange(2, 12))
    right = np.argsort(-expected.reshape(queries, -1), kind="stable")[:, :10]
    found = np.argsort(-scores.reshape(queries, -1), kind="stable")[:, :10]
    width = right.shape[1]
    labels = np.array(_GRADES[:width], float)
    np.put_along_axis(gains, right, labels[None, :], axis=1)
    got = np.take_along_axis(gains, found, axis=1) @ discounts[:width]
    ideal = labels @ discounts[:width]
    overlap = (np.take_along_axis(gains, found, axis=1) > 0).mean()
    return float((got / ideal).mean()), float(overlap)


def score_error(expected: "FloatArray", scores: "FloatArray", queries: int) -> float:
    """Root mean square difference as a share of the expected scores' spread within a query.

    A constant shift of one query's scores counts for nothing: it changes no ranking.
    """
    right, found = (each.reshape(queries, -1).astype(np.float64) for each in (expected, scores))
    difference = found - right
    difference -= difference.mean(axis=1, keepdims=True)
    spread = right.std(axis=1).mean()
    return float(np.sqrt((difference**2).mean()) / max(spread, 1e-12))


def _scores(network: "CrossNetwork", pairs: "Sequence[Tokens]") -> "FloatArray":
    scores = np.empty(len(pairs), np.float32)
    for batch in token_batches([len(pair) for pair in pairs], network.budget):
        scores[batch] = network.logits([pairs[i] for i in batch])
    if not np.isfinite(scores).all():
        raise ModelError("got scores that are NaN or infinite; the model's weights are damaged")
    return scores


def _timed(network: "CrossNetwork", pairs: "Sequence[Tokens]") -> "tuple[FloatArray, float]":
    """Scores, and the seconds of all pairs as the better half took them.

    The halves hold the same passages for other queries, so that one is as much work as the other.
    """
    _scores(network, pairs[:16])  # warms up
    middle = len(pairs) // 2
    scores, times = [], []
    for half in (pairs[:middle], pairs[middle:]):
        began = time.perf_counter()
        scores.append(_scores(network, half))
        times.append(time.perf_counter() - began)
    return np.concatenate(scores), 2 * min(times)


def _in_own_thread(act: Callable[[], list[Measured]]) -> list[Measured]:
    """Run where torch's thread count can be set without touching the caller's."""
    with ThreadPoolExecutor(1, thread_name_prefix="funnel-calibration") as executor:
        return executor.submit(act).result()
