"""What all phases share: the data, both models, the device, one stream of random numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from recipes.distil.batches import Texts
from recipes.distil.networks import BERT, MPNET, Trunk, Weights
from recipes.distil.prepared import Prepared, read_models
from recipes.distil.training import Device, Log, Plan

SEED: Final = 5
WINDOW: Final = 48
"""Most word pieces of a text."""
_HEADS = 12


@dataclass(frozen=True)
class Setting:
    """Random numbers are drawn by one phase after another, so their order is a part of the run."""

    data: Prepared
    texts: Texts
    base: Weights
    large: Weights
    device: Device
    plan: Plan
    rng: np.random.Generator
    log: Log

    @classmethod
    def read(cls, folder: Path, device: Device, plan: Plan, log: Log) -> "Setting":
        """From the folder that ``recipes/gather.py`` made."""
        data = Prepared.load(folder)
        texts = Texts.of(data.flat, data.sizes, WINDOW, device.name)
        rng = np.random.default_rng(SEED)
        return cls(data, texts, *read_models(folder), device, plan, rng, log)

    def student(self, dropout: float) -> Trunk:
        """The small model, as it was published."""
        return Trunk(self.base, BERT, heads=_HEADS, dropout=dropout).to(self.device.name)

    def teacher(self, dropout: float) -> Trunk:
        """The large one."""
        return Trunk(self.large, MPNET, heads=_HEADS, dropout=dropout).to(self.device.name)
