"""Loops ruled by a clock, and passes over many texts or pairs without gradients."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.distil.batches import Ints, Texts, by_length, rounded
from recipes.distil.networks import Cross, Twin

Floats = NDArray[np.float32]
_LAST_RATE = 0.02


@dataclass
class Device:
    """Where the work is done, and how much of everything is left for a trial run."""

    name: str
    tiny: bool = False

    def autocast(self) -> torch.autocast:
        """bfloat16 products where there is an accelerator."""
        return torch.autocast(self.name, torch.bfloat16, enabled=self.name != "cpu")

    def batch(self, size: int) -> int:
        return min(size, 16) if self.tiny else size

    def wait(self) -> None:
        if self.name == "cuda":
            torch.cuda.synchronize()


@dataclass
class Clock:
    """Learning rate by the share of the seconds that are over: warm-up, then down to almost none."""

    seconds: float
    rate: float
    warmup: int
    most_steps: int | None = None
    started: float = field(default_factory=time.monotonic)
    step: int = 0

    @property
    def progress(self) -> float:
        """Share of the training that is over, from 0 up."""
        by_time = (time.monotonic() - self.started) / self.seconds
        return max(by_time, self.step / self.most_steps) if self.most_steps else by_time

    @property
    def now(self) -> float:
        """Learning rate of the next step."""
        return self.rate * min(1.0, (self.step + 1) / self.warmup) * max(_LAST_RATE, 1 - self.progress)


def optimise(
    network: nn.Module, losses: Iterator[Tensor], clock: Clock, device: Device, name: str
) -> None:
    """Take steps until the clock ends; ``losses`` computes the next loss when asked for it."""
    learning = [each for each in network.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in learning if each.dim() > 1], "weight_decay": 0.01},
        {"params": [each for each in learning if each.dim() < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, clock.rate, betas=(0.9, 0.98), fused=True)
    network.train()
    mean: list[Tensor] = []
    for loss in losses:
        if clock.progress >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = clock.now
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        mean.append(loss.detach())
        clock.step += 1
        if clock.step % 25 == 0:
            device.wait()
        if clock.step % 500 == 0:
            value = float(torch.stack(mean[-500:]).mean())
            print(f"  {name} step {clock.step} loss {value:.4f} {clock.progress:.0%}", flush=True)
    network.eval()
    device.wait()
    loss = float(torch.stack(mean[-200:]).mean()) if mean else math.nan
    print(f"{name}: {clock.step} steps, loss {loss:.4f}", flush=True)


def rounds(
    draw: Callable[[], Ints], sizes: Callable[[Ints], Ints], batch: int, device: Device,
    rng: np.random.Generator,
) -> Iterator[tuple[Tensor, int]]:  # fmt: skip
    """Batches for ever of what ``draw`` gives for a round: (items on the device, longest size)."""
    while True:
        items = draw()
        there = torch.from_numpy(items).to(device.name)
        order = rng.permutation(len(items))
        for where, longest in by_length(sizes(items), batch, device.name, order, rng):
            yield there[where], longest


def pair_sizes(texts: Texts, first: Ints, second: Ints, between: int) -> Ints:
    """Tokens of each pair with its special ones."""
    return texts.sizes[first] + texts.sizes[second] + between + 2


@torch.no_grad()
def cross_logits(
    network: Cross, texts: Texts, first: Ints, second: Ints, between: int, device: Device,
    batch: int = 1024, seconds: float | None = None,
) -> Floats:  # fmt: skip
    """Logits of pairs, shape (n,); NaN for those that the seconds did not suffice for.

    With a limit the pairs are read in the order given, piece by piece.
    """
    out = np.full(len(first), np.nan, dtype=np.float32)
    one, two = (torch.from_numpy(each).to(device.name) for each in (first, second))
    sizes = pair_sizes(texts, first, second, between)
    started = time.monotonic()
    batch = device.batch(batch)
    piece = batch * 64
    for start in range(0, len(first), piece):
        if seconds is not None and time.monotonic() - started > seconds:
            break
        order = np.arange(start, min(start + piece, len(first)))
        found, places = [], []
        for where, longest in by_length(sizes, batch, device.name, order, None):
            with device.autocast():
                made = texts.pairs(one[where], two[where], rounded(longest), between)
                found.append(network(*made))
            places.append(where)
        out[torch.cat(places).cpu().numpy()] = torch.cat(found).cpu().numpy()
    return out


@torch.no_grad()
def vectors(network: Twin, texts: Texts, chosen: Ints, device: Device, batch: int = 2048) -> Tensor:
    """Unit vectors (n, width), float16, on the device."""
    out = torch.zeros(len(chosen), network.trunk.width, dtype=torch.half, device=device.name)
    ids = torch.from_numpy(chosen).to(device.name)
    sizes = texts.sizes[chosen] + 2
    for where, longest in by_length(
        sizes, device.batch(batch), device.name, np.arange(len(chosen)), None
    ):
        with device.autocast():
            out[where] = network(*texts.singles(ids[where], rounded(longest))).half()
    return out
