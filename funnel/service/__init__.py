"""The HTTP face of a funnel: ``funnel serve``, or :func:`make_app` in a server of your own.

Needs the ``serve`` extra.
"""

from typing import TYPE_CHECKING, Any

from funnel.service.options import ServiceOptions

if TYPE_CHECKING:
    from funnel.service.app import make_app

__all__ = ["ServiceOptions", "make_app"]


def __getattr__(name: str) -> Any:
    if name == "make_app":
        from funnel.service.app import make_app

        return make_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
