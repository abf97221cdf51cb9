"""What the training commands read: files, shipped examples, models by name."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funnel.cli.train_options import bad_line_choice
from funnel.training.losses import ScoreScale

if TYPE_CHECKING:
    from funnel.models.base import Side
    from funnel.training.bi_encoder import Distillation
    from funnel.training.records import LabelledPair


def read_pairs(data: str, on_bad_line: str, *, soft: bool = False) -> "list[LabelledPair]":
    """Labelled pairs of a file or of ``example:NAME``, or with ``soft`` those with scores."""
    from funnel.training.examples import data_file
    from funnel.training.reading import read_rows
    from funnel.training.records import labelled_pair, scored_pair

    path, parse = data_file(data, "train.jsonl"), scored_pair if soft else labelled_pair
    return read_rows(path, parse, on_bad_line=bad_line_choice(on_bad_line))


def read_distillation(
    data: str, loss: str, teacher: str | None, scale: ScoreScale, on_bad_line: str, output: Path
) -> "Distillation":
    """What the bi-encoder ``output`` is to learn: scores of the file, or of a teacher."""
    from funnel.training.bi_encoder import from_pairs, from_triples
    from funnel.training.checks import check_size, check_triples, named
    from funnel.training.examples import data_file
    from funnel.training.reading import read_rows
    from funnel.training.records import triple
    from funnel.training.teacher import Teacher, scored_triples

    path, choice = data_file(data, "train.jsonl"), bad_line_choice(on_bad_line)
    if loss == "margin_mse":
        triples = read_rows(path, triple, on_bad_line=choice)
        with named(data):
            if teacher is None:
                return from_triples(triples, scale=scale)
            check_size(triples, "triples")
            check_triples(triples)
        scored = scored_triples(triples, Teacher(teacher, output).logits)
        return from_triples(scored, scale="probability")
    if teacher is None:
        pairs = read_pairs(data, on_bad_line, soft=True)
        with named(data):
            return from_pairs(pairs, scale=scale)
    return from_pairs(taught_pairs(data, teacher, on_bad_line, output), scale="probability")


def taught_pairs(data: str, teacher: str, on_bad_line: str, output: Path) -> "list[LabelledPair]":
    """Distinct pairs of the file with the teacher's probabilities; labels there are ignored."""
    from funnel.training.checks import check_size, named
    from funnel.training.examples import data_file
    from funnel.training.reading import read_rows
    from funnel.training.records import unlabelled_pair
    from funnel.training.teacher import Teacher, scored_pairs

    path = data_file(data, "train.jsonl")
    rows = read_rows(path, unlabelled_pair, on_bad_line=bad_line_choice(on_bad_line))
    texts = list(dict.fromkeys((row.query, row.document) for row in rows))
    with named(data):
        check_size(texts, "pairs")
    return scored_pairs(texts, Teacher(teacher, output).logits)


def encoder(name: str, side: "Side") -> Any:
    """An encoder's function from texts of a side to vectors, with a bar; None for ``none``."""
    if name == "none":
        return None
    from funnel.models.pool import ModelPool

    return partial(ModelPool.shared().encoder(name).encode, progress=True, side=side)


def scorer(name: str) -> Any:
    """A cross-encoder's function from pairs to logits, with a bar; None for ``none``."""
    if name == "none":
        return None
    from funnel.training.judges import logit_scores
    from funnel.training.teacher import in_chunks

    score = logit_scores(name)
    return lambda texts: in_chunks(texts, score)
