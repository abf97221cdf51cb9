"""Records, vectors and questions with which the stores are tried."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnel.cache.store import Record, Store, Stored

P, Q = "aa" * 32, "bb" * 32
DIMENSIONS = 16
HOSTILE_IDS = ["", "*", "{x}", "a:b", "naïve ☃", "line\nbreak", "\x00", "'; DROP TABLE records --"]


def axis(number: int, *, toward: int | None = None, share: float = 0.0) -> NDArray[np.float32]:
    """A unit vector along one axis, leaning toward another by ``share``."""
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    vector[number] = 1.0
    if toward is not None:
        vector[toward] = share
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


async def keep(store: Store, key: str, *, partition: str = P, **fields: Any) -> bool:
    """Put a record with sensible defaults, at the current epoch unless told otherwise."""
    given: dict[str, Any] = {"scope": "", "payload": key.encode(), "retain_s": 60.0, **fields}
    if "epoch" not in given:
        given["epoch"] = (await store.epoch()).current
    return await store.put(Record(partition=partition, key=key, **given))


async def keep_many(store: Store, keys: Sequence[str], **fields: Any) -> None:
    """Put records one after the other under one epoch."""
    epoch = (await store.epoch()).current
    for key in keys:
        assert await keep(store, key, epoch=epoch, **fields)


async def payload(store: Store, key: str, *, partition: str = P) -> bytes | None:
    """What ``get`` finds, None for nothing."""
    found = (await store.get(partition, key)).found
    return found.payload if isinstance(found, Stored) else None


async def near(store: Store, vector: NDArray[np.float32], **options: Any) -> list[str]:
    """The keys that ``nearest`` finds, best first."""
    asked = {"limit": 5, "floor": 0.1, **options}
    partition = asked.pop("partition", P)
    return [s.key for s in (await store.nearest(partition, vector, **asked)).found]


async def eventually(check: Any, *, within_s: float = 3.0) -> None:
    """Wait until an awaitable check comes true."""
    end = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.01)
