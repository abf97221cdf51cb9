"""What a caller may ask of one query, checked before anything is spent on it."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from funnel.chain import Step
from funnel.errors import InputError
from funnel.indexing.filters import check_filters
from funnel.registry import suggestion
from funnel.stages.base import Stage, StageSettings
from funnel.types import EMPTY, Filters

Overrides = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of one call; see :meth:`funnel.engine.Funnel.run`.

    Raises:
        InputError: a value is of the wrong type or out of range.
    """

    k: int | None = None
    filters: Filters = field(default_factory=lambda: EMPTY)
    deadline_ms: float | None = None
    overrides: Overrides = field(default_factory=lambda: EMPTY)
    scope: str | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        _check_k(self.k)
        _check_deadline(self.deadline_ms)
        if self.scope is not None and (not isinstance(self.scope, str) or not self.scope):
            raise InputError(f"scope: got {self.scope!r}, expected a text that is not empty")
        if not isinstance(self.cache, bool):
            raise InputError(f"cache: got {self.cache!r:.80}, expected True or False")
        if not isinstance(self.filters, Mapping):
            raise InputError(f"filters: got {self.filters!r:.80}, expected a mapping")
        if not isinstance(self.overrides, Mapping):
            raise InputError(f"overrides: got {self.overrides!r:.80}, expected a mapping")
        for name, changes in self.overrides.items():
            if not isinstance(changes, Mapping):
                raise InputError(
                    f"overrides[{name!r}]: got {changes!r:.80}, expected a mapping like {{'k': 20}}"
                )
        check_filters(self.filters)

    def all_filters(self, scope_field: str | None) -> dict[str, Any]:
        """The filters and, where a field keeps tenants apart, the scope's.

        Raises:
            InputError: there is such a field and no scope, or the filters name it.
        """
        filters = {name: _listed(value) for name, value in self.filters.items()}
        if scope_field is not None:
            if self.scope is None:
                raise InputError(
                    f"scope: missing; these settings keep tenants apart by {scope_field!r}, "
                    "so every call needs scope=…"
                )
            if scope_field in filters:
                raise InputError(
                    f"filters: {scope_field!r} is set by scope=… and cannot be filtered on"
                )
            filters[scope_field] = self.scope
        return filters


def one_k(k: int | None, top_k: int | None, top_n: int | None) -> int | None:
    """Return the one of ``k`` and its aliases that was given.

    Raises:
        InputError: more than one was given.
    """
    given = {name: v for name, v in (("k", k), ("top_k", top_k), ("top_n", top_n)) if v is not None}
    if len(given) > 1:
        raise InputError(f"got {' and '.join(given)}, which mean the same; give one of them")
    return next(iter(given.values()), None)


def plan(stages: Sequence[Stage], options: CallOptions) -> tuple[Step, ...]:
    """Join stages and options: a call that asks for more than a stage keeps widens that stage.

    Raises:
        InputError: an override names no stage, or a key that calls may not change, or a
            ``min_score`` where there are no scores.
    """
    names = tuple(stage.settings.name for stage in stages)
    for name in options.overrides:
        if name not in names:
            raise InputError(
                f"overrides: no stage is named {name!r}{suggestion(str(name), names)}; "
                f"stages: {', '.join(names)}"
            )
    return tuple(_step(stage, options) for stage in stages)


def _step(stage: Stage, options: CallOptions) -> Step:
    settings = _overridden(stage.settings, options.overrides.get(stage.settings.name, EMPTY))
    if settings.min_score is not None and stage.score_kind == "rank":
        raise InputError(
            f"overrides[{settings.name!r}].min_score: got {settings.min_score}, "
            "but this stage orders without scores; set it on an earlier stage"
        )
    return Step(stage, settings, max(settings.k, options.k or 0))


def _overridden(settings: StageSettings, changes: Mapping[str, Any]) -> StageSettings:
    if not changes:
        return settings
    allowed = tuple(sorted(settings.per_call))
    by_key: dict[str, Any] = {}
    for given, value in changes.items():
        key = settings.key_of(given)
        if key in by_key:
            raise InputError(
                f"overrides[{settings.name!r}]: got {' and '.join(changes)}, of which "
                f"more than one means {key}; give one of them"
            )
        by_key[key] = value
        if key not in allowed:
            raise InputError(
                f"overrides[{settings.name!r}]: {given!r} cannot change per call"
                f"{suggestion(str(given), allowed)}; what can: {', '.join(allowed)}"
            )
    try:
        return type(settings).model_validate({**settings.model_dump(by_alias=False), **by_key})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        ours = first["type"] == "value_error"  # the message says it all
        said = first["ctx"]["error"] if ours else f"got {first['input']!r:.80}; {first['msg']}"
        raise InputError(f"overrides[{settings.name!r}].{key}: {said}") from error


def _listed(value: Any) -> Any:
    """A set of values as a list, always in the same order: the cache tells calls apart by it."""
    if not isinstance(value, set | frozenset):
        return value
    return sorted(value, key=repr)


def _check_k(k: object) -> None:
    if k is not None and (not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= 10_000):
        raise InputError(f"k: got {k!r}, expected an integer from 1 to 10000")


def _check_deadline(ms: object) -> None:
    if ms is None:
        return
    is_number = isinstance(ms, int | float) and not isinstance(ms, bool)
    if not is_number or not 0 < ms <= sys.float_info.max:  # type: ignore[operator]
        raise InputError(f"deadline_ms: got {ms!r}, expected a number of milliseconds above 0")
