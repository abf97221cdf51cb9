"""A stand-in for Redis 8: a real Redis behind a door that answers the vector set commands itself.

No Redis 8 can be installed where these tests must run. What it answers follows the documentation of
VADD, VSIM, VREM and VRANDMEMBER (RESP2), so it shows that we speak them rightly, not that a Redis 8
behaves as documented.
"""

import asyncio
import random
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np

from tests.redis_servers import HOST, RedisServer

Command = list[bytes]
Vectors = dict[bytes, "np.ndarray[Any, np.dtype[np.float32]]"]
T = TypeVar("T")


class VectorSetServer:
    """Listens on a port of its own; everything but vector sets goes on to ``behind``."""

    def __init__(self, behind: RedisServer) -> None:
        self._behind = behind
        self.sets: dict[bytes, Vectors] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, HOST, 0))
        self.port = int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def close(self) -> None:
        """Stop listening and end the thread."""
        self._loop.call_soon_threadsafe(self._server.close)
        self._call(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=5)

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(HOST, self._behind.port)
        try:
            while True:
                raw, command = await _read_command(reader)
                reply = self._answer(command)
                if reply is None:
                    up_writer.write(raw)
                    reply = await _read_reply(up_reader)
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            up_writer.close()
            writer.close()

    def _answer(self, command: Command) -> bytes | None:
        name = command[0].upper()
        if name == b"COMMAND" and command[1:] == [b"INFO", b"VADD"]:
            return b"*1\r\n*3\r\n$4\r\nvadd\r\n:-5\r\n*0\r\n"
        answers = {
            b"VADD": self._vadd,
            b"VSIM": self._vsim,
            b"VREM": self._vrem,
            b"VRANDMEMBER": self._vrandmember,
        }
        return answers[name](command[1:]) if name in answers else None

    def _vadd(self, words: Command) -> bytes:
        key, form, raw, element, quantisation = words
        assert (form, quantisation) == (b"FP32", b"Q8")
        vector = np.frombuffer(raw, dtype="<f4")
        kept = self.sets.setdefault(key, {})
        for other in kept.values():
            if len(other) != len(vector):
                return b"-ERR Vector dimension mismatch - got %d but set has %d\r\n" % (
                    len(vector),
                    len(other),
                )
        new = element not in kept
        kept[element] = vector / np.linalg.norm(vector)
        return b":%d\r\n" % new

    def _vsim(self, words: Command) -> bytes:
        key, form, raw, scores, count, number = words
        assert (form, scores, count) == (b"FP32", b"WITHSCORES", b"COUNT")
        kept = self.sets.get(key, {})
        query = np.frombuffer(raw, dtype="<f4")
        if any(len(vector) != len(query) for vector in kept.values()):
            return b"-ERR Vector dimension mismatch\r\n"
        query = query / np.linalg.norm(query)
        ranked = sorted(((float(v @ query), e) for e, v in kept.items()), reverse=True)
        flat: list[bytes] = []
        for cosine, element in ranked[: int(number)]:
            flat += [element, repr((1 + cosine) / 2).encode()]
        return _array(flat)

    def _vrem(self, words: Command) -> bytes:
        key, element = words
        kept = self.sets.get(key, {})
        found = kept.pop(element, None) is not None
        if not kept:
            self.sets.pop(key, None)
        return b":%d\r\n" % found

    def _vrandmember(self, words: Command) -> bytes:
        key, count = words
        elements = list(self.sets.get(key, {}))
        return _array(random.sample(elements, min(int(count), len(elements))))


def _array(items: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(b"$%d\r\n%s\r\n" % (len(i), i) for i in items)


async def _read_command(reader: asyncio.StreamReader) -> tuple[bytes, Command]:
    raw = head = await reader.readuntil(b"\r\n")
    words: Command = []
    for _ in range(int(head[1:])):
        size = await reader.readuntil(b"\r\n")
        word = await reader.readexactly(int(size[1:]) + 2)
        raw += size + word
        words.append(word[:-2])
    return raw, words


async def _read_reply(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n")
    size = int(head[1:]) if head[:1] in b"*$" else -1
    if size < 0:
        return head
    if head[:1] == b"$":
        return head + await reader.readexactly(size + 2)
    return head + b"".join([await _read_reply(reader) for _ in range(size)])
