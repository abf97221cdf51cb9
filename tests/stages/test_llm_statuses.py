"""Every row of the status table, against a real server on loopback."""

import asyncio
import gzip
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.errors import (
    AuthError,
    BackendUnavailable,
    BudgetExceeded,
    ConfigError,
    FunnelError,
    MalformedOutput,
    RateLimited,
    StageError,
    StageTimeout,
)
from funnel.stages import attempts
from funnel.stages.openrouter import OpenRouter
from funnel.stages.openrouter_answer import Response, content, retry_after_s
from tests.openrouter_server import (
    TEST_KEY,
    Answer,
    OpenRouterServer,
    completion,
    failure,
    openrouter_server,
    ranking,
)
from tests.stages.llm_support import candidates, ids, llm_stage, rank

TOO_LONG = "context_length_exceeded: this model's maximum context length is 8192 tokens"


@pytest.fixture
def server() -> Iterator[OpenRouterServer]:
    with openrouter_server() as running:
        yield running


@pytest.mark.parametrize("inside_200", [False, True])
@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (400, StageError, "error"),
        (401, AuthError, "auth"),
        (402, BudgetExceeded, "budget"),
        (403, AuthError, "auth"),
        (408, StageTimeout, "timeout"),
        (413, StageError, "error"),
        (418, StageError, "error"),
        (422, StageError, "error"),
    ],
)
async def test_final_statuses_are_raised_without_a_retry(
    server: OpenRouterServer,
    status: int,
    error: type[StageError],
    reason: str,
    inside_200: bool,
) -> None:
    """What another try cannot mend is raised at once, with the server's words."""
    server.script = [failure(status, "the server's words", inside_200=inside_200)]
    with pytest.raises(error, match="the server's words") as caught:
        await rank(llm_stage(server))
    assert caught.value.reason == reason
    assert len(server.asked) == 1


async def test_404_names_the_constraints(server: OpenRouterServer) -> None:
    """That no endpoint fits is a configuration error that says what was asked for."""
    server.script = [failure(404, "No endpoints found")]
    with pytest.raises(ConfigError, match=r"one/model.*require_parameters.*data_collection.*deny"):
        await rank(llm_stage(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_too_long_context_is_shrunk_once(server: OpenRouterServer, status: int) -> None:
    """Passages are halved once; the ranking then stands, and the trace says it was shrunk."""
    server.script = [failure(status, TOO_LONG), ranking(2, 1)]
    found = candidates(2, "{} " + "y" * 1_000)
    output = await rank(llm_stage(server, max_passage_chars=800), found)
    assert ids(output) == ["d2", "d1"]
    assert [asked.text.count("y") // 700 for asked in server.asked] == [2, 1]
    assert output.details["shrunk"] is True
    assert output.truncated == 2


async def test_a_context_still_too_long_is_raised(server: OpenRouterServer) -> None:
    """A second refusal is final and names the settings to lower."""
    server.script = [failure(400, TOO_LONG)]
    with pytest.raises(StageError, match="max_passage_chars"):
        await rank(llm_stage(server))
    assert len(server.asked) == 2


@pytest.mark.parametrize("as_date", [False, True])
async def test_429_waits_as_long_as_it_is_told(server: OpenRouterServer, as_date: bool) -> None:
    """Retry-After is honoured in seconds and as a date, within the time left."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    wait = {"Retry-After": soon if as_date else "1"}
    server.script = [failure(429, headers=wait), ranking(2, 1)]
    started = time.monotonic()
    output = await rank(llm_stage(server), 2)
    assert time.monotonic() - started >= 0.9
    assert (ids(output), output.details["repeats"]) == (["d2", "d1"], 1)


async def test_429_beyond_the_deadline_is_raised_at_once(server: OpenRouterServer) -> None:
    """A wait that does not fit is not begun; the caller learns how long it would be."""
    server.script = [failure(429, headers={"Retry-After": "30"})]
    started = time.monotonic()
    with pytest.raises(RateLimited) as caught:
        await rank(llm_stage(server), deadline_ms=20_000)
    assert caught.value.retry_after == 30
    assert time.monotonic() - started < 10
    assert len(server.asked) == 1


async def test_429_without_an_end_is_bounded(server: OpenRouterServer) -> None:
    """A server that always says wait is asked three times."""
    server.script = [failure(429, headers={"Retry-After": "0"})]
    with pytest.raises(RateLimited):
        await rank(llm_stage(server, fallback_models=["other/model"]))
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "broken",
    [
        failure(500),
        failure(502),
        failure(503),
        failure(504),
        failure(502, inside_200=True),
        Answer({"error": "something"}),
        Answer({"choices": [{"error": {"code": 502, "message": "upstream"}}]}),
        completion("partly", finish_reason="error"),
        completion(""),
        completion(None),
        completion("", finish_reason="length"),
        completion(["not", "text"]),
        Answer({"choices": []}),
        Answer({"choices": [None]}),
        Answer([1, 2]),
        Answer(b"<html>gateway</html>"),
        Answer(b""),
        Answer(b"\xff\xfe{"),
        Answer({}, hang_up=True),
    ],
)
async def test_a_failed_call_is_repeated(server: OpenRouterServer, broken: Answer) -> None:
    """Server errors, errors inside a 200, empty content and malformed bodies get another try."""
    server.script = [broken, ranking(2, 1)]
    output = await rank(llm_stage(server), 2)
    assert ids(output) == ["d2", "d1"]
    assert (len(server.asked), output.details["repeats"]) == (2, 1)


async def test_after_two_repeats_the_next_model_is_asked(
    server: OpenRouterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is down makes room for the fallback, and for the rest of the query."""
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.01)
    server.script = [failure(503), failure(503), failure(503), ranking(2, 1)]
    output = await rank(llm_stage(server, fallback_models=["two/model"]), 2)
    assert ids(output) == ["d2", "d1"]
    assert [asked.body["model"] for asked in server.asked] == ["one/model"] * 3 + ["two/model"]
    assert server.asked[3].body["models"] == ["two/model"]


async def test_when_all_models_are_down_the_last_error_is_raised(
    server: OpenRouterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six calls for two models, then unavailable."""
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.01)
    server.script = [failure(500, "down")]
    with pytest.raises(BackendUnavailable, match="down"):
        await rank(llm_stage(server, fallback_models=["two/model"]))
    assert len(server.asked) == 6


async def test_no_repeat_past_the_deadline(
    server: OpenRouterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that does not fit into the time left is not begun."""
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 600.0)
    server.script = [failure(500)]
    started = time.monotonic()
    with pytest.raises(BackendUnavailable):
        await rank(llm_stage(server), deadline_ms=10_000)
    assert time.monotonic() - started < 5
    assert len(server.asked) == 1


async def test_an_endless_body_is_not_read(server: OpenRouterServer) -> None:
    """A body beyond any answer's size is refused instead of held in memory."""
    server.script = [Answer(b" " * 3_000_000)]
    with pytest.raises(MalformedOutput, match="more than"):
        await rank(llm_stage(server))


async def test_a_packed_answer_is_read(server: OpenRouterServer) -> None:
    """A gateway may compress what it passes on."""
    body = gzip.compress(ranking(2, 1).encoded())
    server.script = [Answer(body, headers={"Content-Encoding": "gzip"})]
    assert ids(await rank(llm_stage(server), 2)) == ["d2", "d1"]


@pytest.mark.parametrize(
    ("encoding", "body", "says"),
    [
        ("gzip", gzip.compress(b" " * 50_000_000), "more than"),
        ("gzip, gzip", gzip.compress(gzip.compress(b" " * 50_000_000)), "gzip, gzip"),
        ("gzip", b"no gzip", "damaged"),
        ("br", b"?", "'br'"),
    ],
)
async def test_a_packed_body_is_not_unpacked_beyond_any_answers_size(
    server: OpenRouterServer, encoding: str, body: bytes, says: str
) -> None:
    """Kilobytes that hold gigabytes took memory, and the event loop for twenty seconds."""
    server.script = [Answer(body, headers={"Content-Encoding": encoding})]
    with pytest.raises(MalformedOutput, match=says):
        await rank(llm_stage(server))


async def test_what_the_server_says_can_be_sent_on(server: OpenRouterServer) -> None:
    """Half a surrogate pair, which JSON allows, could not be written into an answer's bytes."""
    server.script = [Answer({"error": {"code": 418, "message": "\ud800"}}, 418)]
    with pytest.raises(StageError) as raised:
        await rank(llm_stage(server))
    str(raised.value).encode()
    assert Response(200, {"model": "one/\ud800" + "x" * 10_000}).model == "one/?" + "x" * 295


async def test_no_time_left_is_a_timeout_without_a_call(server: OpenRouterServer) -> None:
    """An expired deadline asks nobody."""
    with pytest.raises(StageTimeout, match="no time"):
        await rank(llm_stage(server), deadline_ms=0)
    assert server.asked == []


BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "code", "choices", "message", "content", "usage", "cost"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["error", "choices", "usage", "model"]), BODIES),
    st.integers(200, 599),
)
def test_any_body_is_text_or_an_error_of_ours(body: dict[str, object], status: int) -> None:
    """No body, however odd, brings out anything but text or an error of the tree."""
    response = Response(status, body)
    assert response.usage.cost_usd >= 0
    try:
        assert content(response, "nothing").strip()
    except FunnelError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str | None, seconds: float | None) -> None:
    """Seconds or an HTTP date; a date gone by is now, nonsense is nothing."""
    now = datetime(2026, 11, 21, 10, 0, 0, tzinfo=UTC)
    assert retry_after_s(value, now) == seconds


async def test_a_storm_waits_outside_of_the_client() -> None:
    """In it every call looks through all that wait: 300 held the loop for seconds past any end."""
    client = OpenRouter("http://127.0.0.1:1", TEST_KEY, {})
    transport = client._client()._transport = Crowd()
    done = await asyncio.gather(*(client.post({}, 0.2) for _ in range(150)), return_exceptions=True)
    assert {type(each) for each in done} == {StageTimeout}
    assert transport.most == 100
    await client.aclose()


class Crowd(httpx.AsyncBaseTransport):
    """Never answers; counts who is inside at once."""

    inside = most = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(60)
        finally:
            self.inside -= 1
        raise AssertionError(request)
