"""What the stages of one funnel share: the index, the models, functions, secrets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from funnel.types import EMPTY

if TYPE_CHECKING:
    from funnel.index import DocumentIndex
    from funnel.models.pool import ModelPool


@dataclass(frozen=True, slots=True)
class Resources:
    """Handed to ``Stage.build``.

    ``index`` holds the documents, ``models`` loads each model once per process, ``embedder`` is
    the name of the index's own encoder, ``functions`` are the callables the program handed over,
    ``openrouter_api_key`` comes from the environment only.
    """

    index: "DocumentIndex"
    models: "ModelPool"
    embedder: str
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=lambda: EMPTY)
    openrouter_api_key: SecretStr | None = None
