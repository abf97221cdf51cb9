"""Train a model that scores pairs: the core that `cross-encoder` and `duplicate` share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from funnel.errors import InputError
from funnel.models.source import ModelName, model_name
from funnel.training.checks import (
    check_classes,
    check_probabilities,
    check_scores,
    check_size,
    check_spread,
    contradictions,
    named,
)
from funnel.training.exports import (
    DEFAULT_RANK,
    Form,
    Settled,
    Use,
    export_adapter,
    export_cross_encoder,
    make_adapter,
    settled_form,
)
from funnel.training.figures import classification_figures, regression_figures, sigmoid
from funnel.training.loop import Job, Outcome
from funnel.training.lora import add_lora, merge_lora
from funnel.training.losses import PairLoss, ScoreScale, pair_loss
from funnel.training.records import LabelledPair
from funnel.training.report import TrainReport
from funnel.training.session import Session, fall, open_session, report
from funnel.training.settings import RunOptions, TrainSettings, check_choice
from funnel.training.splits import split_by_group
from funnel.training.students import CrossStudent, load_cross_student

if TYPE_CHECKING:
    from funnel.models.adapters import PairOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTask:
    """What is trained: the loss, the scale of soft scores, the form of the result.

    ``symmetric`` says that a pair means the same in both orders: training sees both.
    ``residual`` adds the base's own cosine and MaxSim to the score and trains only the rest.
    """

    title: str
    loss: PairLoss
    scale: ScoreScale = "probability"
    symmetric: bool = False
    residual: bool = False
    form: Form = "auto"

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, get_args(PairLoss))
        check_choice("scale", self.scale, get_args(ScoreScale))
        check_choice("form", self.form, get_args(Form))


def train_pairs(
    pairs: Sequence[LabelledPair],
    task: PairTask,
    base: ModelName,
    settings: TrainSettings,
    options: RunOptions,
    dev: Sequence[LabelledPair] | None = None,
) -> TrainReport:
    """Train ``base`` on ``pairs`` and write a model directory or an adapter.

    ``dev`` is held-out data of your own; without it ``settings.dev_share`` of the queries are set
    aside.

    Raises:
        InputError: the data cannot be trained on; says which lines.
        ConfigError: the output exists, CUDA is missing, or the run cannot be resumed.
        ModelError: the base cannot be loaded, or the result cannot be saved.
        TrainingStopped: interrupted; ``resume`` goes on.
    """
    base = model_name(base)
    with named(options.data_name):
        check_pairs(pairs, task, minimum=settings.min_rows)
    train, held_out = _parts(pairs, dev, task, settings)
    with named(options.data_name):
        check_pairs(train, task, minimum=1)
    contradicted = contradictions(pairs)
    with open_session(
        task.title,
        base,
        settings,
        options,
        parts={"train": train, "dev": held_out},
        choices={"loss": task.loss, "scale": task.scale, "residual": task.residual},
    ) as session:
        return _trained(session, task, train, held_out, contradicted)


def _trained(
    session: Session,
    task: PairTask,
    train: Sequence[LabelledPair],
    held_out: Sequence[LabelledPair],
    contradicted: int,
) -> TrainReport:
    settings, start = session.settings, _start(task, session)
    form = settled_form(task.form, start)
    measured = held_out if _can_be_measured(held_out, task) else []
    before = _figures(start, measured, task)() if start.rank and measured else None
    student = _fitted(start, train, task)
    rank = settings.lora_rank
    tuner = add_lora(student.network, rank, seed=settings.seed) if rank else None
    job = replace(_job(student, train, measured, task), before=before)
    outcome = session.train(job)
    if tuner is not None:
        merge_lora(tuner)
    notes = [*_notes(contradicted, student), *_dev_notes(train, held_out, measured)]
    done = _export(student, form, session, outcome, job, task, notes=notes)
    session.close()
    return done


def _start(task: PairTask, session: Session) -> CrossStudent:
    settings = session.settings
    order: PairOrder = "both_mean" if task.symmetric else "given"
    return load_cross_student(
        session.base,
        residual=order if task.residual else None,
        max_tokens=settings.max_tokens,
        hardware=session.hardware,
        seed=settings.seed,
    )


def _fitted(start: CrossStudent, train: Sequence[LabelledPair], task: PairTask) -> CrossStudent:
    """The same with the weights of its fixed part fitted to the training rows.

    A ceiling serves the cache, where all depends on the top of the ranking; whoever learns what
    documents answer has to raise them.
    """
    if start.dense is None:
        return start
    dense = start.dense if task.symmetric else start.dense.uncapped()
    texts, targets = [(pair.query, pair.document) for pair in train], [p.score for p in train]
    chances = targets if task.scale == "probability" else [float(p) for p in sigmoid(targets)]
    cross = start.cross_logits(texts) if start.rank else None
    return replace(start, dense=dense.fitted(texts, chances, cross))


def _can_be_measured(dev: Sequence[LabelledPair], task: PairTask) -> bool:
    """Whether the held-out part has what its figures compare: both classes, or two scores."""
    return len({_side(task, pair) for pair in dev}) > 1


def _export(
    student: CrossStudent,
    form: Settled,
    session: Session,
    outcome: Outcome,
    job: Job,
    task: PairTask,
    *,
    notes: Sequence[str],
) -> TrainReport:
    use: Use = "verifier" if task.symmetric else "stage"
    if form == "model":
        done = report(session, outcome, form=form, notes=[*fall(outcome, job.primary), *notes])
        export_cross_encoder(student, done, use)
        return done
    output, settings = session.options.output, session.settings
    rank = student.rank + (settings.lora_rank or DEFAULT_RANK)
    adapter = make_adapter(student, output.name, rank=rank)
    rounded = replace(outcome, after=dict(job.figures())) if job.figures else outcome
    notes = [*fall(rounded, job.primary), *notes]
    done = report(session, rounded, form=f"adapter of rank {rank}", notes=notes)
    training = {"rows": dict(done.rows), "settings": dict(done.settings), "dev": dict(done.after)}
    export_adapter(replace(adapter, training=training), done, use)
    return done


def check_pairs(pairs: Sequence[LabelledPair], task: PairTask, *, minimum: int) -> None:
    """Refuse data that this loss cannot learn from.

    Raises:
        InputError: too few rows, one class, constant or impossible scores.
    """
    check_size(pairs, "pairs", minimum=minimum)
    if task.loss == "bce":
        other = "" if task.symmetric else ", or --loss mse"
        check_probabilities(pairs, what="labels of bce", mend=f"use 0 and 1{other}")
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
        try:
            check_pairs(dev, task, minimum=1)
        except InputError as problem:
            raise InputError(f"the held-out data (--dev): {problem}") from None
        return list(pairs), list(dev)
    keys = _both_texts if task.symmetric else _query
    return split_by_group(
        pairs, keys, share=settings.dev_share, seed=settings.seed, kind=partial(_side, task)
    )


def _side(task: PairTask, pair: LabelledPair) -> float:
    """What training tells apart, and its figures compare: the two classes, or the scores."""
    return float(pair.score >= 0.5) if task.loss == "bce" else pair.score


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
    texts = [(pair.query, pair.document) for pair in train]
    labels: list[object] = [pair.score for pair in train]
    if student.dense is not None:
        labels = [*student.dense.of(texts).labels([pair.score for pair in train])]
    if task.symmetric:
        texts, labels = texts + [(second, first) for first, second in texts], labels * 2
    return {
        "query": [query for query, _ in texts],
        "document": [document for _, document in texts],
        "label": labels,
    }


def _figures(
    student: CrossStudent, dev: Sequence[LabelledPair], task: PairTask
) -> Callable[[], Mapping[str, float]]:
    texts = [(pair.query, pair.document) for pair in dev]
    wanted = np.array([pair.score for pair in dev])
    fixed = student.dense.of(texts) if student.dense else None

    def measure() -> Mapping[str, float]:
        return _measured(check_scores(student.scores(texts, fixed)), wanted, task)

    return measure


def _measured(
    logits: NDArray[np.float64], wanted: NDArray[np.float64], task: PairTask
) -> Mapping[str, float]:
    if task.loss == "bce":
        return classification_figures(logits, wanted)
    scores = sigmoid(logits) if task.scale == "probability" else logits
    return regression_figures(scores, wanted)


def _dev_notes(
    train: Sequence[LabelledPair], dev: Sequence[LabelledPair], measured: Sequence[LabelledPair]
) -> list[str]:
    notes = []
    if not measured:
        found = f"its {len(dev)} pairs are all alike" if dev else "no pair could be set aside"
        notes.append(f"nothing was measured: {found}; add queries, or give held-out data (--dev)")
    trained = {(pair.query, pair.document) for pair in train}
    if shared := sum((pair.query, pair.document) in trained for pair in dev):
        notes.append(f"{shared} of the {len(dev)} held-out pairs were trained on, too")
    return notes


def _notes(contradicted: int, student: CrossStudent) -> list[str]:
    notes = []
    if contradicted:
        notes.append(f"{contradicted} pairs occur with labels of both classes")
    if student.fresh_head:
        notes.append("the base had no head for pairs: one was drawn at random and trained")
    if student.dense is not None:
        notes.append("the score adds the base's fixed dense similarity: only the rest was trained")
    return notes
