"""A small funnel over an index in memory, with an encoder and a function that cost nothing."""

from collections.abc import Sequence
from typing import Any

from funnel import Funnel, FunnelSettings
from funnel.cache.base import QueryCache
from funnel.cache.null import NullCache
from funnel.types import Candidate
from tests.fakes import FakeEncoder

CORPUS = [
    {
        "id": "reset",
        "title": "Reset a password",
        "text": "Press forgot password, open the mail.",
    },
    {"id": "change", "title": "Change a password", "text": "Settings, security, new password."},
    {"id": "refund", "title": "Refunds", "text": "Money goes back to the card.", "lang": "en"},
    {"id": "erstattung", "title": "Erstattung", "text": "Geld zurück auf die Karte.", "lang": "de"},
    {"id": "ship", "title": "Shipping", "text": "A parcel takes three days.", "lang": "en"},
]


class FakeModels:
    """A pool that holds one encoder."""

    def __init__(self, encoder: FakeEncoder) -> None:
        self._encoder = encoder

    def encoder(self, name: str) -> FakeEncoder:
        return self._encoder


def longest_first(query: str, candidates: Sequence[Candidate]) -> list[float]:
    return [float(len(candidate.document.text)) for candidate in candidates]


def settings(**changes: Any) -> FunnelSettings:
    data: dict[str, Any] = {
        "stages": [
            {"kind": "hybrid", "k": 4},
            {"kind": "callable", "name": "length", "function": "length", "k": 3},
        ],
        "qdrant": ":memory:",
    }
    return FunnelSettings.from_mapping({**data, **changes})


def make(
    encoder: FakeEncoder | None = None,
    function: Any = longest_first,
    cache: QueryCache | None = None,
    **changes: Any,
) -> Funnel:
    return Funnel(
        settings(**changes),
        functions={"length": function},
        cache=cache or NullCache(),
        models=FakeModels(encoder or FakeEncoder()),  # type: ignore[arg-type]
    )
