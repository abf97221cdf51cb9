"""What the stages that retrieve from the funnel's index share."""

from typing import TYPE_CHECKING, ClassVar, Self

from funnel.stages.base import Role, Stage, StageSettings

if TYPE_CHECKING:
    from funnel.index import DocumentIndex
    from funnel.resources import Resources


class Retriever(Stage):
    """Finds documents in the funnel's index; a subclass says which source it asks, and ranks."""

    role: ClassVar[Role] = "retrieve"

    def __init__(self, settings: StageSettings, index: "DocumentIndex") -> None:
        super().__init__(settings)
        self._index = index

    @classmethod
    def build(cls, settings: StageSettings, resources: "Resources") -> Self:
        """Read the funnel's index."""
        return cls(settings, resources.index)
