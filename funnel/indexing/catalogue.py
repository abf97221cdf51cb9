"""The collections behind one name: which is live, which a killed rebuild left, how they switch.

The name that services use is an alias. Behind it stands a collection with a name of its own, so
that a rebuild can fill another one and move the alias in one step.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from funnel.errors import ConfigError, StageError
from funnel.indexing.collection import (
    CollectionState,
    check_identity,
    collection_schema,
    new_state,
    next_epoch,
    state_from,
)
from funnel.indexing.filters import payload_path
from funnel.indexing.qdrant import Backend, QdrantSettings
from funnel.indexing.spool import Spool
from funnel.indexing.terms import Bm25Settings
from funnel.models.base import Encoder

Ask: TypeAlias = Callable[..., Awaitable[Any]]
"""One of the backend's two ways to call: ``call`` gives up at once, ``write`` is patient."""
_EPOCH_DIGITS = 13  # of microseconds in hexadecimal, from 1978 on; a year in a name is shorter


class Catalogue:
    """Finds, makes and switches the collections of one name."""

    def __init__(
        self,
        backend: Backend,
        settings: QdrantSettings,
        collection: str,
        encoder: Encoder,
        bm25: Bm25Settings,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._collection = collection
        self._encoder = encoder
        self._bm25 = bm25

    async def live(self, ask: Ask) -> str | None:
        """The collection behind the alias; None before the first document.

        Raises:
            ConfigError: the name is taken by a collection of someone else.
        """
        answer = await ask("get_aliases")
        for alias in answer.aliases:
            if alias.alias_name == self._collection:
                return str(alias.collection_name)
        if await ask("collection_exists", collection_name=self._collection):
            raise ConfigError(
                f"collection {self._collection!r} exists and was not made by funnel; choose "
                "another 'collection'"
            )
        return None

    async def live_state(self, ask: Ask) -> tuple[str, CollectionState] | None:
        """The live collection and what it says of itself, checked against the settings.

        Raises:
            ConfigError: another embedder or BM25 setting made it.
        """
        target = await self.live(ask)
        if target is None:
            return None
        return target, await self._checked_state(target, self._collection, ask)

    async def create(self, spool: Spool, *, building: bool) -> tuple[str, CollectionState]:
        """A new, empty collection for a corpus, not yet behind the alias."""
        state = new_state(self._encoder, self._bm25, self._settings, spool, building=building)
        target = f"{self._collection}--{next_epoch(0):x}"
        schema = collection_schema(state, self._settings)
        await self._backend.write("create_collection", collection_name=target, **schema)
        return target, state

    async def index_payload(self, target: str) -> None:
        """Let a server index the metadata fields that the settings name, where it does not yet."""
        wanted = self._settings.payload_indexes
        if self._backend.is_local or not wanted:
            return
        info = await self._backend.write("get_collection", collection_name=target)
        # A server names fields in its own way: quoted only where they must be.
        made = {
            path.replace('"', ""): str(index.data_type.value)
            for path, index in info.payload_schema.items()
        }
        for field, kind in wanted.items():
            path = payload_path(field)
            if made.get(path.replace('"', "")) != kind:
                await self._backend.write(
                    "create_payload_index",
                    collection_name=target,
                    field_name=path,
                    field_schema=kind,
                )

    async def switch_to(self, target: str, *, instead_of: str | None = None) -> None:
        """Put a collection behind the alias in one step, and drop the one that stood there."""
        from qdrant_client import models

        create = models.CreateAlias(collection_name=target, alias_name=self._collection)
        changes: list[Any] = [models.CreateAliasOperation(create_alias=create)]
        if instead_of is not None:
            delete = models.DeleteAlias(alias_name=self._collection)
            changes.insert(0, models.DeleteAliasOperation(delete_alias=delete))
        await self._backend.write("update_collection_aliases", change_aliases_operations=changes)
        if instead_of not in (None, target):
            await self._backend.write("delete_collection", collection_name=instead_of)

    async def unfinished(self) -> tuple[str, CollectionState] | None:
        """A rebuild that was killed and can be continued; others are removed.

        A collection behind an alias is in use, whoever's it is. The name alone does not tell:
        ``docs--en`` may be a collection of its own beside ``docs``.
        """
        collections = (await self._backend.write("get_collections")).collections
        aliases = (await self._backend.write("get_aliases")).aliases
        in_use = {alias.collection_name for alias in aliases}
        made = re.compile(rf"{re.escape(self._collection)}--[0-9a-f]{{{_EPOCH_DIGITS},}}")
        names = [c.name for c in collections if made.fullmatch(c.name) and c.name not in in_use]
        for name in names:
            if (state := await self._continuable(name)) is not None:
                return name, state
            await self._backend.write("delete_collection", collection_name=name)
        return None

    async def _continuable(self, name: str) -> CollectionState | None:
        try:
            state = await self._checked_state(name, name, self._backend.write)
        except (ConfigError, StageError):
            return None
        stored, asked = (
            (each.dense_vectors, each.token_vectors) for each in (state, self._settings)
        )
        return state if state.building and stored == asked else None

    async def _checked_state(self, target: str, name: str, ask: Ask) -> CollectionState:
        info = await ask("get_collection", collection_name=target)
        state = state_from(info.config.metadata, name)
        check_identity(state, name, self._encoder, self._bm25, self._settings)
        return state
