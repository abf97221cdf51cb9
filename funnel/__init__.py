"""A retrieval funnel: pluggable stages with a per-stage k behind a semantic cache.

>>> from funnel import Funnel
>>> with Funnel.from_yaml("configs/embedded.yaml") as funnel:  # doctest: +SKIP
...     result = funnel.run("how do I reset my password?")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from funnel.engine import Funnel
    from funnel.errors import FunnelError
    from funnel.result import FunnelResult
    from funnel.settings import FunnelSettings
    from funnel.types import CacheInfo, Candidate, Document, Hit, StageTrace

__version__ = "0.1.0"

_WHERE = {
    "CacheInfo": "funnel.types",
    "Candidate": "funnel.types",
    "Document": "funnel.types",
    "Funnel": "funnel.engine",
    "FunnelError": "funnel.errors",
    "FunnelResult": "funnel.result",
    "FunnelSettings": "funnel.settings",
    "Hit": "funnel.types",
    "StageTrace": "funnel.types",
}
__all__ = [
    "CacheInfo",
    "Candidate",
    "Document",
    "Funnel",
    "FunnelError",
    "FunnelResult",
    "FunnelSettings",
    "Hit",
    "StageTrace",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import public names on first use, so that ``import funnel`` stays instant."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
