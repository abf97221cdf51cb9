"""The base of every block of settings."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationInfo, field_validator


class SettingsModel(BaseModel):
    """Keys and values of a YAML file; a number is not read out of a truth value.

    Pydantic would take ``k: true`` (or ``yes``, or ``on``) for ``k: 1``. A number in quotes stays
    one: that is how it comes from the environment.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        truth = None if _holds(kind, bool) else _truth_in(value)
        if truth is not None and (_holds(kind, int) or _holds(kind, float)):
            raise ValueError(f"got {str(truth).lower()}, expected a number; write it in digits")
        return value


def _holds(annotation: Any, kind: type) -> bool:
    """Whether a type is among those that an annotation is made of."""
    inner = get_args(annotation)
    return any(_holds(each, kind) for each in inner) if inner else annotation is kind


def _truth_in(value: Any) -> bool | None:
    """The first truth value that is given, by itself or in a list or mapping."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((found for each in value if (found := _truth_in(each)) is not None), None)
    return value if isinstance(value, bool) else None
