"""A funnel over judged queries: how good the ranking is after each stage, and how long each takes.

Everything is end to end: a stage is judged by what it hands on, so a relevant document that an
earlier stage missed stays missed. Queries run one at a time, so times are those of a single user;
the cache is out of the way.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from funnel.errors import InputError
from funnel.evaluation.beir import Dataset
from funnel.evaluation.metrics import PerQuery, mean, per_query
from funnel.indexing.corpus import Corpus, Row
from funnel.indexing.qdrant import MEMORY, QdrantSettings
from funnel.log import get_logger
from funnel.models.pool import ModelPool
from funnel.models.representations import shared_representations
from funnel.progress import bar
from funnel.stages.cross_encoder import CrossEncoderSettings

if TYPE_CHECKING:
    from funnel.engine import Funnel
    from funnel.index import IndexReport
    from funnel.result import FunnelResult
    from funnel.settings import FunnelSettings
    from funnel.stages.base import StageSettings
    from funnel.types import StageTrace

log = get_logger(__name__)

_FOLDER = "evaluation"

METRICS = ("ndcg@10", "mrr@10", "recall@100")
"""The metrics that every report holds."""

Rankings = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class StageEvaluation:
    """What one stage hands on, judged, and its times over the queries for which it ran.

    The last stage hands on the funnel's hits. ``rankings`` are document ids by query id;
    ``skipped`` and ``degraded`` count queries by reason.
    """

    name: str
    kind: str
    k: int
    rankings: Rankings
    per_query: Mapping[str, PerQuery]
    times_ms: tuple[float, ...]
    cost_usd: float
    skipped: Mapping[str, int]
    degraded: Mapping[str, int]

    @property
    def metrics(self) -> dict[str, float]:
        """Each metric's mean over the queries."""
        return {name: mean(values) for name, values in self.per_query.items()}

    @property
    def p50_ms(self) -> float:
        """The median of its times; 0 if it never ran."""
        return percentile(self.times_ms, 50)

    @property
    def p95_ms(self) -> float:
        """The 95th percentile of its times; 0 if it never ran."""
        return percentile(self.times_ms, 95)

    def to_dict(self) -> dict[str, Any]:
        """Name, size, quality, speed, cost and trouble, JSON-ready."""
        return {
            "name": self.name,
            "kind": self.kind,
            "k": self.k,
            "metrics": self.metrics,
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "cost_usd": self.cost_usd,
            "skipped": dict(self.skipped),
            "degraded": dict(self.degraded),
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A funnel's results on a dataset. The last stage's are the funnel's own."""

    dataset: str
    config_hash: str
    queries: int
    stages: tuple[StageEvaluation, ...]
    totals_ms: tuple[float, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """What a user of the funnel gets."""
        return self.stages[-1].metrics

    @property
    def cost_usd(self) -> float:
        """What remote models took, for all queries."""
        return sum(stage.cost_usd for stage in self.stages)

    @property
    def troubles(self) -> list[str]:
        """One line for each reason why a stage did not do all that was asked of it."""
        return [
            f"{stage.name}: {what} in {count} of {self.queries} queries ({reason})"
            for stage in self.stages
            for what, reasons in (("skipped", stage.skipped), ("degraded", stage.degraded))
            for reason, count in reasons.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report, JSON-ready; times are those of whole queries."""
        return {
            "dataset": self.dataset,
            "config_hash": self.config_hash,
            "queries": self.queries,
            "metrics": self.metrics,
            "p50_ms": percentile(self.totals_ms, 50),
            "p95_ms": percentile(self.totals_ms, 95),
            "cost_usd": self.cost_usd,
            "stages": [stage.to_dict() for stage in self.stages],
        }


def evaluation_settings(
    base: "FunnelSettings", dataset: Dataset, *, deadline_ms: float | None = None
) -> "FunnelSettings":
    """Settings for measuring: the operator's stages over a collection of the dataset's own.

    The collection's name holds the dataset's name and a hash of its corpus, the embedder's weights
    and the index settings, so that nothing of the operator's is overwritten and another corpus or
    encoder, be it one trained anew in its old place, gets another collection. So do stages that
    read dense vectors and such as read none, whose corpus is not embedded. Beside a local index,
    which loads all that is in its folder whenever it is opened, it lies in a folder of its own.
    There is no cache, no scores are remembered, and there is no deadline unless one is given.

    Raises:
        InputError: the deadline leaves no time for any stage.
        ModelError: an embedder is needed and missing or not to be had.
    """
    if deadline_ms is not None and deadline_ms <= base.reserve_ms:
        raise InputError(
            f"deadline_ms: got {deadline_ms:g}, expected more than reserve_ms "
            f"({base.reserve_ms:g}), which is kept back: no stage could run"
        )
    dense = any(stage.reads_dense for stage in base.stages)
    qdrant = apart(base.qdrant).model_copy(update={"dense_vectors": dense})
    return base.model_copy(
        update={
            "collection": _collection(base, qdrant, dataset),
            "qdrant": qdrant,
            "stages": tuple(_forgetful(stage) for stage in base.stages),
            "cache": None,
            "deadline_ms": deadline_ms,
            "scope_field": None,
        }
    )


def index_dataset(
    funnel: "Funnel",
    dataset: Dataset,
    *,
    on_bad: Literal["skip", "fail"] = "fail",
    progress: bool = False,
) -> "IndexReport":
    """Write the dataset's corpus into the funnel's collection; what is there costs little.

    Documents with neither title nor text, which published collections do hold, are left out with
    a warning: nothing could find them, so where they are judged relevant they stay missed. Another
    warning counts relevant documents that the corpus does not have.

    Raises:
        CorpusError: other lines of the corpus are bad, and ``on_bad`` is ``fail``.
    """
    corpus = dataset.corpus()
    empty: list[str] = []
    absent = _relevant(dataset)
    rows = Corpus(corpus.source, with_words(_found(corpus.rows, absent), empty))
    report = funnel.index(rows, on_bad=on_bad, progress=progress)
    _warn_of_absent(absent, dataset)
    if empty or report.problems:
        log.warning(
            "documents_left_out",
            corpus=corpus.source,
            empty=len(empty),
            bad=report.bad_rows,
            first=[*empty, *report.problems][:5],
        )
    return report


def _relevant(dataset: Dataset) -> set[str]:
    return {
        doc_id for judged in dataset.qrels.values() for doc_id, grade in judged.items() if grade > 0
    }


def _found(rows: Iterable[Row], absent: set[str]) -> Iterator[Row]:
    """The rows, whose documents are taken out of ``absent``."""
    for row in rows:
        if isinstance(row.content, Mapping):
            absent.difference_update(str(row.content.get(key)) for key in ("id", "_id"))
        yield row


def _warn_of_absent(absent: set[str], dataset: Dataset) -> None:
    """They stay missed; where it is all of them, the two files name documents differently."""
    if absent:
        log.warning(
            "relevant_documents_not_in_corpus",
            count=len(absent),
            of=len(_relevant(dataset)),
            first=sorted(absent)[:5],
            mend="they count as missed; see that qrels and corpus write their ids alike",
        )


def with_words(rows: Iterable[Row], empty: list[str]) -> Iterator[Row]:
    """The rows without those of wordless documents, whose places are put into ``empty``."""
    for row in rows:
        content = row.content
        words = isinstance(content, Mapping) and [content.get("title"), content.get("text")]
        if words and all(isinstance(text, str) and not text.strip() for text in words):
            empty.append(row.place)
        else:
            yield row


def evaluate(
    funnel: "Funnel",
    dataset: Dataset,
    *,
    config_hash: str | None = None,
    level: int = 1,
    metrics: Sequence[str] = METRICS,
    progress: bool = False,
) -> Evaluation:
    """Run every judged query through a funnel whose collection holds the dataset.

    Args:
        funnel: made from :func:`evaluation_settings` and indexed by :func:`index_dataset`.
        dataset: the judged queries.
        config_hash: of the operator's own settings; the funnel's if not given.
        level: the grade from which on a document is relevant (nDCG uses the grades themselves).
        metrics: what is measured after each stage.
        progress: draw a bar on a terminal.

    Raises:
        StageError: retrieval failed, or a stage whose ``on_error`` is ``raise``.
    """
    _warn_of_nothing_relevant(dataset, level)
    results = answer_all(funnel, dataset.queries, progress=progress)
    last = len(funnel.stages) - 1
    return Evaluation(
        dataset=dataset.name,
        config_hash=config_hash or funnel.config_hash,
        queries=len(dataset.queries),
        stages=tuple(
            _judged(
                {query_id: result.trace[place] for query_id, result in results.items()},
                {
                    query_id: result.ids if place == last else result.trace[place].kept
                    for query_id, result in results.items()
                },
                dataset,
                metrics,
                level,
            )
            for place in range(last + 1)
        ),
        totals_ms=tuple(result.elapsed_ms for result in results.values()),
    )


def answer_all(
    funnel: "Funnel",
    queries: Mapping[str, str],
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    progress: bool = False,
) -> dict[str, "FunnelResult"]:
    """Answer queries one after another, after one that warms up models and connections.

    Encoders have forgotten all texts when the first is asked, whatever ran before: how many
    documents' vectors are known decides how long a stage takes.
    """
    if not queries:
        return {}
    first = next(iter(queries.values()))
    funnel.run(first, overrides=overrides, cache=False)
    shared_representations().clear()
    results = {}
    with bar("queries", len(queries), enabled=progress) as advance:
        for query_id, text in queries.items():
            results[query_id] = funnel.run(text, overrides=overrides, cache=False)
            advance(1)
    return results


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile with linear interpolation, 0 of nothing."""
    return float(np.percentile(values, percent)) if values else 0.0


def _warn_of_nothing_relevant(dataset: Dataset, level: int) -> None:
    """Such queries count 0 whatever is found, as in trec_eval; many of them mean a wrong level."""
    nothing = sum(max(judged.values(), default=0) < level for judged in dataset.qrels.values())
    if nothing:
        log.warning(
            "queries_without_relevant_documents",
            count=nothing,
            of=len(dataset.qrels),
            below_grade=level,
            mend="they count 0 in MRR and recall; see --level and the qrels",
        )


def _forgetful(stage: "StageSettings") -> "StageSettings":
    """A tuning asks the same several times, and remembered scores would take no time."""
    if isinstance(stage, CrossEncoderSettings):
        return stage.model_copy(update={"score_cache_mb": 0})
    return stage


def _judged(
    traces: Mapping[str, "StageTrace"],
    rankings: Rankings,
    dataset: Dataset,
    metrics: Sequence[str],
    level: int,
) -> StageEvaluation:
    one = next(iter(traces.values()))
    return StageEvaluation(
        name=one.name,
        kind=one.kind,
        k=one.k,
        rankings=rankings,
        per_query={name: per_query(name, rankings, dataset.qrels, level=level) for name in metrics},
        times_ms=tuple(trace.ms for trace in traces.values() if trace.skipped is None),
        cost_usd=sum(trace.cost_usd for trace in traces.values()),
        skipped=_reasons(trace.skipped for trace in traces.values()),
        degraded=_reasons(trace.degraded for trace in traces.values()),
    )


def _reasons(reasons: Any) -> dict[str, int]:
    return dict(Counter(reason for reason in reasons if reason is not None))


def apart(qdrant: QdrantSettings) -> QdrantSettings:
    """Where the collections of evaluations are: of a local index, in a folder of their own."""
    if qdrant.url is not None or qdrant.place == MEMORY:
        return qdrant
    return qdrant.model_copy(update={"path": str(Path(qdrant.place) / _FOLDER)})


def _collection(base: "FunnelSettings", qdrant: QdrantSettings, dataset: Dataset) -> str:
    made_by = {
        "embedder": _revision(base) if qdrant.embeds else None,
        "bm25": base.bm25.model_dump(mode="json"),
        "token_vectors": qdrant.token_vectors,
        "corpus": dataset.fingerprint,
        **({} if qdrant.dense_vectors else {"dense_vectors": False}),  # older names stay
    }
    digest = hashlib.blake2b(json.dumps(made_by, sort_keys=True).encode(), digest_size=6)
    safe = "".join(char if char.isascii() and char.isalnum() else "-" for char in dataset.name)
    return f"eval-{safe[:80]}-{digest.hexdigest()}"


def _revision(base: "FunnelSettings") -> str:
    return ModelPool.shared().encoder(base.models.embedder).revision
