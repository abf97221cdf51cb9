"""What the engine itself costs: import, ``--help``, and of a query all but models and Qdrant.

Set-up: the fake encoder of the tests (no model), an index in memory, three stages (hybrid and two
Python functions) over 1,000 documents; medians over many queries, best of five for imports.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from funnel import Funnel, FunnelSettings
from funnel.cache.null import NullCache

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.fakes import FakeEncoder  # noqa: E402 - the tests are no package of the wheel

QUERIES = 2_000


class _Models:
    def __init__(self) -> None:
        self._encoder = FakeEncoder()

    def encoder(self, name: str) -> FakeEncoder:  # noqa: ARG002
        return self._encoder


def main() -> None:
    """Print one JSON object."""
    overheads, totals = query_overhead()
    report = {
        "import_funnel_ms": best_ms("import funnel"),
        "funnel_help_ms": command_ms("--help"),
        "python_start_ms": best_ms("pass", inside=False),
        "engine_overhead_ms": percentiles(overheads),
        "query_ms": percentiles(totals),
    }
    json.dump(report, sys.stdout, indent=2)
    print()


def query_overhead() -> tuple[list[float], list[float]]:
    """Milliseconds of each query outside its stages, and in all."""
    overheads, totals = [], []
    with _funnel() as funnel:
        funnel.index(
            {"id": str(i), "text": f"document {i} about topic {i % 40}"} for i in range(1000)
        )
        for number in range(QUERIES + 100):
            began = time.perf_counter()
            result = funnel.run(f"topic {number % 40}")
            total = (time.perf_counter() - began) * 1000
            if number >= 100:
                totals.append(total)
                overheads.append(total - sum(stage.ms for stage in result.trace))
    return overheads, totals


def best_ms(code: str, *, inside: bool = True) -> float:
    """Best of five fresh interpreters: the statement alone, or the whole process."""
    times = []
    for _ in range(5):
        source = f"import time; t=time.perf_counter(); {code}; print(time.perf_counter()-t)"
        began = time.perf_counter()
        out = _python("-c", source)
        times.append(float(out) if inside else time.perf_counter() - began)
    return round(min(times) * 1000, 1)


def command_ms(*arguments: str) -> float:
    """Best of five runs of the command, process start included."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        _python("-m", "funnel", *arguments)
        times.append(time.perf_counter() - began)
    return round(min(times) * 1000, 1)


def percentiles(values: list[float]) -> dict[str, float]:
    """p50 and p95 in the values' unit."""
    cuts = statistics.quantiles(values, n=20)
    return {"p50": round(statistics.median(values), 3), "p95": round(cuts[18], 3)}


def _funnel() -> Funnel:
    def by_length(query: str, candidates: Any) -> list[float]:  # noqa: ARG001
        return [float(len(candidate.document.text)) for candidate in candidates]

    settings = FunnelSettings.from_mapping(
        {
            "stages": [
                {"kind": "hybrid", "k": 100},
                {"kind": "callable", "name": "a", "function": "f", "k": 50},
                {"kind": "callable", "name": "b", "function": "f", "k": 10},
            ],
            "qdrant": ":memory:",
        }
    )
    models: Any = _Models()
    return Funnel(settings, functions={"f": by_length}, cache=NullCache(), models=models)


def _python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


if __name__ == "__main__":
    main()
