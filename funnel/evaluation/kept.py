"""The collections that ``funnel eval`` and ``funnel tune`` have made, and how they are removed.

A new one is made whenever the corpus, the embedder or the index settings are others, and nothing
removes the old one: who compares two models wants both.
"""

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from funnel.errors import ConfigError
from funnel.evaluation.evaluate import apart
from funnel.indexing.collection import METADATA_KEY
from funnel.indexing.lease import Lease
from funnel.indexing.qdrant import MEMORY, Backend, QdrantSettings, connect
from funnel.registry import suggestion

_MADE = re.compile(r"(eval-([A-Za-z0-9-]+)-[0-9a-f]{12})--([0-9a-f]{13,})")
"""Name, data set and microseconds of when it was made; see the catalogue."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One collection of documents that were indexed for measuring.

    ``embedder`` is empty where no vectors are stored. ``finished`` says that no indexing of it is
    running or was killed. ``size`` is in bytes on the disk, None on a server, which does not tell.
    ``stored`` is what Qdrant calls it.
    """

    name: str
    dataset: str
    embedder: str
    documents: int
    made: datetime
    finished: bool
    size: int | None
    stored: str


async def kept(qdrant: QdrantSettings) -> list[Kept]:
    """What is there, by data set and age.

    Raises:
        ConfigError: an index in memory keeps nothing.
        BackendUnavailable: Qdrant cannot be reached, or an evaluation is running in the folder.
    """
    async with _opened(qdrant) as (backend, place):
        return await _found(backend, place) if backend else []


async def remove(
    qdrant: QdrantSettings, names: Collection[str], *, every: bool = False
) -> list[Kept]:
    """Remove those of these names, or of data sets of these names, or all; return them.

    Waits for a process that is writing one. On a server, one that only reads is not noticed.

    Raises:
        ConfigError: a name is not there (nothing is removed then), or the index is in memory.
        BackendUnavailable: as :func:`kept`.
    """
    async with _opened(qdrant) as (backend, place):
        there = await _found(backend, place) if backend else []
        _check(names, there)
        gone = [each for each in there if every or {each.name, each.dataset} & set(names)]
        if backend:
            for each in gone:
                async with Lease(backend, qdrant, each.name).held():
                    await _drop(backend, each)
    return gone


async def _drop(backend: Backend, gone: Kept) -> None:
    from qdrant_client import models

    aliases = (await backend.write("get_aliases")).aliases
    if any(alias.collection_name == gone.stored for alias in aliases):
        alias = models.DeleteAlias(alias_name=gone.name)
        changes = [models.DeleteAliasOperation(delete_alias=alias)]
        await backend.write("update_collection_aliases", change_aliases_operations=changes)
    await backend.write("delete_collection", collection_name=gone.stored)


def _check(names: Collection[str], there: Sequence[Kept]) -> None:
    known = tuple(sorted({name for each in there for name in (each.name, each.dataset)}))
    for name in names:
        if name not in known:
            raise ConfigError(
                f"no evaluation's collection or data set {name!r}{suggestion(name, known) or ';'} "
                f"there: {', '.join(known) or 'none'}; nothing was removed"
            )


@asynccontextmanager
async def _opened(qdrant: QdrantSettings) -> AsyncIterator[tuple[Backend | None, Path | None]]:
    """Qdrant, and its folder if it is a local one; no Qdrant if that folder is not there."""
    if qdrant.url is None and qdrant.place == MEMORY:
        raise ConfigError(
            f"qdrant.path: got {MEMORY!r}, where nothing is kept after an evaluation; expected a "
            "directory, or qdrant.url"
        )
    settings = apart(qdrant)
    place = None if settings.url else Path(settings.place)
    if place is not None and not place.is_dir():  # opening it would make it
        yield None, place
        return
    backend = connect(settings)
    try:
        await backend.open()
        yield backend, place
    finally:
        await backend.aclose()


async def _found(backend: Backend, place: Path | None) -> list[Kept]:
    stored = (await backend.write("get_collections")).collections
    aliases = (await backend.write("get_aliases")).aliases
    live = {alias.collection_name: alias.alias_name for alias in aliases}
    found = []
    for each in stored:
        if (match := _MADE.fullmatch(each.name)) and live.get(each.name, match[1]) == match[1]:
            info = await backend.write("get_collection", collection_name=each.name)
            state = (info.config.metadata or {}).get(METADATA_KEY)
            if isinstance(state, Mapping):  # else it is not ours, whatever it is called
                found.append(_kept(match, state, place, live=each.name in live))
    return sorted(found, key=lambda one: (one.dataset, one.made))


def _kept(
    match: re.Match[str], state: Mapping[str, Any], place: Path | None, *, live: bool
) -> Kept:
    return Kept(
        name=match[1],
        dataset=match[2],
        embedder=str(state.get("encoder", "")),
        documents=int(state.get("documents", 0)),
        made=datetime.fromtimestamp(int(match[3], 16) / 1e6, UTC),
        finished=live and not state.get("writing"),
        size=None if place is None else _size(place / "collection" / match[0]),
        stored=match[0],
    )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
