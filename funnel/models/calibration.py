"""Which way of running a model is fastest here at equal ranking: measured once, then remembered."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from funnel.errors import FunnelError, ModelError
from funnel.log import get_logger
from funnel.models import sealed
from funnel.models.batching import token_batches
from funnel.models.worker import set_torch_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from funnel.models.cross_networks import CrossNetwork
    from funnel.models.tokens import TextTokenizer, Tokens

    FloatArray = NDArray[np.float32]

MIN_NDCG = 0.995
"""Of a backend's order against that of float32, nDCG@10 with gains 10, 9, … for its best ten."""
MIN_OVERLAP = 0.97
"""Share of float32's ten best that are among the backend's ten best, averaged over queries."""
WORTHWHILE = 0.95
"""A backend must take at most this share of the best simpler one's time."""
_BUDGET = 512
_ROUNDS = 2
log = get_logger(__name__)

_QUERIES = (
    "how do I get into my account again when I forgot my password",
    "train from the airport to the city centre",
    "why does bread not rise",
    "how many moons does Jupiter have",
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
    failed: str = ""

    @property
    def agrees(self) -> bool:
        """Whether its ranking may stand for that of float32."""
        return not self.failed and self.ndcg >= MIN_NDCG and self.overlap >= MIN_OVERLAP


def choose(
    key: str,
    reference: str,
    openers: "Mapping[str, Callable[[], CrossNetwork]]",
    tokenizer: "TextTokenizer",
) -> tuple[str, list[Measured]]:
    """The fastest backend whose ranking agrees with the reference's, simple ones first.

    Args:
        key: names machine, model and versions; a choice made before under it is taken as it is.
        reference: the backend that is always right; one of ``openers``.
        openers: how to open each backend, simplest first.
        tokenizer: makes the calibration pairs.
    """
    name = f"calibration/{key}.json"
    if (kept := sealed.read(name)) is not None:
        measured = [Measured(**row) for row in json.loads(kept)]
    else:
        measured = _in_own_thread(lambda: _measure(reference, openers, tokenizer))
        sealed.write(name, json.dumps([asdict(row) for row in measured]).encode())
    return _best(measured, reference), measured


def _best(measured: Sequence[Measured], reference: str) -> str:
    best = next(row for row in measured if row.backend == reference)
    for row in measured:
        if row.agrees and row.seconds < WORTHWHILE * best.seconds:
            best = row
    return best.backend


def _measure(
    reference: str,
    openers: "Mapping[str, Callable[[], CrossNetwork]]",
    tokenizer: "TextTokenizer",
) -> list[Measured]:
    set_torch_threads(1)
    pairs = calibration_pairs(tokenizer)
    network = openers[reference]()
    expected, seconds = _timed(network, pairs)
    rows = [Measured(reference, seconds, 1.0, 1.0)]
    for backend, opener in openers.items():
        if backend != reference:
            rows.append(_candidate(backend, opener, pairs, expected))
            log.info("backend_measured", **asdict(rows[-1]))
    return rows


def _candidate(
    backend: str,
    opener: "Callable[[], CrossNetwork]",
    pairs: "Sequence[Tokens]",
    expected: "FloatArray",
) -> Measured:
    try:
        network = opener()
        scores, seconds = _timed(network, pairs)
        ndcg, overlap = agreement(expected, scores, len(_QUERIES))
        return Measured(backend, seconds, ndcg, overlap)
    except (FunnelError, RuntimeError, ValueError, OSError) as error:
        return Measured(backend, 0.0, 0.0, 0.0, failed=f"{type(error).__name__}: {error}"[:200])


def calibration_pairs(tokenizer: "TextTokenizer") -> "list[Tokens]":
    """Each query with passages of one to eight sentences, the queries one after the other."""
    passages = [
        " ".join(_SENTENCES[(start + step) % len(_SENTENCES)] for step in range(1 + start % 8))
        for start in range(len(_SENTENCES))
    ]
    ids = tokenizer.ids([*_QUERIES, *passages])
    queries, documents = ids[: len(_QUERIES)], ids[len(_QUERIES) :]
    return [tokenizer.pair(query, document) for query in queries for document in documents]


def agreement(expected: "FloatArray", scores: "FloatArray", queries: int) -> tuple[float, float]:
    """How well one set of scores ranks like another: mean nDCG@10 and overlap of the ten best.

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
    np.put_along_axis(gains, right, np.arange(10, 10 - width, -1.0)[None, :], axis=1)
    got = np.take_along_axis(gains, found, axis=1) @ discounts[:width]
    ideal = np.arange(10, 10 - width, -1.0) @ discounts[:width]
    overlap = (np.take_along_axis(gains, found, axis=1) > 0).mean()
    return float((got / ideal).mean()), float(overlap)


def _scores(network: "CrossNetwork", pairs: "Sequence[Tokens]") -> "FloatArray":
    scores = np.empty(len(pairs), np.float32)
    for batch in token_batches([len(pair) for pair in pairs], _BUDGET):
        scores[batch] = network.logits([pairs[i] for i in batch])
    if not np.isfinite(scores).all():
        raise ModelError("got scores that are NaN or infinite; the model's weights are damaged")
    return scores


def _timed(network: "CrossNetwork", pairs: "Sequence[Tokens]") -> "tuple[FloatArray, float]":
    """Scores, and the seconds of the best round; the first also warms up."""
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        scores = _scores(network, pairs)
        times.append(time.perf_counter() - began)
    return scores, min(times)


def _in_own_thread(act: Callable[[], list[Measured]]) -> list[Measured]:
    """Run where torch's thread count can be set without touching the caller's."""
    with ThreadPoolExecutor(1, thread_name_prefix="funnel-calibration") as executor:
        return executor.submit(act).result()
