"""Where and for how long is trained, and the loop that does it.

Steps are counted and the learning rate falls with them, so that a run takes the same steps over the
same pairs on any device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

_LAST_RATE = 0.02  # share of the learning rate that the end still has
_REPORT_EVERY = 500
_WAIT_EVERY = 25
"""Steps: a queue of kernels that grows without end holds their memory."""


class Log(Protocol):
    """How structlog's loggers are called; the accelerator may have no structlog."""

    def __call__(self, event: str, /, **values: object) -> object:
        """Say what happened."""


@dataclass(frozen=True)
class Plan:
    """How much is done: steps of each training, and mined pairs that teachers read.

    The defaults are what made the shipped model, ten minutes on an accelerator.
    """

    bi_encoder: int = 1_466
    cross_encoder: int = 1_326
    mined: int = 1_376_256
    student: int = 9_463
    encoder: int = 3_160

    def scaled(self, share: float) -> "Plan":
        """A share of everything, at least one of each."""
        return Plan(**{name: max(1, round(share * count)) for name, count in vars(self).items()})


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over ``warmup`` steps, linear decay to almost none over ``steps``."""

    steps: int
    rate: float
    warmup: int

    def learning_rate(self, step: int) -> float:
        """Of the step with this number, the first being 0."""
        left = max(_LAST_RATE, 1 - step / self.steps)
        return self.rate * min(1.0, (step + 1) / self.warmup) * left


@dataclass(frozen=True)
class Device:
    """Where the work is done."""

    name: str

    def autocast(self) -> torch.autocast:
        """bfloat16 products where there is an accelerator."""
        return torch.autocast(self.name, torch.bfloat16, enabled=self.name != "cpu")

    def wait(self) -> None:
        """Until everything asked for is done."""
        if self.name == "cuda":
            torch.cuda.synchronize()


def device_named(name: str | None) -> Device:
    """The one asked for; CUDA if none was.

    Raises:
        SystemExit: none was asked for and there is no CUDA, or what was asked for is missing.
    """
    if name == "cpu" or torch.cuda.is_available():
        return Device(name or "cuda")
    raise SystemExit(
        "no CUDA device here; teachers and students take ten minutes on an accelerator, days on "
        "CPUs (--device cpu, if you mean it). To use another machine's: make the folder here "
        "(python -m recipes --only prepare …), carry it and the folder recipes/ to where torch, "
        "numpy and safetensors are, run python -m recipes.distil --input FOLDER --out FOLDER there "
        "and put the two .safetensors files that it writes into the --scratch folder here"
    )


def optimise(
    network: nn.Module,
    losses: Iterator[Tensor],
    schedule: Schedule,
    device: Device,
    log: Log,
    name: str,
) -> None:
    """Take the schedule's steps; ``losses`` computes the next loss when asked for it."""
    learning = [each for each in network.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(_groups(learning), schedule.rate, betas=(0.9, 0.98), fused=True)
    network.train()
    seen: list[Tensor] = []
    for step, loss in enumerate(islice(losses, schedule.steps)):
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate(step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seen.append(loss.detach())
        if (step + 1) % _WAIT_EVERY == 0:
            device.wait()
        if (step + 1) % _REPORT_EVERY == 0:
            log("training", network=name, step=step + 1, loss=_mean(seen[-_REPORT_EVERY:]))
    network.eval()
    log("trained", network=name, steps=schedule.steps, loss=_mean(seen[-200:]))


def _groups(learning: list[nn.Parameter]) -> list[dict[str, object]]:
    """Weight decay for matrices, none for biases and norms."""
    return [
        {"params": [each for each in learning if each.dim() > 1], "weight_decay": 0.01},
        {"params": [each for each in learning if each.dim() < 2], "weight_decay": 0.0},
    ]


def _mean(losses: list[Tensor]) -> float:
    return round(float(torch.stack(losses).mean()), 4) if losses else math.nan
