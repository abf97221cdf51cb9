"""Normalising a query, and its one shared embedding."""

import asyncio
import gc
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.errors import InputError
from funnel.query import MAX_QUERY_CHARS, Query, Vector, normalise_query


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\x00\x07", "\ud800"])
def test_a_query_with_nothing_in_it_is_refused(text: str) -> None:
    """Blank, control characters only, a lone surrogate only."""
    with pytest.raises(InputError, match="at least one character"):
        normalise_query(text)


@pytest.mark.parametrize("text", [None, 7, b"bytes", ["list"]])
def test_a_query_must_be_text(text: object) -> None:
    """Other types are named in the message."""
    with pytest.raises(InputError, match=f"got {type(text).__name__}"):
        normalise_query(text)


def test_white_space_is_folded_and_controls_are_dropped() -> None:
    """What cannot be seen cannot make two queries differ."""
    assert normalise_query(" reset\x00 my\n\tpass\ud800word ") == "reset my password"


def test_composed_and_decomposed_letters_are_one() -> None:
    """NFC: the same text in two encodings is the same query."""
    assert normalise_query("cafe\u0301") == normalise_query("café")


@given(st.text(min_size=1))
def test_normalising_twice_changes_nothing(text: str) -> None:
    """Normalisation is idempotent and leaves encodable text."""
    try:
        once = normalise_query(text)
    except InputError:
        return
    assert normalise_query(once) == once
    assert once.encode("utf-8")


def test_no_text_takes_long_to_normalise() -> None:
    """Marks without end took quadratic time, and a long text is not read to its end."""
    began = time.perf_counter()
    zalgo = normalise_query("a" + "\u0301\u0327" * 500_000)
    assert time.perf_counter() - began < 5
    assert zalgo.startswith(normalise_query("a\u0327\u0301"))
    assert len(normalise_query("\n" * 1_000_000 + "word " * 1_000_000)) > MAX_QUERY_CHARS


async def no_embedding(text: str) -> Vector:
    return np.zeros(2, dtype=np.float32)


def test_a_huge_query_is_shortened_and_says_so() -> None:
    """100k characters are cut to the limit, visibly."""
    query = Query("x" * 100_000, query_id="q", embed=no_embedding)
    assert len(query.text) == MAX_QUERY_CHARS
    assert query.shortened


async def test_the_embedding_is_computed_once() -> None:
    """However many stages ask, and even if one gives up waiting."""
    calls = 0

    async def embed(text: str) -> Vector:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.02)
        return np.ones(2, dtype=np.float32)

    query = Query("text", query_id="q", embed=embed)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(query.vector(), 0.001)
    first, second = await asyncio.gather(query.vector(), query.vector())
    assert calls == 1
    assert first is second


async def test_an_embedding_that_fails_when_nobody_waits_is_no_noise() -> None:
    """The event loop would print a stack trace when the query is forgotten."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    failed = asyncio.Event()

    async def embed(text: str) -> Vector:
        await asyncio.sleep(0.01)
        failed.set()
        raise ValueError("too late")

    query = Query("text", query_id="q", embed=embed)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(query.vector(), 0.001)
    await failed.wait()
    await asyncio.sleep(0)
    del query
    gc.collect()
    assert told == []


async def test_an_embedding_nobody_wants_is_not_computed() -> None:
    """After the call, and of other words too; who still waits gets it, who comes later another."""
    running = 0

    async def embed(text: str) -> Vector:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(0.02)
        finally:
            running -= 1
        return np.ones(2, dtype=np.float32)

    query = Query("text", query_id="q", embed=embed)
    other = query.reworded("the same")
    for each in (query, other):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(each.vector(), 0.001)
    assert running == 2
    waits = asyncio.ensure_future(query.vector())
    await asyncio.sleep(0)
    query.leave()
    await asyncio.sleep(0)
    assert running == 1
    assert (await waits).shape == (2,)
    assert (await other.vector()).shape == (2,)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(query.reworded("too late").vector(), 0.001)
    await asyncio.sleep(0)
    assert running == 0
