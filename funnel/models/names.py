"""Names of models and backends in settings: what cannot be is refused when settings are read."""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from funnel.errors import ModelError
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
ScorerName = Annotated[str, Field(min_length=1), AfterValidator(_scorer)]
"""``embedded:relevance``, ``embedded:duplicate``, a folder, or a hub id."""
