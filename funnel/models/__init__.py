"""Models: encoders (texts → vectors) and scorers (pairs → scores), each loaded once per process."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from funnel.models.encoder import Embedder
    from funnel.models.scorer import CrossEncoderScorer

__all__ = ["CrossEncoderScorer", "Embedder"]

_WHERE = {"Embedder": "funnel.models.encoder", "CrossEncoderScorer": "funnel.models.scorer"}


def __getattr__(name: str) -> object:
    """Import on first use: these modules are cheap, what they load is not."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
