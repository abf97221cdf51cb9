"""The demo: index the help centre once, grade every stage, trace a query, play the cache stream."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funnel.demo import loader
from funnel.demo.grading import StageGrades, climb, grade_stages
from funnel.demo.playback import Playback, play
from funnel.errors import InputError
from funnel.progress import bar

if TYPE_CHECKING:
    from funnel.cache.settings import CacheSettings
    from funnel.engine import Funnel
    from funnel.index import IndexReport
    from funnel.result import FunnelResult
    from funnel.settings import FunnelSettings
    from funnel.stages.base import StageSettings

SPEND_CAP_USD = 0.25
"""What the LLM stage of one demo may cost; a run takes about a tenth of it."""

_PATIENCE_MS = 5_000

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class Shown:
    """The query that is shown in full: its grades, and the ranks that its best answer gained."""

    id: str
    grades: Mapping[str, int]
    climbed: int
    result: "FunnelResult"


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Everything that the demo measured."""

    index: "IndexReport"
    stages: tuple[StageGrades, ...]
    shown: Shown
    cache: Playback
    degraded: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """One JSON-ready object."""
        return {
            "index": {
                "collection": self.index.collection,
                "documents": self.index.documents,
                "written": self.index.written,
                "seconds": self.index.seconds,
            },
            "stages": [stage.to_dict() for stage in self.stages],
            "shown": {
                "id": self.shown.id,
                "grades": dict(self.shown.grades),
                "climbed": self.shown.climbed,
                "result": self.shown.result.to_dict(),
            },
            "cache": self.cache.to_dict(),
            "degraded": list(self.degraded),
        }


def demo_settings(base: "FunnelSettings", llm_config: Path | None) -> "FunnelSettings":
    """Adapt an operator's settings to the demo.

    The collection is named after the corpus' content, so that the operator's own is untouched and
    a newer corpus is indexed anew. The cache lives in memory, so that every run begins cold. There
    is no tenant and no deadline, and the cache's limits are wide: a slow machine shows the same
    answers, later.
    The LLM stage of ``llm_config`` is appended when one is given and there is none yet.
    """
    stages = base.stages
    if llm_config is not None and all(stage.kind != "llm_listwise" for stage in stages):
        stages = (*stages, _llm_stage(llm_config, stages[-1].k))
    return base.model_copy(
        update={
            "collection": f"demo-{loader.corpus_fingerprint()}",
            "deadline_ms": None,
            "scope_field": None,
            "stages": stages,
            "cache": _patient_cache(base.cache),
        }
    )


def run_demo(
    funnel: "Funnel", *, query_id: str | None = None, progress: bool = False
) -> DemoReport:
    """Run the demo on a funnel made from :func:`demo_settings`.

    Args:
        funnel: open; the documents are written into its collection unless they are there.
        query_id: the graded query to show in full; the one that gained most if not given.
        progress: draw bars on a terminal.

    Raises:
        InputError: no graded query has that id.
        StageError: retrieval failed.
    """
    queries = loader.load_queries()
    if query_id is not None and query_id not in {query.id for query in queries}:
        raise InputError(f"query: got {query_id!r}, expected one of: {_names(queries)}")

    def draw(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return bar(label, total, enabled=progress)

    written = funnel.index(loader.load_documents(), progress=progress)
    results = _rank(funnel, queries, draw)
    grades = loader.load_grades()
    shown = _shown(results, grades, query_id)
    stream = loader.load_stream()
    with draw("cache stream", len(stream)) as advance:
        cache = play(stream, funnel.run, advance)
    return DemoReport(
        index=written,
        stages=grade_stages({name: result.trace for name, result in results.items()}, grades),
        shown=shown,
        cache=cache,
        degraded=_degraded(results.values()),
    )


def _patient_cache(base: "CacheSettings | None") -> "CacheSettings":
    from funnel.cache.settings import CacheSettings

    cache = base or CacheSettings()
    changes = {
        "store": "memory",
        "url": None,
        "timeout_ms": _PATIENCE_MS,
        "verifier": cache.verifier.model_copy(update={"timeout_ms": _PATIENCE_MS}),
    }
    return cache.model_copy(update=changes)


def _rank(
    funnel: "Funnel", queries: Sequence[loader.DemoQuery], draw: Bar
) -> dict[str, "FunnelResult"]:
    """Answer one after another, so that the times are those of a single user."""
    results = {}
    with draw("graded queries", len(queries)) as advance:
        for query in queries:
            results[query.id] = funnel.run(query.text, cache=False)
            advance(1)
    return results


def _shown(
    results: "Mapping[str, FunnelResult]", grades: loader.Grades, query_id: str | None
) -> Shown:
    climbs = {name: climb(result.trace, grades[name]) for name, result in results.items()}
    chosen = query_id or max(climbs, key=lambda name: climbs[name])
    return Shown(chosen, grades[chosen], climbs[chosen], results[chosen])


def _degraded(results: "Iterable[FunnelResult]") -> tuple[str, ...]:
    return tuple(sorted({reason for result in results for reason in result.degraded}))


def _llm_stage(config: Path, keeps_at_most: int) -> "StageSettings":
    """The LLM stage of a shipped file; the environment is not asked, it tunes the main file."""
    from funnel.settings import FunnelSettings

    stages = FunnelSettings.from_yaml(config, environment={}).stages
    llm = next(stage for stage in stages if stage.kind == "llm_listwise")
    changes = {"k": min(llm.k, keeps_at_most), "max_usd_per_process": SPEND_CAP_USD}
    return llm.model_copy(update=changes)


def _names(queries: Sequence[loader.DemoQuery]) -> str:
    return ", ".join(query.id for query in queries)
