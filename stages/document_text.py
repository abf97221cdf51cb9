"""What a model reads of a document."""

import re
from typing import Annotated

from pydantic import AfterValidator

from funnel.types import Document

TITLE_AND_TEXT = "{title}\n{text}"
_PLACE = re.compile(r"\{([^{}]*)\}")


def _checked(template: str) -> str:
    places = [match.group(1) for match in _PLACE.finditer(template)]
    bad = [name for name in places if not (name in _FIELDS or name.startswith("metadata."))]
    if bad or not places:
        got = f"{{{bad[0]}}}" if bad else repr(template)
        raise ValueError(f"got {got}, expected {{title}}, {{text}}, {{id}} or {{metadata.KEY}}")
    return template


_FIELDS = ("title", "text", "id")
Template = Annotated[str, AfterValidator(_checked)]
"""Text with ``{title}``, ``{text}``, ``{id}`` and ``{metadata.KEY}`` in it."""


def document_text(document: Document, template: str = TITLE_AND_TEXT) -> str:
    r"""Fill in a template. A line whose places are all empty is left out.

    >>> document_text(Document("1", "Click *Forgot*.", "Reset a password"))
    'Reset a password\nClick *Forgot*.'
    >>> document_text(Document("2", "Click *Forgot*."))
    'Click *Forgot*.'
    """
    lines = (_line(line, document) for line in template.split("\n"))
    return "\n".join(line for line in lines if line is not None)


def _line(line: str, document: Document) -> str | None:
    values = [_value(match.group(1), document) for match in _PLACE.finditer(line)]
    if values and not any(values):
        return None
    filled = iter(values)
    return _PLACE.sub(lambda _: next(filled), line)


def _value(name: str, document: Document) -> str:
    if name.startswith("metadata."):
        return str(document.metadata.get(name.removeprefix("metadata."), ""))
    return str(getattr(document, name))
