"""Sealed entries: what opens, what does not, and what it is called."""

from dataclasses import replace
from threading import Lock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache.codec import AliasNote, Codec, Entry, Sealed, copied_hit, pack_hit, unpack_hit
from funnel.types import Hit, SourceScore

HIT = Hit(
    rank=1,
    id="a/1",
    score=3.5,
    score_kind="logit",
    score_stage="cross_encoder",
    title="Title",
    text="Text with ünïcode",
    metadata={"lang": "en", "year": 2024, "tags": ["x", "y"], "deep": {"a": None}},
    stage_scores={"hybrid": 0.03, "cross_encoder": 3.5},
    stage_ranks={"hybrid": 4, "cross_encoder": 1},
    sources={"hybrid.bm25": SourceScore(2, 11.25)},
)
ENTRY = Entry("how?", (pack_hit(HIT),), 1_000.0, 60.0, 7, 123.5)
CODEC = Codec(b"secret")


def test_round_trip() -> None:
    """An entry opens to what was sealed, to the last field of a hit."""
    opened = CODEC.open(CODEC.seal(ENTRY, "p", "k"), Entry, "p", "k")
    assert opened == ENTRY
    assert unpack_hit(1, opened.hits[0]) == HIT


def test_metadata_that_cannot_be_copied_is_shared() -> None:
    """A stage of one's own may answer with anything; what cannot be copied harms no query."""
    lock, tags = Lock(), {"a", "b"}
    hit = replace(HIT, metadata={"lock": [lock], "tags": tags, "pair": ([1], 2)})
    copy = copied_hit(hit)
    assert copy == hit
    assert copy.metadata["lock"][0] is lock
    assert copy.metadata["tags"] is not tags
    assert copy.metadata["pair"][0] is not hit.metadata["pair"][0]


@pytest.mark.parametrize(("partition", "key"), [("q", "k"), ("p", "l"), ("", ""), ("pk", "")])
def test_other_place_does_not_open(partition: str, key: str) -> None:
    """A payload copied to another partition or key is refused."""
    with pytest.raises(Sealed, match="checksum"):
        CODEC.open(CODEC.seal(ENTRY, "p", "k"), Entry, partition, key)


def test_other_kind_does_not_open() -> None:
    """An alias note cannot pass for an entry of the same place."""
    note = CODEC.seal(AliasNote("k", 3.0), "p", "k")
    with pytest.raises(Sealed, match="checksum"):
        CODEC.open(note, Entry, "p", "k")


def test_other_secret_does_not_open() -> None:
    """Without the key nobody can forge an entry."""
    with pytest.raises(Sealed, match="checksum"):
        CODEC.open(Codec(b"another").seal(ENTRY, "p", "k"), Entry, "p", "k")


@given(st.data())
def test_any_flipped_byte_is_found(data: st.DataObject) -> None:
    """One changed byte anywhere, and the payload does not open."""
    payload = bytearray(CODEC.seal(ENTRY, "p", "k"))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Sealed):
        CODEC.open(bytes(payload), Entry, "p", "k")


@given(st.integers(0, 200))
def test_any_truncation_is_found(length: int) -> None:
    """A cut payload does not open."""
    payload = CODEC.seal(ENTRY, "p", "k")
    with pytest.raises(Sealed):
        CODEC.open(payload[: min(length, len(payload) - 1)], Entry, "p", "k")


@given(st.binary(max_size=300))
def test_noise_never_opens(noise: bytes) -> None:
    """Bytes of unknown origin are refused with a reason, never with another error."""
    with pytest.raises(Sealed):
        CODEC.open(noise, Entry, "p", "k")


def test_size_cap_holds_both_ways() -> None:
    """Too large is not written and not read."""
    small = Codec(b"secret", max_payload=64)
    with pytest.raises(Sealed, match="too_large"):
        small.seal(ENTRY, "p", "k")
    with pytest.raises(Sealed, match="too_large"):
        small.open(CODEC.seal(ENTRY, "p", "k"), Entry, "p", "k")


def test_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that share FUNNEL_CACHE_KEY open each other's entries; long keys work."""
    monkeypatch.setenv("FUNNEL_CACHE_KEY", "k" * 200)
    payload = Codec().seal(ENTRY, "p", "k")
    assert Codec().open(payload, Entry, "p", "k") == ENTRY
    monkeypatch.delenv("FUNNEL_CACHE_KEY")
    with pytest.raises(Sealed, match="checksum"):
        Codec().open(payload, Entry, "p", "k")


def test_what_msgpack_cannot_carry_is_refused() -> None:
    """Metadata of an unknown type is no entry."""
    odd = Hit(1, "a", 1.0, "logit", "s", "", "", metadata={"x": object()})
    with pytest.raises(Sealed, match="unencodable"):
        CODEC.seal(Entry("q", (pack_hit(odd),), 0.0, 0.0, 0, 0.0), "p", "k")
