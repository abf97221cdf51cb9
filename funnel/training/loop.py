"""One training run with sentence-transformers' trainers: evaluate, checkpoint, stop, resume."""

import math
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funnel.errors import FunnelError, ModelError, TrainingStopped
from funnel.log import get_logger
from funnel.training.callbacks import progress_callback, stop_callback
from funnel.training.checkpoints import (
    checkpoint_folder,
    exact,
    load_trained,
    seconds_before,
    unfinished,
)
from funnel.training.checks import BROKEN
from funnel.training.devices import Hardware
from funnel.training.output import failed_write
from funnel.training.progress import training_bar
from funnel.training.report import Evaluation, LossPoint
from funnel.training.room import KEPT
from funnel.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

_log = get_logger(__name__)

_SELECTION = "selection"
_GO_ON = "free space and go on with --resume (or start over with --overwrite)"
_BEGIN_AGAIN = "no checkpoint was whole yet: free space and begin again"
Figures = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Job:
    """A model with its loss and data.

    ``columns`` are the training texts and a ``label``, all of one length. ``figures`` measures the
    model as it stands on the development part; ``primary`` names the figure (higher is better)
    that decides which checkpoint is kept; the error breaks ties. ``figures`` is None if there is
    no development part. ``before`` are the base's, where the model is not the base any more.
    ``prompts`` stand before each column's texts; the model's default one before all if None.
    """

    model: Any
    loss: "nn.Module"
    columns: Mapping[str, list[Any]]
    figures: Figures | None
    primary: str
    before: Mapping[str, float] | None = None
    prompts: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop measured; the job's model now holds the kept weights.

    ``seconds`` are those of all legs of a resumed run.
    """

    steps: int
    kept_step: int
    seconds: float
    before: Mapping[str, float]
    after: Mapping[str, float]
    losses: tuple[LossPoint, ...]
    evaluations: tuple[Evaluation, ...]


def seed_everything(seed: int) -> None:
    """Seed every generator a run draws from; call before a new head is initialised."""
    from transformers import set_seed

    set_seed(seed)


def run_job(
    job: Job, settings: TrainSettings, hardware: Hardware, output: Path, resume_from: Path | None
) -> Outcome:
    """Train ``job.model`` in place and leave the best (or last) weights in it.

    Raises:
        TrainingStopped: a signal or ``max_steps`` ended it early; a checkpoint was kept.
        ModelError: the loss became NaN, or a checkpoint could not be written.
    """
    started = time.monotonic() - seconds_before(resume_from)
    before = job.before or (dict(job.figures()) if job.figures else {})
    folder = checkpoint_folder(output)
    with _quiet(), training_bar() as bar, _stop_signal() as stop:
        callbacks = [progress_callback(bar), stop_callback(stop, settings.max_steps)]
        clock = partial(_since, started)
        trainer = _trainer(job, settings, hardware, folder, callbacks, clock)
        try:
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        except Exception as problem:  # safetensors' own error is neither OSError nor RuntimeError
            mend = _GO_ON if unfinished(output) else _BEGIN_AGAIN
            if mended := failed_write(problem, folder, mend=mend):
                raise mended from problem
            if _is_of_loading(problem, trainer, resume_from):
                raise ModelError(
                    f"could not go on from {resume_from} ({type(problem).__name__}: {problem}); if "
                    "it is damaged, delete it to go on from the one before, or start over with "
                    "--overwrite"
                ) from problem
            raise
    _refuse_unfinished(trainer, folder, interrupted=stop.is_set())
    after = dict(job.figures()) if job.figures else {}
    return Outcome(
        steps=trainer.state.global_step,
        kept_step=_kept_step(trainer),
        seconds=_since(started),
        before=before,
        after=after,
        losses=_losses(trainer.state.log_history),
        evaluations=(Evaluation(0, before), *_evaluations(trainer.state.log_history, after)),
    )


def _since(started: float) -> float:
    return time.monotonic() - started


def _is_of_loading(problem: Exception, trainer: Any, checkpoint: Path | None) -> bool:
    """Whether no step was taken since a run was to go on from a checkpoint."""
    if checkpoint is None or isinstance(problem, FunnelError):
        return False
    return int(trainer.state.global_step) <= int(checkpoint.name.rpartition("-")[2])


def discard_checkpoints(output: Path) -> None:
    """Remove the checkpoints of a finished run."""
    shutil.rmtree(checkpoint_folder(output), ignore_errors=True)


def _trainer(
    job: Job,
    settings: TrainSettings,
    hardware: Hardware,
    folder: Path,
    callbacks: "list[TrainerCallback]",
    clock: Callable[[], float],
) -> Any:
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import (
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from transformers.trainer_callback import PrinterCallback

    cross = isinstance(job.model, CrossEncoder)
    trainer_class: Any = CrossEncoderTrainer if cross else SentenceTransformerTrainer
    arguments: Any = (
        CrossEncoderTrainingArguments if cross else SentenceTransformerTrainingArguments
    )
    args = arguments(**_arguments(job, settings, hardware, folder))
    args._n_gpu = min(1, args.n_gpu)  # over several the trainer would wrap the model in another
    trainer: Any = exact(trainer_class, clock)(
        model=job.model,
        args=args,
        train_dataset=Dataset.from_dict(dict(job.columns)),
        loss=job.loss,
        evaluator=_evaluator(job.figures, job.primary) if job.figures else None,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(
    job: Job, settings: TrainSettings, hardware: Hardware, folder: Path
) -> dict[str, Any]:
    rows = len(next(iter(job.columns.values())))
    steps = math.ceil(math.ceil(rows / settings.batch_size) * settings.epochs)
    every = max(1, math.ceil(steps / settings.evaluations))
    evaluated = job.figures is not None
    return {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "bf16": hardware.bf16,
        "use_cpu": hardware.device == "cpu",
        "dataloader_pin_memory": hardware.device != "cpu",
        "seed": settings.seed,
        "data_seed": settings.seed,
        "eval_strategy": "steps" if evaluated else "no",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": KEPT,
        "load_best_model_at_end": evaluated and settings.keep_best,
        "metric_for_best_model": _SELECTION if evaluated else None,
        "greater_is_better": True if evaluated else None,
        "logging_strategy": "steps",
        "logging_steps": max(1, steps // 20),
        "logging_nan_inf_filter": False,  # it would show the mean of what came before instead
        "prompts": _prompt(job.model) if job.prompts is None else dict(job.prompts),
        "report_to": [],
        "disable_tqdm": True,
    }


def _prompt(model: Any) -> str | None:
    """What the model puts before every text when it is served; trainers do not by themselves."""
    name = model.default_prompt_name
    return None if name is None else str(model.prompts[name])


def _selection(figures: Mapping[str, float], primary: str) -> float:
    """The primary figure; a smaller error decides between checkpoints that rank alike."""
    errors = [min(figures[name], 10.0) for name in ("log_loss", "mse") if name in figures]
    return figures[primary] - 1e-3 * sum(errors)


def _evaluator(figures: Figures, primary: str) -> Any:
    from sentence_transformers.base.evaluation import BaseEvaluator

    class OnDev(BaseEvaluator):
        """Measure the development part; the trainer adds ``eval_`` to the names."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.primary_metric = _SELECTION

        def __call__(self, *_: Any, **__: Any) -> dict[str, float]:
            measured = dict(figures())
            return {**measured, _SELECTION: _selection(measured, primary)}

    return OnDev()


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into a request to stop; a second one acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    usual = {number: signal.getsignal(number) for number in numbers}

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, usual[signal.Signals(number)])
        _log.warning("training.stopping", reason=signal.Signals(number).name)

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number in numbers:
            signal.signal(number, usual[number])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the trainers say about themselves, not what they say about the data."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        yield


def _refuse_unfinished(trainer: Any, folder: Path, *, interrupted: bool) -> None:
    state = trainer.state
    losses = (entry.get("loss", 0.0) for entry in state.log_history)
    if not all(map(math.isfinite, losses)) or not _finite(trainer.model):
        raise ModelError(BROKEN)
    if state.global_step < state.max_steps:
        raise TrainingStopped(
            f"training stopped at step {state.global_step} of {state.max_steps}; "
            f"go on with --resume (checkpoint in {folder})",
            interrupted=interrupted,
        )


def _finite(model: Any) -> bool:
    """Whether every trained number is one: what is NaN at the end need not show in the losses."""
    trained = (weight for weight in model.parameters() if weight.requires_grad)
    return all(bool(weight.isfinite().all()) for weight in trained)


def _kept_step(trainer: Any) -> int:
    best = trainer.state.best_model_checkpoint
    if best is None or not trainer.args.load_best_model_at_end:
        return int(trainer.state.global_step)
    load_trained(trainer.model, Path(best))  # the trainer only logs it if this fails
    return int(best.rpartition("-")[2])


def _losses(history: list[dict[str, float]]) -> tuple[LossPoint, ...]:
    return tuple(LossPoint(int(e["step"]), float(e["loss"])) for e in history if "loss" in e)


def _evaluations(
    history: list[dict[str, float]], names: Mapping[str, float]
) -> Iterator[Evaluation]:
    for entry in history:
        figures = {name: entry[f"eval_{name}"] for name in names if f"eval_{name}" in entry}
        if figures:
            yield Evaluation(int(entry["step"]), figures)
