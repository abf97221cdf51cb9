"""One query's way: normalise, look in the cache, run the stages, keep the answer, report."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import numpy as np
import structlog

from funnel.assembly import build_cache, build_stages
from funnel.cache.base import Answer, CacheRequest, QueryCache, Served
from funnel.call import CallOptions, Overrides, one_k, plan
from funnel.chain import Chain, Step
from funnel.deadline import Deadline
from funnel.errors import ConfigError, ModelError
from funnel.index import DocumentIndex, IndexReport
from funnel.log import get_logger
from funnel.loop import LoopThread
from funnel.many import many
from funnel.models.pool import ModelPool
from funnel.models.worker import model_worker
from funnel.pacing import Pace
from funnel.partition import partition
from funnel.parts import Parts
from funnel.query import Query, normalise_query
from funnel.resources import Resources
from funnel.result import FunnelResult
from funnel.settings import FunnelSettings, Secrets
from funnel.threads import Threads
from funnel.types import CacheInfo, Filters
from funnel.writing import Documents

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = get_logger(__name__)


class Funnel:
    """A chain of stages behind a cache, over one collection of documents.

    One instance serves any number of threads, tasks and event loops. It does its waiting on a
    loop of its own, so make it after a fork, not before. Models and servers are opened by
    :meth:`start` or else by the first call, whose deadline begins only then.

    Args:
        settings: from :meth:`FunnelSettings.from_yaml`.
        functions: plain Python functions that stages of kind ``callable`` name.
        cache: in place of the one the settings describe.
        models: in place of the pool that this process shares.

    Raises:
        ConfigError: the settings do not fit together or need what is not installed.
    """

    def __init__(
        self,
        settings: FunnelSettings,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        cache: QueryCache | None = None,
        models: ModelPool | None = None,
    ) -> None:
        if not isinstance(settings, FunnelSettings):
            raise ConfigError(
                f"settings: got {type(settings).__name__}, expected FunnelSettings; plain data "
                "become some by FunnelSettings.from_mapping(…)"
            )
        self.settings = settings
        self.config_hash = settings.hash
        self._models = models or ModelPool.shared()
        self._encoder = self._models.encoder(settings.models.embedder)
        self.documents = DocumentIndex(
            settings.qdrant, settings.collection, self._encoder, bm25=settings.bm25
        )
        resources = Resources(
            index=self.documents,
            models=self._models,
            embedder=settings.models.embedder,
            functions=functions or {},
            openrouter_api_key=Secrets().openrouter_api_key,
        )
        self.stages = build_stages(settings, resources)
        self.cache = cache or build_cache(settings, self._models)
        self._parts = Parts(self.documents, self.stages, self.cache)
        self._chain = Chain(Pace(settings.reserve_ms / 1000), lambda: model_worker().overloaded())
        self._loop = LoopThread()

    @classmethod
    def from_yaml(
        cls,
        path: str | Path,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        cache: QueryCache | None = None,
    ) -> Self:
        """Make a funnel from a YAML file with ``FUNNEL__…`` variables laid over it.

        Raises:
            ConfigError: names file, key path, what was got, what was expected, and the mend.
        """
        return cls(FunnelSettings.from_yaml(path), functions=functions, cache=cache)

    # -- queries

    def run(
        self,
        query: str,
        *,
        k: int | None = None,
        filters: Filters | None = None,
        deadline_ms: float | None = None,
        overrides: Overrides | None = None,
        scope: str | None = None,
        cache: bool = True,
        top_k: int | None = None,
        top_n: int | None = None,
    ) -> FunnelResult:
        """Answer one query; the sync face of :meth:`arun`.

        Args:
            query: the user's text; blank text is refused, control characters are dropped.
            k: how many hits at most; the last stage's k if not given (``top_k`` and ``top_n``
                are aliases). Asking for more than a stage keeps widens that stage for this call.
            filters: restrictions on metadata: ``{"lang": "en", "year": {"gte": 2020}}``.
            deadline_ms: for the whole query; stages that no longer fit are skipped, visibly.
            overrides: stage settings for this call, ``{"cross_encoder": {"k": 20}}``.
            scope: tenant or other hard partition, of the cache and (with ``scope_field`` in the
                settings) of the documents.
            cache: False neither reads nor fills the cache.
            top_k: alias of ``k``.
            top_n: alias of ``k``.

        Raises:
            InputError: the query or an option is wrong, a loop runs in this thread, or this process
                is a fork of the one that opened the funnel.
            StageError: a stage failed whose ``on_error`` is ``raise`` (retrieval, by default).
            Closed: the funnel was closed.
        """
        options = self._options(
            one_k(k, top_k, top_n), filters, deadline_ms, overrides, scope, cache
        )
        return self._loop.call(self._answer(query, options))

    async def arun(
        self,
        query: str,
        *,
        k: int | None = None,
        filters: Filters | None = None,
        deadline_ms: float | None = None,
        overrides: Overrides | None = None,
        scope: str | None = None,
        cache: bool = True,
        top_k: int | None = None,
        top_n: int | None = None,
    ) -> FunnelResult:
        """Answer one query from a coroutine, on any event loop; arguments as :meth:`run`."""
        options = self._options(
            one_k(k, top_k, top_n), filters, deadline_ms, overrides, scope, cache
        )
        return await self._loop.acall(self._answer(query, options))

    def run_many(
        self, queries: Iterable[str], *, concurrency: int = 8, **options: Any
    ) -> list[FunnelResult]:
        """Answer many queries, at most ``concurrency`` at a time, results in their order.

        Raises:
            InputError: one of the queries or options is wrong; nothing is run in that case.
        """
        return self._loop.call(many(queries, concurrency, partial(self.arun, **options)))

    async def arun_many(
        self, queries: Iterable[str], *, concurrency: int = 8, **options: Any
    ) -> list[FunnelResult]:
        """Answer many queries from a coroutine; as :meth:`run_many`."""
        return await self._loop.acall(many(queries, concurrency, partial(self.arun, **options)))

    # -- documents

    def index(
        self,
        documents: Documents,
        *,
        on_bad: Literal["skip", "fail"] = "fail",
        rebuild: bool = False,
        progress: bool = False,
    ) -> IndexReport:
        """Write documents (insert or replace by id); unchanged ones cost nothing.

        With ``rebuild`` they become a new collection that replaces the old one at once when it is
        complete; queries see the old one until then. It works also where :meth:`start` refuses a
        collection that other settings made.

        Raises:
            InputError: ``on_bad`` is neither of the two, or a rebuild got no good document.
            CorpusError: some documents are bad and ``on_bad`` is ``fail``; nothing was written.
        """
        return self._loop.call(
            self._parts.index(documents, on_bad=on_bad, rebuild=rebuild, progress=progress)
        )

    async def aindex(
        self,
        documents: Documents,
        *,
        on_bad: Literal["skip", "fail"] = "fail",
        rebuild: bool = False,
        progress: bool = False,
    ) -> IndexReport:
        """Write documents from a coroutine; as :meth:`index`."""
        return await self._loop.acall(
            self._parts.index(documents, on_bad=on_bad, rebuild=rebuild, progress=progress)
        )

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id; returns how many there were."""
        return self._loop.call(self._parts.delete(ids))

    async def adelete(self, ids: Iterable[str]) -> int:
        """Delete documents from a coroutine; as :meth:`delete`."""
        return await self._loop.acall(self._parts.delete(ids))

    # -- the cache

    def cache_stats(self) -> Mapping[str, Any]:
        """Counters and gauges of the cache, JSON-ready."""
        return self._loop.call(self._parts.opened(self.cache.stats))

    def explain_cache(
        self,
        query: str,
        *,
        k: int | None = None,
        filters: Filters | None = None,
        scope: str | None = None,
    ) -> Mapping[str, Any]:
        """Why a query would hit or miss, with every candidate's scores; changes nothing."""
        options = self._options(k, filters, None, None, scope, True)
        return self._loop.call(self._parts.opened(lambda: self._explain_cache(query, options)))

    def purge_cache(self, *, scope: str | None = None) -> int:
        """Drop all kept answers (of one scope), for all processes; returns how many.

        Raises:
            InputError: the scope is empty or no text.
            CacheError: the store did not answer.
        """
        self._options(None, None, None, None, scope, True)
        return self._loop.call(self._parts.opened(lambda: self.cache.purge(scope=scope)))

    def forget_cached(
        self,
        query: str,
        *,
        k: int | None = None,
        filters: Filters | None = None,
        scope: str | None = None,
    ) -> bool:
        """Drop the kept answer of one query, asked with these options, for all processes.

        Returns whether there was one: its own, or another query's that this wording led to, which
        goes with all of its wordings.

        Raises:
            CacheError: the store did not answer.
        """
        options = self._options(k, filters, None, None, scope, True)
        return self._loop.call(self._parts.opened(lambda: self._forget_cached(query, options)))

    # -- life

    def start(self) -> Self:
        """Open index, models, stages and cache now, so that the first query is not slow."""
        self._loop.call(self._parts.open())
        return self

    async def astart(self) -> Self:
        """Open everything from a coroutine; as :meth:`start`."""
        await self._loop.acall(self._parts.open())
        return self

    def close(self) -> None:
        """Release connections and threads; calls in flight end with ``Closed``. Idempotent."""
        self._loop.stop(self._parts.close)

    async def aclose(self) -> None:
        """Close from a coroutine."""
        closing = Threads(1, "funnel-closing")
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(closing, self._loop.stop, self._parts.close)
        finally:
            closing.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Funnel cannot be pickled or copied, as it belongs to one process; "
            "send its settings and make one of them there"
        )

    # -- inside

    def _options(
        self,
        k: int | None,
        filters: Filters | None,
        deadline_ms: float | None,
        overrides: Overrides | None,
        scope: str | None,
        cache: bool,
    ) -> CallOptions:
        return CallOptions(
            k=k,
            filters={} if filters is None else filters,
            deadline_ms=self.settings.deadline_ms if deadline_ms is None else deadline_ms,
            overrides={} if overrides is None else overrides,
            scope=scope,
            cache=cache,
        )

    async def _answer(self, text: str, options: CallOptions) -> FunnelResult:
        query = self._query(text, options)
        steps = plan(self.stages, options)
        k = options.k or steps[-1].k
        with structlog.contextvars.bound_contextvars(query_id=query.id):
            await self._parts.open()
            began = time.perf_counter()
            deadline = Deadline.after_ms(options.deadline_ms)
            target = Deadline.after_ms(self.settings.p99_target_ms)
            try:
                served = await self._serve(query, steps, deadline, k, options, target)
            finally:
                query.leave()
            result = self._result(query, served, (time.perf_counter() - began) * 1000)
            _log_summary(result, query)
            return result

    def _query(self, text: str, options: CallOptions) -> Query:
        filters = options.all_filters(self.settings.scope_field)
        return Query(
            normalise_query(text),
            query_id=secrets.token_hex(8),
            embed=self._embed,
            filters=filters,
            scope=options.scope,
        )

    async def _serve(
        self,
        query: Query,
        steps: tuple[Step, ...],
        deadline: Deadline,
        k: int,
        options: CallOptions,
        target: Deadline,
    ) -> Served:
        async def compute() -> Answer:
            return await self._chain.run(query, steps, deadline, k, target)

        if not options.cache:
            return await _without_cache(compute)
        return await self.cache.serve(self._cache_request(query, steps, deadline, k), compute)

    def _cache_request(
        self, query: Query, steps: tuple[Step, ...], deadline: Deadline, k: int
    ) -> CacheRequest:
        collection = (self.settings.collection, self.documents.identity)
        where = partition(collection, self._encoder, query, steps, k)
        return CacheRequest(query, where, query.scope, deadline)

    async def _explain_cache(self, text: str, options: CallOptions) -> Mapping[str, Any]:
        return await self.cache.explain(self._cache_request_of(text, options))

    async def _forget_cached(self, text: str, options: CallOptions) -> bool:
        return await self.cache.forget(self._cache_request_of(text, options))

    def _cache_request_of(self, text: str, options: CallOptions) -> CacheRequest:
        steps = plan(self.stages, options)
        k = options.k or steps[-1].k
        return self._cache_request(self._query(text, options), steps, Deadline(), k)

    async def _embed(self, text: str) -> "NDArray[np.float32]":
        vectors = await self._encoder.aencode([text], side="query")
        vector: NDArray[np.float32] = vectors[0]
        if not np.isfinite(vector).all():
            raise ModelError(
                f"encoder {self._encoder.name!r} returned NaN or infinite values for a query; "
                "expected finite numbers: try backend torch in fp32, or another model"
            )
        return vector

    def _result(self, query: Query, served: Served, elapsed_ms: float) -> FunnelResult:
        return FunnelResult(
            query=query.text,
            query_id=query.id,
            hits=served.answer.hits,
            cache=served.info,
            trace=served.answer.trace,
            usage=served.answer.usage,
            degraded=served.answer.degraded,
            notes=("query_shortened",) if query.shortened else (),
            elapsed_ms=elapsed_ms,
            config_hash=self.config_hash,
        )


async def _without_cache(compute: Callable[[], Awaitable[Answer]]) -> Served:
    return Served(await compute(), CacheInfo(status="bypass", reason="the call asked for it"))


def _log_summary(result: FunnelResult, query: Query) -> None:
    log.info(
        "query",
        fingerprint=query.fingerprint,
        hits=len(result.hits),
        ms=round(result.elapsed_ms, 2),
        cache=result.cache.status,
        tier=result.cache.tier,
        stages={stage.name: round(stage.ms, 2) for stage in result.trace},
        degraded=list(result.degraded),
        cost_usd=result.usage.cost_usd,
        config=result.config_hash,
    )
    log.debug("query_text", text=result.query, hit_ids=list(result.ids))
