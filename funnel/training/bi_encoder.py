"""Distil a cross-encoder into a bi-encoder, so that the first stage ranks like the second."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from funnel.errors import InputError
from funnel.models.prompts import declared_prompts
from funnel.models.source import ModelName, locate, model_name
from funnel.training.checks import (
    check_probabilities,
    check_scores,
    check_size,
    check_spread,
    check_triples,
    named,
)
from funnel.training.exports import export_bi_encoder
from funnel.training.figures import regression_figures, sigmoid
from funnel.training.loop import Job
from funnel.training.lora import add_lora, merge_lora
from funnel.training.losses import ScoreScale
from funnel.training.records import LabelledPair, Triple
from funnel.training.report import TrainReport
from funnel.training.session import Session, fall, open_session, report
from funnel.training.settings import RunOptions, TrainSettings, check_choice
from funnel.training.splits import split_by_group
from funnel.training.students import load_bi_student

BiLoss = Literal["cosine", "margin_mse"]
Floats = NDArray[np.float64]
Example = tuple[tuple[str, ...], float]
_NAMES = ("query", "positive", "negative")
_UNMEASURED = "nothing was measured: no example could be set aside; add queries"


@dataclass(frozen=True, slots=True)
class Distillation:
    """Texts in columns (query first) with the value that cosines, or their margins, should take.

    ``values`` has shape (n,): a probability per pair, or the difference of two per triple.
    """

    texts: tuple[tuple[str, ...], ...]
    values: tuple[float, ...]

    @property
    def rows(self) -> list[Example]:
        """Texts and value of each example."""
        return list(zip(self.texts, self.values, strict=True))


def from_pairs(pairs: Sequence[LabelledPair], *, scale: ScoreScale) -> Distillation:
    """Soft scores of pairs for the cosine-similarity loss.

    Raises:
        InputError: scores outside [0, 1] on the probability scale, or all the same.
    """
    check_choice("scale", scale, get_args(ScoreScale))
    if scale == "probability":
        mend = "say --scale logit if the teacher gives raw logits"
        check_probabilities(pairs, what="teacher scores", mend=mend)
    check_spread(pairs)
    values = _as_probabilities([pair.score for pair in pairs], scale)
    return Distillation(tuple((pair.query, pair.document) for pair in pairs), tuple(values))


def from_triples(triples: Sequence[Triple], *, scale: ScoreScale) -> Distillation:
    """Margins of scored triples for MarginMSE (Hofstätter et al. 2020, arXiv:2010.02666).

    Raises:
        InputError: triples without teacher scores, or scores outside [0, 1].
    """
    check_choice("scale", scale, get_args(ScoreScale))
    check_triples(triples)
    if any(row.positive_score is None for row in triples):
        raise InputError("margin_mse needs a teacher's scores; name one with --teacher MODEL")
    if scale == "probability":
        _check_triple_scores(triples)
    better = _as_probabilities([row.positive_score or 0.0 for row in triples], scale)
    worse = _as_probabilities([row.negative_score or 0.0 for row in triples], scale)
    margins = tuple(float(up - down) for up, down in zip(better, worse, strict=True))
    return Distillation(tuple((r.query, r.positive, r.negative) for r in triples), margins)


def train_bi_encoder(
    data: Distillation,
    options: RunOptions,
    *,
    base: ModelName = "embedded:all-MiniLM-L6-v2",
    settings: TrainSettings | None = None,
) -> TrainReport:
    """Train the cosines (or their margins) of ``base`` towards a teacher's scores.

    Pairs use the cosine-similarity loss, triples MarginMSE. The result is a plain
    sentence-transformers directory; indexes made with the old model must be rebuilt.

    Raises:
        InputError: too few examples.
        ConfigError: an option cannot be honoured here.
        ModelError: the base cannot be loaded or the result cannot be saved.
        TrainingStopped: interrupted; resume with ``RunOptions(resume=True)``.
    """
    settings, base = settings or TrainSettings(), model_name(base)
    with named(options.data_name):
        check_size(data.texts, "examples", minimum=settings.min_rows)
    loss: BiLoss = "cosine" if len(data.texts[0]) == 2 else "margin_mse"
    train, dev = split_by_group(data.rows, _query, share=settings.dev_share, seed=settings.seed)
    with open_session(
        f"bi-encoder distilled with {loss}",
        base,
        settings,
        options,
        parts={"train": train, "dev": dev},
        choices={"loss": loss},
    ) as session:
        return _trained(session, loss, train, dev)


def _trained(
    session: Session, loss: BiLoss, train: Sequence[Example], dev: Sequence[Example]
) -> TrainReport:
    settings = session.settings
    model = load_bi_student(
        session.base, max_tokens=settings.max_tokens, hardware=session.hardware, seed=settings.seed
    )
    rank = settings.lora_rank
    tuner = add_lora(model[0].model, rank, seed=settings.seed) if rank else None
    prompts = _prompts(session.base)
    figures = _figures(model, dev, prompts)
    job = Job(model, _loss(model, loss), _columns(train), figures, "spearman", prompts=prompts)
    outcome = session.train(job)
    if tuner is not None:
        merge_lora(tuner)
    notes = fall(outcome, job.primary) if dev else [_UNMEASURED]
    done = report(session, outcome, form="model", notes=notes)
    export_bi_encoder(model, done)
    session.close()
    return done


def _query(row: Example) -> tuple[str]:
    return (row[0][0],)


def _loss(model: Any, loss: BiLoss) -> Any:
    from sentence_transformers.sentence_transformer.losses import (
        CosineSimilarityLoss,
        MarginMSELoss,
    )
    from sentence_transformers.util import pairwise_cos_sim

    if loss == "cosine":
        return CosineSimilarityLoss(model)
    return MarginMSELoss(model, similarity_fct=pairwise_cos_sim)


def _prompts(base: str) -> dict[str, str]:
    """What the base puts before the texts of each column when it is served."""
    declared = declared_prompts(locate(base).folder)
    return {"query": declared.query, **dict.fromkeys(_NAMES[1:], declared.document)}


def _columns(rows: Sequence[Example]) -> dict[str, list[Any]]:
    texts = zip(*(texts for texts, _ in rows), strict=True)
    columns: dict[str, list[Any]] = {
        name: list(column) for name, column in zip(_NAMES, texts, strict=False)
    }
    return {**columns, "label": [value for _, value in rows]}


def _figures(
    model: Any, dev: Sequence[Example], prompts: Mapping[str, str]
) -> Callable[[], Mapping[str, float]] | None:
    if not dev:
        return None
    columns = list(zip(*(texts for texts, _ in dev), strict=True))
    wanted = np.array([value for _, value in dev])

    def measure() -> Mapping[str, float]:
        query, *others = (
            _encoded(model, texts, prompts[name])
            for name, texts in zip(_NAMES, columns, strict=False)
        )
        cosines = [check_scores(np.einsum("nd,nd->n", query, other)) for other in others]
        if len(cosines) == 1:
            return regression_figures(cosines[0], wanted)
        margins = cosines[0] - cosines[1]
        agree = float(np.mean(np.sign(margins) == np.sign(wanted)))
        return {**regression_figures(margins, wanted), "pair_accuracy": agree}

    return measure


def _encoded(model: Any, texts: Sequence[str], prompt: str) -> Floats:
    vectors = model.encode(
        list(texts),
        prompt=prompt,
        normalize_embeddings=True,
        show_progress_bar=False,
        batch_size=64,
    )
    return np.asarray(vectors, np.float64)


def _as_probabilities(scores: Sequence[float], scale: ScoreScale) -> list[float]:
    return list(scores) if scale == "probability" else [float(p) for p in sigmoid(scores)]


def _check_triple_scores(triples: Sequence[Triple]) -> None:
    flat = [
        LabelledPair(row.query, row.positive, score, place=row.place)
        for row in triples
        for score in (row.positive_score, row.negative_score)
        if score is not None
    ]
    mend = "say --scale logit if the teacher gives raw logits"
    check_probabilities(flat, what="teacher scores", mend=mend)
