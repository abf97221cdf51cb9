"""The ASGI app: each route is one method of :class:`funnel.Funnel`."""

import asyncio
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from funnel.errors import FunnelError, InputError, Overloaded
from funnel.log import Seldom, get_logger
from funnel.service import bodies
from funnel.service.failures import Forbidden, Unauthorised, body_of, headers_of, status_of
from funnel.service.metrics import CONTENT_TYPE, ServiceMetrics
from funnel.service.options import ServiceOptions, names_this_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from funnel.engine import Funnel

log = get_logger(__name__)
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

_LEFT = 499
"""The status that is logged and counted for a caller who hung up; nobody reads it."""
_DOCUMENTS_SHARE = 64


def make_app(funnel: "Funnel", options: ServiceOptions | None = None) -> Starlette:
    """An ASGI app over a funnel, which it starts and leaves open: the owner closes it.

    Routes, all in JSON: ``POST /query``; with ``writes`` ``POST`` and ``DELETE /documents``,
    ``POST /cache/purge`` and ``/cache/forget``; ``GET /cache/stats``, ``POST /cache/explain``;
    ``GET /healthz``, ``/readyz``, ``/metrics`` (Prometheus).
    """
    service = _Service(funnel, options or ServiceOptions())
    routes = [
        Route(path, service.guarded(path, handlers), methods=[*handlers])
        for path, handlers in service.routes().items()
    ]
    app = Starlette(
        routes=[*routes, Route("/healthz", _alive), Route("/readyz", service.ready)],
        lifespan=service.lifespan,
        exception_handlers={HTTPException: _no_route},
    )
    app.state.end = service.end
    app.router.redirect_slashes = False  # to an address that the caller's Host header names
    return app


class _Service:
    def __init__(self, funnel: "Funnel", options: ServiceOptions) -> None:
        self._funnel = funnel
        self._options = options
        self._metrics = ServiceMetrics()
        self._in_flight = 0
        self._writing = 0
        self._seldom = Seldom(log)
        self._bodies = bodies.Bodies()

    def routes(self) -> dict[str, dict[str, Handler]]:
        """The handlers by path and method of every route that asks for the token."""
        return {
            "/query": {"POST": self._query},
            "/documents": {"POST": self._index, "DELETE": self._delete},
            "/cache/stats": {"GET": self._cache_stats},
            "/cache/explain": {"POST": self._cache_explain},
            "/cache/forget": {"POST": self._cache_forget},
            "/cache/purge": {"POST": self._cache_purge},
            "/metrics": {"GET": self._exposition},
        }

    def end(self) -> None:
        """No longer wait for callers who are still sending; on the event loop that serves them."""
        self._bodies.end()

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Open everything before the first request is taken."""
        await self._funnel.astart()
        yield

    def guarded(self, path: str, handlers: Mapping[str, Handler]) -> Handler:
        """Around a path's handlers: the token, errors as statuses, and a count of both."""

        async def answer(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            response = await self._answered(request, handlers[method])
            self._metrics.answered(path, response.status_code)
            return response

        return answer

    async def _answered(self, request: Request, handler: Handler) -> Response:
        try:
            self._check_host(request)
            self._check_token(request)
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=_LEFT)
        except FunnelError as error:
            return self._failed(request, error)
        except Exception as error:
            return _crashed(request, error)

    def _failed(self, request: Request, error: FunnelError) -> Response:
        status = status_of(error)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            return _crashed(request, error)
        if status > HTTPStatus.INTERNAL_SERVER_ERROR:
            told, path = body_of(error)["error"], request.url.path
            about = (path, told["type"], told.get("stage"))
            self._seldom.warning("request_failed", about=about, path=path, error=str(error))
        return _json(body_of(error), status, headers_of(error))

    # -- queries

    async def _query(self, request: Request) -> Response:
        self._check_room()  # at once, before the body
        body = await self._bodies.read(request, bodies.QueryBody, self._options.max_body_bytes)
        self._check_limits(body)
        with self._slot():  # only now: a caller who sends slowly must not hold a place
            work = self._funnel.arun(
                body.query,
                k=body.k,
                filters=body.filters,
                deadline_ms=body.deadline_ms,
                overrides=body.overrides,
                scope=body.scope,
                cache=body.cache,
            )
            result = await _while_there(request, work)
        self._metrics.query(result)
        answer = result.to_dict()
        if not body.trace:
            del answer["trace"]
        if body.explain is not None:
            answer["explain"] = asdict(result.explain(body.explain))
        return _json(answer)

    def _check_room(self) -> None:
        if self._in_flight >= self._options.max_in_flight:
            raise Overloaded(
                f"{self._in_flight} queries are being answered, the most this service takes; "
                "try again later"
            )

    @contextmanager
    def _slot(self) -> "Iterator[None]":
        self._check_room()
        self._in_flight += 1
        self._metrics.in_flight(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            self._metrics.in_flight(self._in_flight)

    def _check_limits(self, body: bodies.QueryBody) -> None:
        if body.k is not None and body.k > self._options.max_k:
            raise InputError(f"k: got {body.k}, this service gives at most {self._options.max_k}")
        if body.overrides and not self._options.overrides:
            raise Forbidden("overrides: this service was started without --allow-overrides")

    # -- documents

    async def _index(self, request: Request) -> Response:
        self._check_writes()
        with self._write():
            body = await self._bodies.read(request, bodies.DocumentsBody, self._documents_bytes)
            on_bad = cast("Literal['skip', 'fail']", body.on_bad)
            report = await self._funnel.aindex(body.documents, on_bad=on_bad)
        return _json({**asdict(report), "problems": report.problems})

    async def _delete(self, request: Request) -> Response:
        self._check_writes()
        with self._write():
            body = await self._bodies.read(request, bodies.IdsBody, self._documents_bytes)
            return _json({"deleted": await self._funnel.adelete(body.ids)})

    @contextmanager
    def _write(self) -> "Iterator[None]":
        """From before the body on, since bodies of documents are what takes the memory."""
        if self._writing >= self._options.max_writes:
            raise Overloaded(
                f"{self._writing} writes are under way, the most this service takes; "
                "try again later, with more documents in each"
            )
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1

    @property
    def _documents_bytes(self) -> int:
        return self._options.max_body_bytes * _DOCUMENTS_SHARE

    # -- the cache

    async def _cache_stats(self, _: Request) -> Response:
        return _json(await asyncio.to_thread(self._funnel.cache_stats))

    async def _cache_explain(self, request: Request) -> Response:
        self._check_room()
        body = await self._cache_body(request)
        with self._slot():  # it embeds and compares as a query does
            return _json(await asyncio.to_thread(self._explain, body))

    async def _cache_forget(self, request: Request) -> Response:
        self._check_writes()
        body = await self._cache_body(request)
        return _json({"forgotten": await asyncio.to_thread(self._forget, body)})

    async def _cache_purge(self, request: Request) -> Response:
        self._check_writes()
        body = await self._bodies.read(request, bodies.ScopeBody, self._options.max_body_bytes)
        return _json({"dropped": await asyncio.to_thread(self._purge, body.scope)})

    async def _cache_body(self, request: Request) -> bodies.CacheBody:
        return await self._bodies.read(request, bodies.CacheBody, self._options.max_body_bytes)

    def _explain(self, body: bodies.CacheBody) -> Mapping[str, Any]:
        return self._funnel.explain_cache(
            body.query, k=body.k, filters=body.filters, scope=body.scope
        )

    def _forget(self, body: bodies.CacheBody) -> bool:
        return self._funnel.forget_cached(
            body.query, k=body.k, filters=body.filters, scope=body.scope
        )

    def _purge(self, scope: str | None) -> int:
        return self._funnel.purge_cache(scope=scope)

    # -- the service itself

    async def ready(self, _: Request) -> Response:
        """Whether queries can be answered now, and by what; asks for no token.

        Starts the funnel where nothing else has: a framework that mounts the app under its own
        leaves out the lifespan.
        """
        ready = await self._is_started()
        settings = self._funnel.settings
        stages = [{"name": s.name, "kind": s.kind, "k": s.k} for s in settings.stages]
        told = {
            "ready": ready,
            "collection": settings.collection,
            "stages": stages,
            "config_hash": self._funnel.config_hash,
        }
        return _json(told, 200 if ready else 503)

    async def _is_started(self) -> bool:
        try:
            await self._funnel.astart()
        except Exception as error:
            log.warning("not_ready", error=str(error))
            return False
        return True

    async def _exposition(self, _: Request) -> Response:
        text = await asyncio.to_thread(self._metrics.exposition)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    def _check_writes(self) -> None:
        if not self._options.writes:
            raise Forbidden("this service was started without --allow-writes")

    def _check_host(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if self._options.local_only and not names_this_machine(host):
            raise Forbidden(
                f"host: got {host!r:.80}, but without FUNNEL_SERVICE_TOKEN this service answers "
                "only as localhost; ask for localhost, or set a token"
            )

    def _check_token(self, request: Request) -> None:
        if self._options.token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        expected = self._options.token.get_secret_value().encode()
        right = hmac.compare_digest(given.strip().encode(), expected)
        if scheme.lower() != "bearer" or not right:
            raise Unauthorised("authorization: expected Bearer and this service's token")


async def _alive(_: Request) -> Response:
    return _json({"alive": True})


async def _no_route(request: Request, error: Exception) -> Response:
    """The router's refusals, 404 and 405, in the form of all the others."""
    refusal = cast("HTTPException", error)
    status = HTTPStatus(refusal.status_code)
    message = f"{request.method} {request.url.path}: {status.phrase.lower()}"
    told = {"type": status.phrase.replace(" ", ""), "message": message}
    return _json({"error": told}, status, refusal.headers)


def _crashed(request: Request, error: Exception) -> Response:
    """What callers can do nothing about: they get a name for it, the log gets the rest."""
    name = secrets.token_hex(8)
    log.error("request_crashed", path=request.url.path, id=name, exc_info=error)
    message = f"internal error; the service's log has it under {name}"
    return _json({"error": {"type": "InternalError", "message": message}}, 500)


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result, given up as soon as the caller hangs up.

    Raises:
        ClientDisconnect: the caller hung up.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # msgspec writes NaN and infinity as null: JSON has neither.
    return Response(
        msgspec.json.encode(value), status, headers=headers, media_type="application/json"
    )
