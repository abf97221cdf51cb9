"""One way to a Redis server or cluster: short timeouts, a bounded wait for a connection, scripts.

redis-py's defaults (ten retries with backoff, five-second timeouts, pools that raise when used up)
are meant for a database. A cache in front of a query has tens of milliseconds, and then the query
goes on without it.
"""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from funnel.cache.patience import patient
from funnel.cache.redis_lua import SCHEMA, Script
from funnel.cache.redis_url import checked_url, place
from funnel.errors import CacheError, ConfigError
from funnel.log import get_logger

log = get_logger(__name__)

Argument: TypeAlias = str | bytes | int | float
T = TypeVar("T")

_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_CONNECTIONS = 32
_CLUSTER_CONNECTIONS = 64
_CONNECT_S = 1.0  # behind the callers' backs; TLS over a slow link takes longer than a lookup may
_IDLE_CHECK_S = 15
_LOOK_UP_EVERY_S = 1.0
_POLICY_MAY_EVICT_ANYTHING = "allkeys"
_READ_ONLY = "read only replica"
_MOVING = "try again when the cluster has moved the slot to its new node"
_FOREIGN = "something else writes to the keys of cache.namespace: name another, or delete them"
_MENDS = {
    "'maxmemory'": "raise its maxmemory well above cache.max_bytes, or lower that",
    _READ_ONLY: "name the primary in cache.url",
    "non local key": _MOVING,
    "TTL exhausted": _MOVING,  # each of two nodes named the other, sixteen times
    "WRONGTYPE": _FOREIGN,
    "not an integer": _FOREIGN,
    "permission": "allow its user scripts and reading, writing keys of cache.namespace, as with "
    "ACL SETUSER USER ~{funnel1:* +@all -@dangerous +info",
    "Authentication required": "put user and password into cache.url",
    "password": "correct user and password in cache.url",
}


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What was found out about the server on the first contact.

    ``policy`` is its ``maxmemory-policy``, None if it does not tell.
    """

    version: str
    cluster: bool
    vector_sets: bool
    policy: str | None

    @property
    def evicts_any_key(self) -> bool:
        """Whether any key may vanish; so it is of a server that does not tell its policy."""
        return self.policy is None or self.policy.startswith(_POLICY_MAY_EVICT_ANYTHING)


class RedisLink:
    """Runs scripts on the node that holds a namespace. Connects on first use.

    A caller waits no longer than the timeout. What it asked for goes on behind its back until it
    is answered or fails by itself, so a reconnection that takes longer than one lookup's patience
    still completes, and no reply is ever left on a connection for somebody else to read.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; any node of a cluster will do.
        namespace: letters, digits and ``_.:-``; becomes the hash tag of all keys.
        timeout_s: bounds every call, waiting for a free connection included.

    Raises:
        ConfigError: the URL or the namespace cannot be used.
    """

    def __init__(self, url: str, namespace: str, timeout_s: float) -> None:
        self._url = checked_url(url)
        self.where = place(url)
        self.prefix = "{" + f"funnel{SCHEMA}:{_checked_namespace(namespace)}" + "}:"
        self._timeout_s = timeout_s
        self.answered_at = -math.inf
        self._client: Any = None
        self._facts: ServerFacts | None = None
        self._connecting: asyncio.Task[Any] | None = None
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._looked_up = -math.inf

    async def facts(self, *, patience_s: float | None = None) -> ServerFacts:
        """What is known of the server, asking it if that has not been done.

        ``patience_s`` instead of the timeout is for starting up: to connect takes longer than to
        look something up.

        Raises:
            CacheError: the server does not answer in time.
        """
        await self._answer(self._connected(), patience_s)
        if self._facts is None:
            raise CacheError(f"Redis at {self.where} went away while it was asked who it is")
        return self._facts

    async def evicts_any_key(self) -> bool:
        """Whether any key may have vanished since this process found the server.

        It is asked anew: its policy may be another since, by a command, a restart or a failover.

        Raises:
            CacheError: the server does not answer in time.
        """
        facts = await self.facts()
        if not facts.evicts_any_key:
            told = await self.command("INFO", "memory")
            policy = told.get("maxmemory_policy") if isinstance(told, Mapping) else None
            facts = replace(facts, policy=policy)
            self._facts = facts  # once it might, it is believed to until the next start
        return facts.evicts_any_key

    async def run(self, script: Script, *arguments: Argument) -> Any:
        """Run a script and return its reply.

        Raises:
            CacheError: the server does not answer in time, or refuses.
        """
        return await self._answer(self._evaluate(script, arguments))

    async def command(self, *words: Argument) -> Any:
        """Run one plain command on the namespace's node; raises as ``run`` does."""
        return await self._answer(self._execute(words, on_node=True))

    async def commands(self, many: Sequence[Sequence[Argument]], *, passed_over: str) -> list[Any]:
        """Run plain commands on the namespace's node, in one round trip; raises as ``run`` does.

        ``passed_over`` is a refusal that stands for no reply, None, instead of being raised.
        """
        replies = await self._answer(self._execute_all(many, passed_over))
        return list(replies)

    async def aclose(self) -> None:
        """Close the connections; further calls raise CacheError."""
        self._closed = True
        tasks = [task for task in (*self._tasks, self._connecting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._disconnect()

    async def _evaluate(self, script: Script, arguments: Sequence[Argument]) -> Any:
        from redis.exceptions import NoScriptError

        rest = (1, f"{self.prefix}meta", self.prefix, *arguments)
        try:
            return await self._execute(("EVALSHA", script.sha, *rest))
        except NoScriptError:
            return await self._execute(("EVAL", script.source, *rest))

    async def _execute(self, words: Sequence[Argument], *, on_node: bool = False) -> Any:
        async with asyncio.timeout(self._timeout_s):
            await self._slots.acquire()
        try:
            client = await self._connected()
            if on_node:
                client = self._node(client)
            reply = await client.execute_command(*words)
            self.answered_at = time.monotonic()
            return reply
        finally:
            self._slots.release()

    async def _execute_all(
        self, many: Sequence[Sequence[Argument]], passed_over: str
    ) -> Sequence[Any]:
        from redis.exceptions import ResponseError

        replies = await self._replies(many)
        for reply in replies:
            refused = isinstance(reply, ResponseError)
            if isinstance(reply, BaseException) and not (refused and passed_over in str(reply)):
                raise reply
        return [None if isinstance(reply, ResponseError) else reply for reply in replies]

    async def _replies(self, many: Sequence[Sequence[Argument]]) -> Sequence[Any]:
        """Replies and errors, in the commands' order."""
        client = await self._connected()
        if self._facts is None or self._facts.cluster:  # a cluster's node has no pipeline
            work = (self._execute(words, on_node=True) for words in many)
            return await asyncio.gather(*work, return_exceptions=True)
        async with asyncio.timeout(self._timeout_s):
            await self._slots.acquire()
        try:
            pipeline = client.pipeline(transaction=False)
            for words in many:
                pipeline.execute_command(*words)
            replies: Sequence[Any] = await pipeline.execute(raise_on_error=False)
            return replies
        finally:
            self._slots.release()

    async def _answer(self, work: Coroutine[Any, Any, T], patience_s: float | None = None) -> T:
        from redis.exceptions import (
            AuthenticationError,
            ClusterError,
            MovedError,
            RedisClusterException,
            RedisError,
            ResponseError,
        )

        patience_s = patience_s or self._timeout_s
        try:
            return await self._wait(work, patience_s)
        except MovedError as error:
            await self._disconnect()  # it has become a cluster: look again
            raise CacheError(f"Redis at {self.where} refused: {error}") from error
        except (AuthenticationError, ClusterError, ResponseError) as error:
            if _READ_ONLY in str(error):  # before Redis 7 it comes as an error of the script
                await self._look_up_again()
            raise CacheError(
                f"Redis at {self.where} refused: {_brief(error)}; {_mend(error)}"
            ) from error
        except (TimeoutError, OSError, RedisError, RedisClusterException) as error:
            raise CacheError(
                f"Redis at {self.where} gave no answer within {patience_s * 1000:.0f} ms: "
                f"{_brief(error)}; see that it runs, or correct cache.url"
            ) from error

    async def _wait(self, work: Coroutine[Any, Any, T], patience_s: float) -> T:
        if self._closed:
            work.close()
            raise CacheError("the Redis store is closed; make a new one")
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        async with patient(patience_s):
            await asyncio.wait((task,))
        if task.cancelled():
            raise CacheError("the Redis store was closed meanwhile; make a new one")
        return task.result()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # so that one nobody waits for any more is not reported as lost

    async def _connected(self) -> Any:
        if self._client is None:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect())
            await asyncio.shield(self._connecting)
        return self._client

    def _node(self, client: Any) -> Any:
        """The namespace's node: spares a cluster client from asking where a command's keys are."""
        if self._facts is None or not self._facts.cluster:
            return client
        node = client.get_node_from_key(f"{self.prefix}meta")
        if node is None:
            raise CacheError(f"the Redis cluster at {self.where} does not cover our slot")
        return node

    async def _connect(self) -> None:
        patient = plain_client(self._url, max(self._timeout_s, _CONNECT_S), connections=1)
        try:
            facts = await _probe(patient)
        finally:
            await patient.aclose()
        client = (cluster_client if facts.cluster else plain_client)(self._url, self._timeout_s)
        self._client, self._facts = client, facts
        log.info("cache.redis.connected", server=self.where, version=facts.version)

    async def _disconnect(self) -> None:
        client, self._client, self._facts = self._client, None, None
        if client is not None:
            await client.aclose()

    async def _look_up_again(self) -> None:
        """Drop idle connections: after a failover the name leads to another server.

        Once a second at most: while the name still leads here, reads need the connections.
        """
        now = time.monotonic()
        if now - self._looked_up < _LOOK_UP_EVERY_S:
            return
        self._looked_up = now
        if self._facts is not None and not self._facts.cluster:
            await self._client.connection_pool.disconnect(inuse_connections=False)


def plain_client(url: str, timeout_s: float, *, connections: int = _CONNECTIONS) -> Any:
    """A client of one server: one retry on a stale connection, none on a timeout."""
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError

    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=max(timeout_s, _CONNECT_S),
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        health_check_interval=_IDLE_CHECK_S,
        protocol=2,
    )
    return Redis.from_pool(pool)


def cluster_client(url: str, timeout_s: float) -> Any:
    """A client of a cluster that the server at ``url`` belongs to."""
    from redis.asyncio import RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return RedisCluster.from_url(
        url,
        max_connections=_CLUSTER_CONNECTIONS,  # over the limit it raises, so _slots stays below it
        socket_timeout=timeout_s,
        socket_connect_timeout=max(timeout_s, _CONNECT_S),
        retry=Retry(NoBackoff(), 1),
        health_check_interval=_IDLE_CHECK_S,
        protocol=2,
    )


async def _probe(client: Any) -> ServerFacts:
    info = await _unless_hidden(client.info()) or await _greeting(client)
    known = await _unless_hidden(client.execute_command("COMMAND INFO", "VADD"))
    return ServerFacts(
        version=str(info.get("redis_version", "unknown")),
        cluster=bool(info.get("cluster_enabled")),
        vector_sets=bool(known) and known != [None],
        policy=info.get("maxmemory_policy"),
    )


async def _greeting(client: Any) -> dict[str, Any]:
    """What any user is told, in the words of INFO, which an ACL without @dangerous hides."""
    words = [_text(word) for word in await _unless_hidden(client.execute_command("HELLO")) or ()]
    said = dict(zip(words[::2], words[1::2], strict=False))
    return {
        "redis_version": said.get("version", "unknown"),
        "cluster_enabled": said.get("mode") == "cluster",
    }


async def _unless_hidden(asking: Awaitable[Any]) -> Any:
    """The reply, or None: hidden from this user, or a proxy without the command."""
    from redis.exceptions import ResponseError

    try:
        return await asking
    except ResponseError as error:
        log.debug("cache.redis.not_probed", reason=_brief(error))
        return None


def _text(word: Any) -> Any:
    return word.decode(errors="replace") if isinstance(word, bytes) else word


def _checked_namespace(namespace: str) -> str:
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigError(
            f"cache.namespace: got {namespace!r}, expected 1 to 100 letters, digits or _ . : -"
        )
    return namespace


def _mend(error: BaseException) -> str:
    said = str(error)
    return next((mend for sign, mend in _MENDS.items() if sign in said), "correct cache.url")


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".rstrip(" .")
