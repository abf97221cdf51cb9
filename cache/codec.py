"""Sealed entries: msgpack under a version byte and a keyed checksum. Never pickle.

Layout of a sealed value: one version byte, 16 bytes of keyed BLAKE2b, msgpack. The checksum covers
the version, the place (partition and key) and the body, so that an entry copied to another tenant's
partition or another query's key does not open.
"""

import hashlib
import hmac
import os
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from funnel.errors import CacheError
from funnel.types import Hit, ScoreKind, SourceScore

VERSION = 1
KEY_VARIABLE = "FUNNEL_CACHE_KEY"
MAX_PAYLOAD = 1024 * 1024
_DIGEST = 16
_HEAD = 1 + _DIGEST
# Without a secret the checksum finds damage and misplacement, not a forger who reads this source.
_OPEN_KEY = b"retrieval-funnel cache, no secret set"
_ATOMS = frozenset({str, int, float, bool, type(None), bytes})


class Sealed(CacheError):
    """A payload could not be opened. ``reason`` is one of a few words, fit for a metric label."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"cache payload refused: {reason}")


class CachedHit(msgspec.Struct, frozen=True, array_like=True):
    """One document of a kept answer; the fields of :class:`funnel.types.Hit` without the rank."""

    id: str
    score: float
    score_kind: ScoreKind
    score_stage: str
    title: str
    text: str
    metadata: dict[str, Any]
    stage_scores: dict[str, float]
    stage_ranks: dict[str, int]
    sources: dict[str, tuple[int, float]]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One answered query as it is kept.

    ``created`` is wall-clock seconds, ``fresh_s`` how long it counts as fresh from then (jitter
    included), ``epoch`` the corpus epoch it was computed under, ``elapsed_ms`` what computing it
    took. ``asked`` is the query in its caller's words, empty where those are ``query``.
    """

    query: str
    hits: tuple[CachedHit, ...]
    created: float
    fresh_s: float
    epoch: int
    elapsed_ms: float
    asked: str = ""


class AliasNote(msgspec.Struct, frozen=True, array_like=True):
    """What is kept with an alias: its target, the verifier's score, the guards' margin on it."""

    target: str
    score: float
    margin: float = 0.0


T = TypeVar("T", Entry, AliasNote)


class Codec:
    """Seals and opens entries with one key.

    Args:
        key: up to 64 bytes of secret; None takes ``FUNNEL_CACHE_KEY`` from the environment, and
            without that a published constant.
        max_payload: larger sealed values are refused, both ways.
    """

    def __init__(self, key: bytes | None = None, *, max_payload: int = MAX_PAYLOAD) -> None:
        secret = key or os.environ.get(KEY_VARIABLE, "").encode() or _OPEN_KEY
        self._key = secret if len(secret) <= 64 else hashlib.blake2b(secret).digest()
        self._max = max_payload
        self._encoder = msgspec.msgpack.Encoder()

    def seal(self, value: Entry | AliasNote, partition: str, key: str) -> bytes:
        """Bytes for a store.

        Raises:
            Sealed: the value is over the size cap or holds what msgpack cannot carry.
        """
        try:
            body = self._encoder.encode(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise Sealed("unencodable") from error
        if len(body) + _HEAD > self._max:
            raise Sealed("too_large")
        return bytes([VERSION]) + self._digest(type(value), partition, key, body) + body

    def open(self, payload: bytes, kind: type[T], partition: str, key: str) -> T:
        """The value sealed for exactly this place.

        Raises:
            Sealed: truncated, too large, of another version, place or key, or not what it claims.
        """
        if len(payload) <= _HEAD:
            raise Sealed("truncated")
        if len(payload) > self._max:
            raise Sealed("too_large")
        if payload[0] != VERSION:
            raise Sealed("version")
        body = payload[_HEAD:]
        if not hmac.compare_digest(payload[1:_HEAD], self._digest(kind, partition, key, body)):
            raise Sealed("checksum")
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except (msgspec.DecodeError, ValueError) as error:
            raise Sealed("malformed") from error

    def _digest(self, kind: type, partition: str, key: str, body: bytes) -> bytes:
        place = f"{VERSION}\0{kind.__name__}\0{partition}\0{key}\0".encode()
        return hashlib.blake2b(place + body, key=self._key, digest_size=_DIGEST).digest()


def copied(value: Any) -> Any:
    """A value of metadata with dicts and lists of its own, so that altering one alters no other.

    Not copy.deepcopy at once: that is ten times slower, and fails on objects that cannot be copied
    (a service's own stage may answer with them), which are shared instead.
    """
    kind = type(value)
    if kind is dict:
        return {
            key: inner if type(inner) in _ATOMS else copied(inner) for key, inner in value.items()
        }
    if kind is list:
        return [inner if type(inner) in _ATOMS else copied(inner) for inner in value]
    try:
        return deepcopy(value)
    except Exception:
        return value


def copied_hit(hit: Hit) -> Hit:
    """The same hit, sharing nothing with the first that could be altered."""
    return replace(
        hit,
        metadata=copied(dict(hit.metadata)),
        stage_scores=dict(hit.stage_scores),
        stage_ranks=dict(hit.stage_ranks),
        sources=dict(hit.sources),
    )


def pack_hit(hit: Hit) -> CachedHit:
    """A hit without its rank, which is its place in the tuple; it shares nothing with the hit."""
    return CachedHit(
        id=hit.id,
        score=hit.score,
        score_kind=hit.score_kind,
        score_stage=hit.score_stage,
        title=hit.title,
        text=hit.text,
        metadata=copied(dict(hit.metadata)),
        stage_scores=dict(hit.stage_scores),
        stage_ranks=dict(hit.stage_ranks),
        sources={name: (source.rank, source.score) for name, source in hit.sources.items()},
    )


def unpack_hit(rank: int, hit: CachedHit) -> Hit:
    """The hit at its 1-based rank; it shares nothing with what is kept."""
    return Hit(
        rank=rank,
        id=hit.id,
        score=hit.score,
        score_kind=hit.score_kind,
        score_stage=hit.score_stage,
        title=hit.title,
        text=hit.text,
        metadata=copied(hit.metadata),
        stage_scores=hit.stage_scores.copy(),
        stage_ranks=hit.stage_ranks.copy(),
        sources={name: SourceScore(*source) for name, source in hit.sources.items()},
    )
