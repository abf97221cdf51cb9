"""Words that an encoder was trained to read before a text, as its folder declares them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from funnel.models.base import Side

FILE = "config_sentence_transformers.json"
_NAMES: Mapping[Side | None, tuple[str, ...]] = {
    None: (),
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


@dataclass(frozen=True, slots=True)
class Prompts:
    """What stands before a query, before a document, and before a text that is neither."""

    query: str = ""
    document: str = ""
    other: str = ""

    def before(self, side: Side | None) -> str:
        """What stands before a text of that side."""
        return {"query": self.query, "document": self.document, None: self.other}[side]

    def marked(self, revision: str) -> str:
        """A revision of the weights made one of these prompts too; without any it stays."""
        if self == Prompts():
            return revision
        return hashlib.sha256(repr((revision, astuple(self))).encode()).hexdigest()[:16]


def declared_prompts(folder: Path) -> Prompts:
    """The prompts of a sentence-transformers folder.

    A query's is the one named ``query``, a document's that of ``document``, ``passage`` or
    ``corpus``; where there is none, or an empty one (the library writes those by itself), the one
    that ``default_prompt_name`` names stands before the text.
    """
    settings = _read(folder / FILE)
    named = settings.get("prompts")
    texts = {name: text for name, text in named.items() if text} if isinstance(named, dict) else {}
    default = texts.get(settings.get("default_prompt_name"), "")

    def of(side: Side | None) -> str:
        return next((str(texts[name]) for name in _NAMES[side] if name in texts), str(default))

    return Prompts(of("query"), of("document"), of(None))


def _read(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
