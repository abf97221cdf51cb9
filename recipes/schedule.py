"""One optimisation loop for both recipes: AdamW, a clock or a number of steps, checkpoints."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors.torch import save_file

from recipes.bert import Trunk

_log = structlog.get_logger(__name__)
_LAST_RATE = 0.02  # share of the learning rate that the end still has
_AVERAGED = 0.02


@dataclass(frozen=True)
class Schedule:
    """When to stop and how fast to learn.

    Training ends after ``minutes``; the learning rate falls linearly over that time, so that a
    slow or busy machine gets fewer steps and the same curve. ``steps`` counts instead, where a
    run must be repeatable.
    """

    minutes: float
    rate: float
    warmup: int
    steps: int | None = None
    report_every: int = 50
    check_every: int = 600

    def progress(self, started: float, step: int) -> float:
        """Share of the training that is over, from 0 up."""
        if self.steps is not None:
            return step / self.steps
        return (time.monotonic() - started) / (60 * self.minutes)

    def learning_rate(self, progress: float, step: int) -> float:
        """Linear warm-up over ``warmup`` steps, then linear decay."""
        return self.rate * min(1.0, (step + 1) / self.warmup) * max(_LAST_RATE, 1 - progress)


def train(
    network: Trunk,
    batches: Iterator[Any],
    loss_of: Callable[[Any], torch.Tensor],
    schedule: Schedule,
    *,
    check: Callable[[], object],
    checkpoint: Path,
) -> int:
    """Train in place; ``check`` reports now and then. Returns the number of steps.

    Weights are written to ``checkpoint`` at every check, so that a killed run loses little.
    """
    optimiser = torch.optim.AdamW(_groups(network), schedule.rate, betas=(0.9, 0.98), fused=True)
    started, step, mean = time.monotonic(), 0, None
    network.train()
    for batch in batches:
        progress = schedule.progress(started, step)
        if progress >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate(progress, step)
        loss = _step(network, loss_of(batch), optimiser)
        mean = loss if mean is None else mean + _AVERAGED * (loss - mean)
        step += 1
        if step % schedule.report_every == 0:
            seconds = round(time.monotonic() - started)
            _log.info("training", step=step, loss=round(mean, 4), seconds=seconds)
        if step % schedule.check_every == 0:
            network.eval()
            check()
            network.train()
            save_file(network.weights(), checkpoint)
    network.eval()
    save_file(network.weights(), checkpoint)
    return step


def _step(network: Any, loss: torch.Tensor, optimiser: torch.optim.Optimizer) -> float:
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return float(loss.detach())


def _groups(network: Any) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for biases and norms."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [each for each in learning if each.dim() > 1], "weight_decay": 0.01},
        {"params": [each for each in learning if each.dim() < 2], "weight_decay": 0.0},
    ]
