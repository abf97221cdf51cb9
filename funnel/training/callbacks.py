"""What hooks into the trainers: reports to the bar and the log, and a clean early end."""
# ruff: noqa: ARG002  (the arguments are the trainer's)

import threading
from typing import TYPE_CHECKING, Any

from funnel.log import get_logger

if TYPE_CHECKING:
    from rich.progress import Progress
    from transformers import TrainerCallback

_log = get_logger(__name__)
_WORTH_SHOWING = frozenset({"auc", "ap", "spearman", "pair_accuracy", "mse"})


def progress_callback(progress: "Progress") -> "TrainerCallback":
    """Feed the bar and the log from the trainer's events."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        """One bar per run; its text shows the latest loss and development figures."""

        def __init__(self) -> None:
            self.task: Any = None
            self.news: dict[str, float] = {}

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.task = progress.add_task(
                "train", total=state.max_steps, completed=state.global_step, news=""
            )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.update(self.task, completed=state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs = kwargs["logs"]
            self._tell(state.global_step, {"loss": logs["loss"]} if "loss" in logs else {})

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            figures = {name.removeprefix("eval_"): v for name, v in kwargs["metrics"].items()}
            self._tell(state.global_step, {k: v for k, v in figures.items() if k in _WORTH_SHOWING})

        def _tell(self, step: int, figures: dict[str, float]) -> None:
            if not figures:
                return
            self.news.update(figures)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in self.news.items())
            progress.update(self.task, news=shown)
            _log.debug("training.progress", step=step, **figures)

    return Reporter()


def stop_callback(stop: threading.Event, max_steps: int | None) -> "TrainerCallback":
    """End between two steps, with a checkpoint, when ``stop`` is set or at ``max_steps``."""
    from transformers import TrainerCallback

    class Stopper(TrainerCallback):
        """Asks the trainer to save and stop."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if stop.is_set() or (max_steps is not None and state.global_step >= max_steps):
                control.should_save = True
                control.should_training_stop = True

    return Stopper()
