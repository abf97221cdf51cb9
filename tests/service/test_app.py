"""The HTTP face: answers as the library gives them, refusals with a status and a reason."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Mount

from funnel import Funnel
from funnel.errors import (
    BackendUnavailable,
    ConfigError,
    ModelError,
    Overloaded,
    RateLimited,
    StageTimeout,
)
from funnel.service import ServiceOptions, bodies, make_app
from funnel.service.options import check_reach
from funnel.settings import FunnelSettings

pytestmark = pytest.mark.slow
DOCUMENTS = [
    {"id": "reset", "title": "Reset a password", "text": "Press forgot password.", "lang": "en"},
    {"id": "ship", "title": "Shipping", "text": "A parcel takes three days.", "lang": "de"},
]
WRITES = ServiceOptions(writes=True, overrides=True)


def _funnel(**functions: Any) -> Funnel:
    stages: list[dict[str, Any]] = [{"kind": "bm25", "k": 5}]
    stages += [{"kind": "callable", "function": name, "k": 5} for name in functions]
    settings = FunnelSettings.model_validate(
        {
            "collection": "small",
            "stages": stages,
            "qdrant": {"path": ":memory:"},
            "cache": {"store": "memory", "verifier": {"model": "embedded:duplicate"}},
        }
    )
    return Funnel(settings, functions=functions)


@asynccontextmanager
async def _client(
    funnel: Funnel, options: ServiceOptions = WRITES, **headers: str
) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(funnel, options)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://funnel", headers=headers
        ) as client:
            yield client


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with _funnel() as funnel:
        await funnel.aindex(DOCUMENTS)
        async with _client(funnel) as client:
            yield client


async def test_a_query_is_answered_as_by_the_library(client: httpx.AsyncClient) -> None:
    """Hits, trace, cache and the fate of a document; without the trace if not wanted."""
    answer = (await client.post("/query", json={"query": "forgot password"})).json()
    assert [hit["id"] for hit in answer["hits"]] == ["reset"]
    assert answer["trace"][0]["name"] == "bm25"
    assert answer["cache"]["status"] == "miss"
    asked = {"query": "forgot password", "trace": False, "explain": "ship"}
    again = (await client.post("/query", json=asked)).json()
    assert again["hits"] == answer["hits"]
    assert again["cache"]["tier"] == "exact"
    assert "trace" not in again
    assert again["explain"]["doc_id"] == "ship"


async def test_options_reach_the_funnel(client: httpx.AsyncClient) -> None:
    """Filters, k and overrides."""
    text = "password parcel"
    both = (await client.post("/query", json={"query": text})).json()
    one = (await client.post("/query", json={"query": text, "k": 1})).json()
    german = (await client.post("/query", json={"query": text, "filters": {"lang": "de"}})).json()
    changed = {"query": text, "overrides": {"bm25": {"k": 1}}}
    cut = (await client.post("/query", json=changed)).json()
    assert [len(each["hits"]) for each in (both, one, german, cut)] == [2, 1, 1, 1]
    assert german["hits"][0]["id"] == "ship"


async def test_documents_come_and_go(client: httpx.AsyncClient) -> None:
    """And the kept answers with them."""
    await client.post("/query", json={"query": "parcel"})
    report = await client.post(
        "/documents", json={"documents": [{"id": "lost", "text": "A lost parcel is paid for."}]}
    )
    assert report.json()["new"] == 1
    found = (await client.post("/query", json={"query": "parcel"})).json()
    assert {hit["id"] for hit in found["hits"]} == {"ship", "lost"}
    gone = await client.request("DELETE", "/documents", json={"ids": ["lost", "never"]})
    assert gone.json() == {"deleted": 1}
    found = (await client.post("/query", json={"query": "parcel"})).json()
    assert {hit["id"] for hit in found["hits"]} == {"ship"}


async def test_the_cache_is_told_of_and_emptied(client: httpx.AsyncClient) -> None:
    """Stats, explain, forget and purge."""
    for text in ("parcel", "password"):
        await client.post("/query", json={"query": text})
    stats = (await client.get("/cache/stats")).json()
    assert stats["by_status"] == {"miss": 2}
    explained = (await client.post("/cache/explain", json={"query": "parcel"})).json()
    assert explained["status"] == "hit"
    forgotten = await client.post("/cache/forget", json={"query": "parcel"})
    assert forgotten.json() == {"forgotten": True}
    dropped = await client.post("/cache/purge", json={})
    assert dropped.json() == {"dropped": 1}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"query": "  "}, "query"),
        ({"query": 3}, "$.query"),
        ({"quest": "x", "query": "x"}, "quest"),
        ({"query": "x", "k": 0}, "k: got 0"),
        ({"query": "x", "k": 101}, "at most 100"),
        ({"query": "x", "filters": {"a": {"near": 1}}}, "near"),
        ({"query": "x", "deadline_ms": -1}, "deadline_ms"),
        ({"query": "x", "overrides": {"bm52": {"k": 1}}}, "did you mean 'bm25'"),
    ],
)
async def test_a_bad_query_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, Any], said: str
) -> None:
    """With 400 and what was wrong."""
    answer = await client.post("/query", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


async def test_a_bad_body_is_refused(client: httpx.AsyncClient) -> None:
    """Not JSON, of another type, too long with and without its length said, nested without end."""
    json_type = {"content-type": "application/json"}

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b'"' + b"x" * 50_000

    answers = [
        await client.post("/query", content=b"{", headers=json_type),
        await client.post("/query", content=b'{"query": "\xff"}', headers=json_type),
        await client.post("/query", content=b"[" * 100_000, headers=json_type),
        await client.post("/query", content=b"{}", headers={"content-type": "text/plain"}),
        await client.post("/query", content=b" " * 1_100_000, headers=json_type),
        await client.post("/query", content=parts(), headers=json_type),
    ]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 415, 413, 413]
    assert all(answer.json()["error"]["message"] for answer in answers)


async def test_a_length_of_many_digits_is_too_long(client: httpx.AsyncClient) -> None:
    """More of them than Python reads as a number; a long row of zeros is none."""
    asked = {"content-type": "application/json", "content-length": "9" * 5000}
    answer = await client.post("/query", content=b"{}", headers=asked)
    assert answer.status_code == 413
    asked["content-length"] = "0" * 5000 + "14"
    answer = await client.post("/query", content=b'{"query": "x"}', headers=asked)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/nope", 404, None),
        ("POST", "/query/", 404, None),
        ("GET", "/query", 405, {"POST"}),
        ("OPTIONS", "/documents", 405, {"POST", "DELETE"}),
        ("POST", "/readyz", 405, {"GET", "HEAD"}),
        ("HEAD", "/metrics", 200, None),
    ],
)
async def test_no_such_route_is_said_as_all_errors(
    client: httpx.AsyncClient, method: str, path: str, status: int, allowed: set[str] | None
) -> None:
    """As JSON, with the methods that there are; nobody is sent elsewhere."""
    answer = await client.request(method, path)
    assert answer.status_code == status
    if status != 200:
        assert f"{method} {path}" in answer.json()["error"]["message"]
    if allowed is not None:
        assert set(answer.headers["allow"].split(", ")) == allowed


async def test_a_slow_body_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are answered meanwhile, and its own end is 408."""
    begun = asyncio.Event()

    async def dripping() -> AsyncIterator[bytes]:
        yield b"{"
        begun.set()
        await asyncio.sleep(60)

    async with _funnel() as funnel, _client(funnel, ServiceOptions(max_in_flight=1)) as client:
        monkeypatch.setattr(bodies, "_PATIENCE_S", 1.0)
        monkeypatch.setattr(bodies, "_SLOWEST_BYTES_PER_S", 1 << 30)
        asked = {"content-type": "application/json"}
        slow = asyncio.ensure_future(client.post("/query", content=dripping(), headers=asked))
        await begun.wait()
        assert (await client.post("/query", json={"query": "x"})).status_code == 200
        answer = await slow
        assert (answer.status_code, answer.headers["connection"]) == (408, "close")


async def test_bad_documents_are_listed(client: httpx.AsyncClient) -> None:
    """Nothing is written, unless the call says to skip them."""
    bad = [{"id": "ok", "text": "fine"}, {"id": "empty"}]
    answer = await client.post("/documents", json={"documents": bad})
    assert answer.status_code == 400
    assert len(answer.json()["error"]["problems"]) == 1
    skipped = await client.post("/documents", json={"documents": bad, "on_bad": "skip"})
    assert (skipped.json()["new"], len(skipped.json()["problems"])) == (1, 1)
    typo = await client.post("/documents", json={"documents": bad, "on_bad": "ignore"})
    assert typo.status_code == 400


async def test_what_was_not_allowed_is_forbidden() -> None:
    """Writes, dropping answers and overrides; queries go on."""
    async with _funnel() as funnel, _client(funnel, ServiceOptions()) as client:
        answers = [
            await client.post("/documents", json={"documents": []}),
            await client.request("DELETE", "/documents", json={"ids": ["a"]}),
            await client.post("/cache/purge", json={}),
            await client.post("/cache/forget", json={"query": "x"}),
            await client.post("/query", json={"query": "x", "overrides": {"bm25": {"k": 1}}}),
        ]
        assert [answer.status_code for answer in answers] == [403] * 5
        assert (await client.post("/query", json={"query": "x"})).status_code == 200


async def test_the_token_guards_all_but_the_probes() -> None:
    """And is compared whole."""
    options = ServiceOptions(token=SecretStr("s3cret"))
    async with _funnel() as funnel, _client(funnel, options) as client:
        for header in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "Basic s3cret"}):
            answer = await client.post("/query", json={"query": "x"}, headers=header)
            assert answer.status_code == 401
            assert "s3cret" not in answer.text
            assert (await client.get("/metrics", headers=header)).status_code == 401
        right = {"authorization": "Bearer s3cret"}
        assert (await client.post("/query", json={"query": "x"}, headers=right)).is_success
        assert (await client.get("/healthz")).json() == {"alive": True}
        assert (await client.get("/readyz")).json()["stages"][0]["name"] == "bm25"


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (StageTimeout("late"), 504, None),
        (BackendUnavailable("away"), 503, "1"),
        (RateLimited("slow down", retry_after=7.4), 503, "7"),
        (Overloaded("full"), 429, "1"),
        (ZeroDivisionError("secret detail"), 500, None),
        (ModelError("secret detail of a file"), 500, None),
    ],
)
async def test_a_failure_has_its_status(
    error: Exception, status: int, retry: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw tells no details."""

    async def fails(*_: Any, **__: Any) -> None:
        raise error

    async with _funnel() as funnel, _client(funnel) as client:
        monkeypatch.setattr(funnel, "arun", fails)
        answer = await client.post("/query", json={"query": "x"})
        assert answer.status_code == status
        assert answer.headers.get("retry-after") == retry
        assert "secret detail" not in answer.text
        assert ("log has it under" in answer.text) == (status == 500)
        metrics = (await client.get("/metrics")).text
        assert f'funnel_http_requests_total{{route="/query",status="{status}"}} 1.0' in metrics
        assert "funnel_in_flight 0.0" in metrics


async def test_more_than_it_takes_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 429; the one that runs goes on."""
    running, release = asyncio.Event(), asyncio.Event()
    async with _funnel() as funnel:
        run = funnel.arun

        async def slow(*args: Any, **kwargs: Any) -> Any:
            running.set()
            await release.wait()
            return await run(*args, **kwargs)

        monkeypatch.setattr(funnel, "arun", slow)
        async with _client(funnel, ServiceOptions(max_in_flight=1)) as client:
            first = asyncio.ensure_future(client.post("/query", json={"query": "x"}))
            await running.wait()
            second = await client.post("/query", json={"query": "x"})
            release.set()
            assert (second.status_code, second.headers["retry-after"]) == (429, "1")
            assert (await first).status_code == 200


async def test_explaining_takes_a_place_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It works as hard as a query."""
    running, release = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> dict[str, Any]:
        running.set()
        release.wait(20)
        return {}

    async with _funnel() as funnel, _client(funnel, ServiceOptions(max_in_flight=1)) as client:
        monkeypatch.setattr(funnel, "explain_cache", slow)
        first = asyncio.ensure_future(client.post("/cache/explain", json={"query": "x"}))
        await asyncio.to_thread(running.wait, 20)
        second = await client.post("/cache/explain", json={"query": "x"})
        release.set()
        assert (second.status_code, (await first).status_code) == (429, 200)


async def test_it_is_ready_once_started_and_no_more_when_closed() -> None:
    """Also where a framework mounts it and leaves out its lifespan."""
    async with _funnel() as funnel:
        outer = Starlette(routes=[Mount("/search", make_app(funnel))])
        transport = httpx.ASGITransport(outer)
        async with httpx.AsyncClient(transport=transport, base_url="http://funnel") as client:
            assert (await client.get("/search/readyz")).json()["ready"]
            assert (await client.get("/search/nope")).json()["error"]["type"] == "NotFound"
            await funnel.aclose()
            answer = await client.get("/search/readyz")
            assert (answer.status_code, answer.json()["ready"]) == (503, False)


async def test_a_caller_who_hung_up_is_not_worked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The query is cancelled as soon as the server says that the connection ended."""
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(*_: Any, **__: Any) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def messages() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": b'{"query": "x"}', "more_body": False}
        await running.wait()
        yield {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/query",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    coming, sent = messages(), []

    async def send(message: Any) -> None:
        sent.append(message)

    async with _funnel() as funnel:
        monkeypatch.setattr(funnel, "arun", endless)
        async with asyncio.timeout(20):
            await make_app(funnel)(scope, coming.__anext__, send)
            await cancelled.wait()
    assert sent[0]["status"] == 499


def test_strangers_may_not_write() -> None:
    """Listening on all addresses with writes asks for a token; limits have a least."""
    with pytest.raises(ConfigError, match="FUNNEL_SERVICE_TOKEN"):
        check_reach("0.0.0.0", WRITES)
    check_reach("127.0.0.1", WRITES)
    check_reach("::1", WRITES)
    check_reach("0.0.0.0", ServiceOptions(writes=True, token=SecretStr("s3cret")))
    with pytest.raises(ConfigError, match="max_k"):
        ServiceOptions(max_k=0)
    for token in ("", "two words", "line\nbreak"):
        with pytest.raises(ConfigError, match="FUNNEL_SERVICE_TOKEN"):
            ServiceOptions(token=SecretStr(token))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8080", 200),
        ("127.9.9.9", 200),
        ("[::1]:8080", 200),
        ("[::1]", 200),
        ("rebound.example:8080", 403),
        ("localhost.example", 403),
        ("127.0.0.1.example", 403),
        ("192.168.0.7", 403),
        ("", 403),
    ],
)
async def test_a_local_service_answers_to_its_own_names_only(host: str, status: int) -> None:
    """Whatever page a browser here shows and whatever its name points to."""
    options = ServiceOptions(writes=True, local_only=True)
    async with _funnel() as funnel, _client(funnel, options, host=host) as client:
        answer = await client.post("/query", json={"query": "x"})
        assert answer.status_code == status
        assert status == 200 or "only as localhost" in answer.json()["error"]["message"]


async def test_writes_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next is refused before its body is read; a place is free again once one has ended."""
    going, inside = asyncio.Event(), asyncio.Semaphore(0)

    async def waits(*_: Any, **__: Any) -> int:
        inside.release()
        await going.wait()
        return 1

    async with _funnel() as funnel:
        monkeypatch.setattr(funnel, "adelete", waits)
        async with _client(funnel, ServiceOptions(writes=True, max_writes=2)) as client:
            first = [
                asyncio.create_task(client.request("DELETE", "/documents", json={"ids": ["a"]}))
                for _ in range(2)
            ]
            for _ in first:
                await inside.acquire()
            answer = await client.post("/documents", content=b"no JSON, and not read")
            assert answer.status_code == 429
            assert "writes are under way" in answer.text
            going.set()
            assert [(await task).status_code for task in first] == [200, 200]
            again = await client.request("DELETE", "/documents", json={"ids": ["a"]})
            assert again.json() == {"deleted": 1}
