"""Names of models and backends in settings: what cannot be is refused when settings are read."""

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from funnel.errors import MissingExtra, ModelError
from funnel.models.source import check_name, check_scorer_name

Backend: TypeAlias = Literal[
    "auto",
    "torch-fp32",
    "torch-bf16",
    "openvino-f32",
    "openvino-bf16",
    "openvino-int8",
    "onnxruntime-f32",
    "cuda-fp16",
    "cuda-bf16",
]
"""The ways to run a cross-encoder's network: see :mod:`funnel.models.backends`."""

LIBRARIES: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {"openvino": ("openvino", ("openvino",)), "onnxruntime": ("onnx", ("onnxruntime", "onnx"))}
)
"""Of a backend's name up to its dash: the extra that it needs, and the modules this brings."""


def missing_library(library: str) -> MissingExtra | None:
    """The error that says which extra a backend lacks, or None if it is all there."""
    extra, modules = LIBRARIES.get(library, ("", ()))
    if all(importlib.util.find_spec(module) for module in modules):
        return None
    return MissingExtra(f"backend {library}", extra)


def _backend(name: Backend) -> Backend:
    if (missing := missing_library(name.partition("-")[0])) is not None:
        raise ValueError(str(missing))
    return name


def _encoder(name: str) -> str:
    try:
        check_name(name)
    except ModelError as error:
        raise ValueError(str(error)) from error
    return name


def _scorer(name: str) -> str:
    try:
        check_scorer_name(name)
    except ModelError as error:
        raise ValueError(str(error)) from error
    return name


EncoderName = Annotated[str, Field(min_length=1), AfterValidator(_encoder)]
"""``embedded:all-MiniLM-L6-v2``, a folder, or a hub id."""
InstalledBackend = Annotated[Backend, AfterValidator(_backend)]
"""One whose extra is installed."""
ScorerName = Annotated[str, Field(min_length=1), AfterValidator(_scorer)]
"""``embedded:relevance``, ``embedded:duplicate``, a folder, or a hub id."""
