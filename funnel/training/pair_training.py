"""Train a model that scores pairs: the core that `cross-encoder` and `duplicate` share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from funnel.training.checks import (
    check_classes,
    check_probabilities,
    check_size,
    check_spread,
    contradictions,
)
from funnel.training.exports import Form, chosen_form, export_cross_encoder
from funnel.training.figures import classification_figures, regression_figures, sigmoid
from funnel.training.loop import Job, discard_checkpoints, run_job
from funnel.training.lora import add_lora, merge_lora
from funnel.training.losses import PairLoss, ScoreScale, pair_loss
from funnel.training.records import LabelledPair
from funnel.training.report import TrainReport
from funnel.training.session import RunOptions, open_session, report
from funnel.training.settings import TrainSettings
from funnel.training.splits import split_by_group
from funnel.training.students import CrossStudent, load_cross_student

Texts = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTask:
    """What is trained: the loss, the scale of soft scores, the form of the result.

    ``symmetric`` says that a pair means the same in both orders: training sees both, and figures
    take the mean of both.
    """

    title: str
    loss: PairLoss
    scale: ScoreScale = "probability"
    symmetric: bool = False
    form: Form = "auto"


def train_pairs(
    pairs: Sequence[LabelledPair],
    task: PairTask,
    base: str,
    settings: TrainSettings,
    options: RunOptions,
    dev: Sequence[LabelledPair] | None = None,
) -> TrainReport:
    """Train ``base`` on ``pairs`` and write a model directory or an adapter.

    ``dev`` is held-out data of your own; without it ``settings.dev_share`` of the queries are set
    aside.

    Raises:
        InputError, CorpusError: the data cannot be trained on; says which lines.
        ConfigError: the output exists, CUDA is missing, or the run cannot be resumed.
        ModelError: the base cannot be loaded, or the result cannot be saved.
        TrainingStopped: interrupted; ``resume`` goes on.
    """
    check_pairs(pairs, task, minimum=settings.min_rows)
    train, held_out = _parts(pairs, dev, task, settings)
    session = open_session(
        task.title,
        base,
        settings,
        options,
        parts={"train": train, "dev": held_out},
        choices={"loss": task.loss, "scale": task.scale, "symmetric": task.symmetric},
    )
    student = load_cross_student(
        base, max_tokens=settings.max_tokens, hardware=session.hardware, seed=settings.seed
    )
    form = chosen_form(task.form, student)
    rank = settings.lora_rank
    tuner = add_lora(student.network, rank, seed=settings.seed) if rank else None
    job = _job(student, train, held_out, task)
    outcome = run_job(job, settings, session.hardware, options.output, session.resume_from)
    if tuner is not None:
        merge_lora(tuner)
    done = report(session, outcome, form=form, notes=_notes(pairs, student))
    export_cross_encoder(student, form, done)
    if not options.keep_checkpoints:
        discard_checkpoints(options.output)
    return done


def check_pairs(pairs: Sequence[LabelledPair], task: PairTask, *, minimum: int) -> None:
    """Refuse data that this loss cannot learn from.

    Raises:
        InputError, CorpusError: too few rows, one class, constant or impossible scores.
    """
    check_size(pairs, "pairs", minimum=minimum)
    if task.loss == "bce":
        check_probabilities(pairs, what="labels of bce", mend="use 0 and 1, or --loss mse")
        check_classes(pairs)
        return
    if task.scale == "probability":
        mend = "say --scale logit if the teacher gives raw logits"
        check_probabilities(pairs, what="scores", mend=mend)
    check_spread(pairs)


def _parts(
    pairs: Sequence[LabelledPair],
    dev: Sequence[LabelledPair] | None,
    task: PairTask,
    settings: TrainSettings,
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    if dev is not None:
        check_pairs(dev, task, minimum=1)
        return list(pairs), list(dev)
    keys = _both_texts if task.symmetric else _query
    return split_by_group(pairs, keys, share=settings.dev_share, seed=settings.seed)


def _query(pair: LabelledPair) -> tuple[str]:
    return (pair.query,)


def _both_texts(pair: LabelledPair) -> tuple[str, str]:
    return (pair.query, pair.document)


def _job(
    student: CrossStudent,
    train: Sequence[LabelledPair],
    dev: Sequence[LabelledPair],
    task: PairTask,
) -> Job:
    weight = student.dense.weight if student.dense else None
    loss = pair_loss(student.model, task.loss, scale=task.scale, residual_weight=weight)
    figures = _figures(student, dev, task) if dev else None
    primary = "auc" if task.loss == "bce" else "spearman"
    return Job(student.model, loss, _columns(student, train, task), figures, primary)


def _columns(
    student: CrossStudent, train: Sequence[LabelledPair], task: PairTask
) -> dict[str, list[object]]:
    rows = [(pair.query, pair.document, pair.score) for pair in train]
    if task.symmetric:
        rows += [(pair.document, pair.query, pair.score) for pair in train]
    labels: list[object] = [score for *_, score in rows]
    if student.dense is not None:
        offsets = student.dense.offsets([(query, document) for query, document, _ in rows])
        labels = [[score, float(offset)] for score, offset in zip(labels, offsets, strict=True)]
    return {
        "query": [query for query, *_ in rows],
        "document": [document for _, document, _ in rows],
        "label": labels,
    }


def _figures(
    student: CrossStudent, dev: Sequence[LabelledPair], task: PairTask
) -> Callable[[], Mapping[str, float]]:
    texts = [(pair.query, pair.document) for pair in dev]
    wanted = np.array([pair.score for pair in dev])
    offsets = student.offsets(texts)

    def measure() -> Mapping[str, float]:
        logits = student.cross_logits(texts, symmetric=task.symmetric) + offsets
        return _measured(logits, wanted, task)

    return measure


def _measured(
    logits: NDArray[np.float64], wanted: NDArray[np.float64], task: PairTask
) -> Mapping[str, float]:
    if task.loss == "bce":
        return classification_figures(logits, wanted)
    scores = sigmoid(logits) if task.scale == "probability" else logits
    return regression_figures(scores, wanted)


def _notes(pairs: Sequence[LabelledPair], student: CrossStudent) -> list[str]:
    notes = []
    if found := contradictions(pairs):
        notes.append(f"{found} pairs occur with labels of both classes")
    if student.fresh_head:
        notes.append("the base had no head for pairs: one was drawn at random and trained")
    if student.dense is not None:
        notes.append("the score adds the base's fixed dense similarity: only the rest was trained")
    return notes
