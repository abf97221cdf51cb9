"""What the guards say of two questions, as tests ask it."""

from funnel.cache.guards import Margins, inspect
from funnel.cache.settings import GuardSettings


def vetoed(first: str, second: str, kind: str = "") -> bool:
    """Whether a guard vetoes the pair; with a ``kind``, one of that kind."""
    findings = inspect(first, second, GuardSettings(), Margins())
    return any(finding.veto and kind in ("", finding.kind) for finding in findings)
