"""Model names in settings: what no model can be called is refused when the settings are read."""

from typing import Annotated

from pydantic import AfterValidator, Field

from funnel.errors import ModelError
from funnel.models.source import check_name, check_scorer_name


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
