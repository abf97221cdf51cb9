"""Write mined examples as JSON lines that the training commands read as they are."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from funnel.errors import ConfigError
from funnel.training.output import atomic_text
from funnel.training.records import Triple

Rows = Iterable[Mapping[str, object]]
Form = Callable[[Sequence[Triple]], Rows]


def write_mined(path: Path, triples: Sequence[Triple], form: Form) -> int:
    """Write ``triples`` in one of ``FORMS``, whole or not at all; return the number of lines.

    Raises:
        ConfigError: scores are wanted and no cross-encoder gave any.
        ModelError: the file cannot be written.
    """
    rows = list(form(triples))
    atomic_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def _pairs(triples: Sequence[Triple]) -> Rows:
    labels = {(row.query, row.positive): 1 for row in triples}
    for row in triples:
        labels.setdefault((row.query, row.negative), 0)
    for (query, document), label in labels.items():
        yield {"query": query, "document": document, "label": label}


def _scored(triples: Sequence[Triple]) -> Rows:
    scores: dict[tuple[str, str], float] = {}
    for row in triples:
        if row.positive_score is None or row.negative_score is None:
            raise ConfigError("scored pairs were asked for; name a --cross-encoder to score them")
        scores.setdefault((row.query, row.positive), row.positive_score)
        scores.setdefault((row.query, row.negative), row.negative_score)
    for (query, document), score in scores.items():
        yield {"query": query, "document": document, "score": round(score, 6)}


def _triples(triples: Sequence[Triple]) -> Rows:
    for row in triples:
        values = {"query": row.query, "positive": row.positive, "negative": row.negative}
        if row.positive_score is None or row.negative_score is None:
            yield values
            continue
        scores = {"positive_score": row.positive_score, "negative_score": row.negative_score}
        yield values | {name: round(score, 6) for name, score in scores.items()}


FORMS: Mapping[str, Form] = MappingProxyType(
    {"pairs": _pairs, "scored": _scored, "triples": _triples}
)
"""``pairs`` are labelled 1 and 0 (for bce), ``scored`` carry the cross-encoder's probabilities
(for mse and cosine), ``triples`` both documents and, if scored, both probabilities (margin_mse)."""
