"""The demo's report as tables for a terminal."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from funnel.demo.grading import HEAD
from funnel.demo.loader import RELEVANT

if TYPE_CHECKING:
    from funnel.demo.grading import StageGrades
    from funnel.demo.playback import Playback, Played
    from funnel.demo.runner import DemoReport, Shown
    from funnel.types import Hit

_STAGE_HEADINGS = (
    "k",
    "relevant",
    "partial",
    "noise",
    "not\nnoise",
    f"in\ntop {HEAD}",
    "answer\nfirst",
    "ms\n(p50)",
)


def render(report: "DemoReport", console: Console) -> None:
    """Print the whole report."""
    console.print(_index_line(report))
    console.print()
    console.print(stage_table(report.stages))
    if report.degraded:
        console.print(Text(f"degraded: {', '.join(report.degraded)}", style="yellow"))
    console.print()
    console.print(trace_table(report.shown))
    console.print(Text("\n".join(lost_answers(report.shown)), style="dim"))
    console.print(stream_table(report.cache))
    console.print(summary(report.cache))


def stage_table(stages: "tuple[StageGrades, ...]") -> Table:
    """One row per stage: what it kept, how it was graded, how long it took."""
    queries = stages[0].queries if stages else 0
    title = f"what each stage keeps, summed over {queries} graded queries"
    table = _table(title)
    table.add_column("stage", no_wrap=True)
    for heading in _STAGE_HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in stages:
        table.add_row(*_stage_cells(stage))
    return table


def trace_table(shown: "Shown") -> Table:
    """Every returned article with its grade, and its rank and score at each stage."""
    result = shown.result
    moved = f"; its best answer climbed {shown.climbed} ranks" if shown.climbed > 0 else ""
    table = _table(f"“{escape(result.query)}” ({shown.id}{moved})", expand=True)
    table.add_column("#", justify="right", width=2)
    table.add_column("article", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("grade", justify="right", width=5)
    for stage in result.trace:
        table.add_column(f"{stage.name}\n{stage.ms:.0f} ms", justify="right", no_wrap=True)
    for hit in result.hits:
        said = [_rank_and_score(hit, stage.name) for stage in result.trace]
        grade = str(shown.grades.get(hit.id, "-"))
        table.add_row(str(hit.rank), Text(hit.title or hit.id), grade, *said)
    return table


def lost_answers(shown: "Shown") -> list[str]:
    """One line for each relevant article that was not returned: where it died."""
    answers = (doc_id for doc_id, grade in shown.grades.items() if grade >= RELEVANT)
    found = set(shown.result.ids)
    return [f"{i}: {shown.result.explain(i).text}" for i in answers if i not in found]


def stream_table(cache: "Playback") -> Table:
    """One row per question: what the cache said, of which earlier question, how surely."""
    table = _table("questions through the cache", expand=True)
    table.add_column("question", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("cache", no_wrap=True, width=12)
    table.add_column("matched, or why not", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("score", justify="right", width=6)
    table.add_column("ms", justify="right", width=7)
    for played in cache.questions:
        table.add_row(
            Text(played.query),
            _verdict(played),
            Text(played.cache.matched_query or played.cache.reason or ""),
            "" if played.cache.score is None else f"{played.cache.score:.3f}",
            f"{played.ms:.1f}",
        )
    return table


def summary(cache: "Playback") -> Text:
    """Hits of those possible, wrong ones, and what was saved."""
    lines = [
        f"{cache.hits} of {len(cache.questions)} questions answered from the cache "
        f"({cache.saved_share:.0%} of the rankings saved); {cache.expected_hits} were asked before",
        f"wrong hits: {cache.wrong_hits} · not recognised: {cache.missed}",
    ]
    if cache.hit_ms is not None and cache.miss_ms is not None:
        lines.append(
            f"a hit takes {cache.hit_ms:.1f} ms, a miss {cache.miss_ms:.1f} ms (medians); "
            f"saved {cache.saved_ms / 1000:.2f} s in all"
        )
    return Text("\n".join(lines))


def _table(title: str, *, expand: bool = False) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=expand
    )


def _index_line(report: "DemoReport") -> Text:
    index = report.index
    if not index.written:
        return Text(f"{index.documents} articles, already indexed in {index.collection}")
    return Text(
        f"indexed {index.written} articles into {index.collection} in {index.seconds:.1f} s "
        f"({index.documents_per_s:.0f}/s)"
    )


def _rank_and_score(hit: "Hit", stage: str) -> str:
    if stage not in hit.stage_ranks:
        return ""
    score = f" {hit.stage_scores[stage]:.3g}" if stage in hit.stage_scores else ""
    return f"#{hit.stage_ranks[stage]}{score}"


def _stage_cells(stage: "StageGrades") -> tuple[str, ...]:
    return (
        stage.name,
        str(stage.k),
        str(stage.kept.relevant),
        str(stage.kept.partial),
        str(stage.kept.noise),
        f"{stage.kept.share_not_noise:.0%}",
        f"{stage.head.share_not_noise:.0%}",
        f"{stage.first}/{stage.queries}",
        f"{stage.p50_ms:.1f}",
    )


def _verdict(played: "Played") -> Text:
    if played.is_wrong:
        return Text("wrong hit", style="bold red")
    if played.is_hit:
        return Text(f"hit {played.cache.tier}", style="green")
    if played.is_missed:
        return Text("missed" if played.cache.status == "miss" else "error", style="yellow")
    return Text(played.cache.status, style="dim")
