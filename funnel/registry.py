"""Stage kinds by name. Nothing is imported until a kind is used."""

import difflib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, get_args

from funnel.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from funnel.stages.base import Stage

# kind -> (where the class is, the extra that installs what it imports).
# Strings, not classes, so that importing funnel does not import torch.
_STAGES: dict[str, tuple[str, str | None]] = {
    "bm25": ("funnel.stages.bm25:Bm25Stage", None),
    "callable": ("funnel.stages.callable:CallableStage", None),
    "cross_encoder": ("funnel.stages.cross_encoder:CrossEncoderStage", None),
    "dense": ("funnel.stages.dense:DenseStage", None),
    "hybrid": ("funnel.stages.hybrid:HybridStage", None),
    "late_interaction": ("funnel.stages.late_interaction:LateInteractionStage", None),
    "llm_listwise": ("funnel.stages.llm_listwise:LlmListwiseStage", None),
}
ENTRY_POINT_GROUP = "funnel.stages"


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def known_kinds() -> tuple[str, ...]:
    """All kinds, ours and third parties', sorted."""
    return tuple(sorted({*_STAGES, *_third_party()}))


def suggestion(word: str, known: tuple[str, ...]) -> str:
    """``"; did you mean 'bm25'?"`` or nothing, for error messages."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def stage_class(kind: str) -> "type[Stage]":
    """The class of a stage kind.

    Raises:
        ConfigError: the kind is unknown, or what is registered is no stage.
        MissingExtra: what the stage imports is not installed.
    """
    return _checked(kind, _loader(kind))


def _loader(kind: str) -> Callable[[], object]:
    if kind in _STAGES:
        path, extra = _STAGES[kind]
        return lambda: _import(kind, path, extra)
    if kind in _third_party():
        return lambda: _load(kind, _third_party()[kind])
    known = known_kinds()
    hint = suggestion(kind, known) or ";"
    raise ConfigError(f"unknown stage kind {kind!r}{hint} known: {', '.join(known)}")


def _import(kind: str, path: str, extra: str | None) -> object:
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("funnel"):
            raise
        raise MissingExtra(f"stage {kind!r}", extra) from error


def _load(kind: str, point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:  # a third party's module may fail in any way
        package = _package(point)
        raise ConfigError(
            f"stage kind {kind!r}: {point.value} of {package} cannot be imported: "
            f"{type(error).__name__}: {error}; mend or uninstall {package}"
        ) from error


def _checked(kind: str, load: Callable[[], object]) -> "type[Stage]":
    from funnel.stages.base import Stage

    found = load()
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ConfigError(
            f"stage kind {kind!r}: got {found!r}{_origin(kind)}, "
            "expected a subclass of funnel.stages.base.Stage"
        )
    if (wrong := _misfit(found)) is not None:
        raise ConfigError(f"stage kind {kind!r}: {found.__name__}{_origin(kind)}: {wrong}")
    return found


def _misfit(found: "type[Stage]") -> str | None:
    """What a stage's class lacks; without it the first use would fail with a bare error."""
    from funnel.stages.base import Role, StageSettings

    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        return f"got an abstract class, expected one that implements {', '.join(missing)}"
    role, roles = getattr(found, "role", None), get_args(Role)
    if role not in roles:
        return f"role: got {role!r}, expected {' or '.join(map(repr, roles))}"
    model: object = found.Settings
    if not (isinstance(model, type) and issubclass(model, StageSettings)):
        return f"Settings: got {model!r}, expected a subclass of funnel.stages.base.StageSettings"
    return None


def _origin(kind: str) -> str:
    point = None if kind in _STAGES else _third_party().get(kind)
    return f" (entry point {point.value} of {_package(point)})" if point else ""


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "its package"
