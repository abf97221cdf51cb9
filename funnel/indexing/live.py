"""What this process knows of the collection it searches, and how old that is."""

import asyncio
import time

from funnel.errors import ConfigError, FunnelError
from funnel.indexing.catalogue import Ask, Catalogue
from funnel.indexing.collection import CollectionState
from funnel.indexing.qdrant import Backend
from funnel.log import get_logger

log = get_logger(__name__)
_REFRESH_S = 1.0  # how old a server's state may be before it is asked again


class Live:
    """The state of the collection behind the alias, as last read or written.

    ``name`` is that collection's own: another one after a rebuild, and in every other index.
    ``writing`` is held by whoever writes from this process: a state that is read meanwhile must
    not take the place of the newer one that the write leaves.
    """

    def __init__(self, backend: Backend, catalogue: Catalogue, collection: str) -> None:
        self.writing = asyncio.Lock()
        self.state: CollectionState | None = None
        self.name = ""
        self._backend = backend
        self._catalogue = catalogue
        self._collection = collection
        self._read_at = 0.0
        self._refused: ConfigError | None = None
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def refused(self) -> bool:
        """Whether the collection, as last read, does not fit the settings; a rebuild mends it."""
        return self._refused is not None

    @property
    def is_old(self) -> bool:
        """Whether another process may have changed the state since it was read."""
        return not self._backend.is_local and time.monotonic() - self._read_at > _REFRESH_S

    async def refresh(self, ask: Ask | None = None) -> CollectionState | None:
        """Read the state anew; None if nothing was ever indexed.

        Raises:
            ConfigError: the collection does not fit the settings.
        """
        try:
            found = await self._catalogue.live_state(ask or self._backend.call)
        except ConfigError as error:
            self._refused = error
            self._read_at = time.monotonic()
            raise
        self.keep(*found or ("", None))
        return self.state

    def keep(self, name: str, state: CollectionState | None) -> None:
        """Take a state that was just read or written, of the collection of this name."""
        self.name, self.state = name, state
        self._refused = None
        self._read_at = time.monotonic()

    async def present(self, ask: Ask) -> CollectionState | None:
        """The state to search by. No search waits for an old one to be read anew beside it.

        Raises:
            ConfigError: as :meth:`refresh`.
        """
        if self._refused is not None and not self.is_old:
            raise ConfigError(str(self._refused))
        if self.state is None or self._refused is not None:
            return await self.refresh(ask)
        if self.is_old and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh_beside())
        return self.state

    async def aclose(self) -> None:
        """End what still reads. Idempotent."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})

    async def _refresh_beside(self) -> None:
        async with self.writing:
            try:
                await self.refresh()
            except FunnelError as error:  # the next search says it, or meets it itself
                log.debug("index_not_refreshed", collection=self._collection, error=str(error))
