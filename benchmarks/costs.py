"""What time and memory depend on: candidates, their length, callers, the corpus.

    python -m benchmarks.costs [--data BEIR_FOLDER] [--model MODEL] [--sizes 1000,…] [--out FOLDER]

``candidates``: one query against the first n passages of the folder. ``length``: twenty documents
of n words. ``callers``: pairs a second of one offline batch and of 8 callers with a list each.
``corpus``: dense, BM25 and hybrid retrieval in local mode among n documents; the texts
are random words of Zipf's frequencies and the vectors random, because what is in them does not
matter to the time, so embedding the query is not part of it. Each runs in a process of its own, so
that peak memory is its own; each becomes a table and, with ``--out``, a picture.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from funnel.deadline import Deadline
from funnel.models.base import Side
from funnel.types import Document

ROOT = Path(__file__).parents[1]
DEPTHS = (1, 10, 25, 50, 100, 200)
WORDS = (10, 25, 50, 100, 200, 400)
SIZES = "1000,3000,10000,30000,100000"
ROUNDS, SEARCHES, BATCH = 7, 20, 10_000
VOCABULARY, LENGTH, DIM = 50_000, 40, 384

Table = dict[str, Any]
"""``x``: what was varied, ``rows``: one mapping each, ``peak_mib``, and facts about the run."""


def main() -> None:
    """Measure all, each in its own process, and print tables or one JSON object."""
    options = _options()
    if options.only:
        print(json.dumps(_MEASURES[options.only](options)))
        return
    tables = {name: _apart(name) for name in _MEASURES}
    if options.out:
        for name, table in tables.items():
            if name != "callers":
                draw(name, table, options.out / f"costs-{name}.svg")
    if options.json:
        print(json.dumps(tables, indent=2))
    else:
        print("\n\n".join(as_text(name, table) for name, table in tables.items()))


def candidates(options: argparse.Namespace) -> Table:
    """Milliseconds by the number of candidates, with the straight line through them."""
    scorer = _scorer(options)
    query, texts = _passages(options.data, max(DEPTHS))
    depths = [depth for depth in DEPTHS if depth <= len(texts)]
    pairs = [(query, text) for text in texts]
    rows = [{"candidates": n, "ms": median_ms(partial(scorer.score, pairs[:n]))} for n in depths]
    slope, start, fit = line([row["candidates"] for row in rows], [row["ms"] for row in rows])
    facts = {"ms_per_candidate": slope, "ms_at_none": start, "r_squared": fit}
    return {"x": "candidates", "rows": rows, **facts, **_about(scorer.name, scorer.backend)}


def length(options: argparse.Namespace) -> Table:
    """Milliseconds for twenty documents by their length, up to the model's window."""
    scorer = _scorer(options)
    rows = []
    for words in WORDS:
        pairs = [("how is a passport renewed", "word " * words)] * 20
        ms = median_ms(partial(scorer.score, pairs))
        rows.append({"words": words, "ms": ms, "documents_per_s": 20_000 / ms})
    return {"x": "words", "rows": rows, **_about(scorer.name, scorer.backend)}


def callers(options: argparse.Namespace) -> Table:
    """Pairs per second of 16 lists of 50: all at once, and by 8 callers, taking turns."""
    scorer = _scorer(options)
    query, texts = _passages(options.data, 800)
    pairs = [(query, text) for text in texts]
    lists = [pairs[start : start + 50] for start in range(0, len(pairs), 50)]
    times: dict[str, list[float]] = {"offline": [], "8 callers": []}
    for turn in range(ROUNDS // 2 + 1):
        for name, act in (
            ("offline", partial(scorer.score, pairs)),
            ("8 callers", lambda: asyncio.run(_call(scorer, lists, 8))),
        ):
            began = time.perf_counter()
            act()
            if turn:
                times[name].append(time.perf_counter() - began)
    rates = {name: len(pairs) / statistics.median(each) for name, each in times.items()}
    rows = [{"callers": 1, "pairs_per_s": rates["offline"]}]
    rows.append({"callers": 8, "pairs_per_s": rates["8 callers"]})
    ratio = rates["8 callers"] / rates["offline"]
    return {"x": "callers", "rows": rows, "ratio": ratio, **_about(scorer.name, scorer.backend)}


async def _call(scorer: Any, lists: Sequence[Sequence[tuple[str, str]]], callers: int) -> None:
    waiting = iter(lists)

    async def caller() -> None:
        for pairs in waiting:
            await scorer.ascore(pairs, deadline=Deadline())

    await asyncio.gather(*(caller() for _ in range(callers)))


def corpus(options: argparse.Namespace) -> Table:
    """Milliseconds of a search for 100 by the corpus's size; the index grows between."""
    sizes = [int(size) for size in options.sizes.split(",")]
    return {"x": "documents", "rows": asyncio.run(_corpus(sizes)), **_about("random vectors", "")}


async def _corpus(sizes: Sequence[int]) -> list[dict[str, float]]:
    from funnel.index import DocumentIndex
    from funnel.indexing.qdrant import QdrantSettings
    from tests.fakes import FakeEncoder, FloatArray

    random = np.random.default_rng(0)

    class Random(FakeEncoder):
        async def aencode(
            self,
            texts: Sequence[str],
            *,
            side: Side | None = None,  # noqa: ARG002 - any text gets any vector
        ) -> FloatArray:
            return random.standard_normal((len(texts), DIM)).astype(np.float32)

    index = DocumentIndex(QdrantSettings(path=":memory:"), "costs", Random(dim=DIM))
    await index.start()
    rows: list[dict[str, float]] = []
    for size in sizes:
        began, done = time.perf_counter(), int(rows[-1]["documents"]) if rows else 0
        for start in range(done, size, BATCH):
            texts = random_texts(random, min(BATCH, size - start), LENGTH)
            await index.upsert([Document(f"d{start + i}", text) for i, text in enumerate(texts)])
        seconds = time.perf_counter() - began
        await index.warm_up()
        row = {"documents": size, "documents_per_s": (size - done) / seconds}
        queries = random_texts(random, SEARCHES, 5)
        vectors = random.standard_normal((SEARCHES, DIM)).astype(np.float32)
        for way in ("dense", "bm25", "hybrid"):
            search = partial(_search, index, way)
            row[f"{way}_ms"] = await _median_search_ms(search, vectors, queries)
        rows.append({**row, "peak_mib": peak_mib()})
    await index.aclose()
    return rows


async def _search(index: Any, way: str, vector: "np.ndarray[Any, Any]", terms: str) -> None:
    await index.search(
        vector=None if way == "bm25" else vector, terms=None if way == "dense" else terms, k=100
    )


async def _median_search_ms(
    search: Callable[..., Awaitable[None]], vectors: "np.ndarray[Any, Any]", queries: Sequence[str]
) -> float:
    times = []
    for vector, query in zip(vectors, queries, strict=True):
        began = time.perf_counter()
        await search(vector, query)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def random_texts(random: np.random.Generator, count: int, words: int) -> list[str]:
    """Texts of words whose frequencies fall as one over their rank."""
    weights = 1 / np.arange(1, VOCABULARY + 1)
    numbers = random.choice(VOCABULARY, size=(count, words), p=weights / weights.sum())
    return [" ".join(f"w{number}" for number in row) for row in numbers]


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope and start of the least-squares line, and the share of variance that it explains."""
    slope, start = np.polyfit(x, y, 1)
    residual = np.asarray(y) - (slope * np.asarray(x) + start)
    return float(slope), float(start), float(1 - residual.var() / np.var(y))


def median_ms(act: Callable[[], object]) -> float:
    """The median time of an action that ran once before."""
    act()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def peak_mib() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def as_text(name: str, table: Mapping[str, Any]) -> str:
    """A table for a terminal or a README."""
    columns = list(table["rows"][0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " ---: |" * len(columns)]
    lines += [
        "| " + " | ".join(f"{row[key]:.5g}" for key in columns) + " |" for row in table["rows"]
    ]
    facts = {key: value for key, value in table.items() if key not in ("rows", "x") and value}
    shown = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in facts.items()
    )
    return "\n".join([f"{name}: {shown}", "", *lines])


def draw(name: str, table: Mapping[str, Any], path: Path) -> None:
    """Every column in milliseconds over what was varied."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    x = [row[table["x"]] for row in table["rows"]]
    for column in (key for key in table["rows"][0] if key.endswith("ms")):
        y = [row[column] for row in table["rows"]]
        axes.plot(x, y, marker="o", label=column.removesuffix("_ms"))
    axes.set(xlabel=table["x"], ylabel="ms")
    if name == "corpus":
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _scorer(options: argparse.Namespace) -> Any:
    from funnel.bench.ways import default_model
    from funnel.models import CrossEncoderScorer

    return CrossEncoderScorer(options.model or default_model())


def _passages(folder: Path, count: int) -> tuple[str, list[str]]:
    from funnel.bench.candidates import load_candidates

    found = load_candidates(folder, split="test", depth=count, limit=1)
    query_id = next(iter(found.lists))
    own = list(found.lists[query_id])
    rest = [doc_id for doc_id in found.texts if doc_id not in set(own)]
    texts = [found.texts[doc_id] for doc_id in (own + rest)[:count]]
    return found.dataset.queries[query_id], texts


def _about(model: str, backend: str) -> dict[str, Any]:
    peak = peak_mib()  # before what only this line loads
    from funnel.bench.rerank import device

    return {"model": model, "backend": backend, "device": device(), "peak_mib": peak}


def _apart(name: str) -> Table:
    command = [sys.executable, "-m", "benchmarks.costs", *sys.argv[1:], "--only", name]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    table: Table = json.loads(done.stdout.splitlines()[-1])
    return table


_MEASURES = {"candidates": candidates, "length": length, "callers": callers, "corpus": corpus}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    data = ROOT.parent / "shared" / "data" / "trec-dl20"
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), default=data)
    parser.add_argument("--model", help="a cross-encoder; the default of funnel bench rerank")
    parser.add_argument("--sizes", default=SIZES, help="of the corpus, rising")
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), help="folder of pictures")
    parser.add_argument("--only", choices=list(_MEASURES), help="one of them, as a line of JSON")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
