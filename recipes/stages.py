"""The runs that lead to ``embedded:duplicate``, in order; each starts from the mean of others.

A run leaves its weights in the scratch folder under its name and is not repeated while they lie
there: a chain that was stopped begins again with the run it was in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import structlog
import torch
from safetensors.torch import load_file
from torch import Tensor

from recipes import duplicate, twin
from recipes.bert import mean_weights, trunk_weights
from recipes.opened import Opened
from recipes.questions import Questions, extra_duplicates, read_questions
from recipes.schedule import Schedule
from recipes.written import FOLDER

_log = structlog.get_logger(__name__)
BASE = "base"
_WARMUP = 200
Kind = Literal["cross-encoder", "encoder"]


@dataclass(frozen=True)
class Stage:
    """One run: which network, from where, for how long, at which rate.

    ``later``: no first round over all kinds of pairs. ``caps``: of each kind in a round, or in
    the later ones; the network's usual ones if not given.
    """

    name: str
    network: Kind
    start: tuple[str, ...]
    minutes: float
    rate: float
    dropout: float
    later: bool = False
    caps: Mapping[str, int] | None = None


STAGES: Final = (
    Stage("first", "cross-encoder", (BASE,), 44, 1.2e-4, 0.0),
    Stage("second", "cross-encoder", ("first",), 28, 6e-5, 0.1, later=True),
    Stage("third", "cross-encoder", ("second",), 46, 1.2e-4, 0.1, later=True),
    Stage("encoder", "encoder", (BASE,), 58, 7e-5, 0.05),
    Stage("later-encoder", "encoder", ("encoder",), 27, 6e-5, 0.05),
    Stage(
        "fourth",
        "cross-encoder",
        ("first", "second", "third"),
        45,
        1.2e-4,
        0.1,
        later=True,
        caps=duplicate.MOSTLY_WRITTEN,
    ),
    Stage(
        "fifth",
        "cross-encoder",
        ("fourth",),
        55,
        1.2e-4,
        0.1,
        later=True,
        caps=duplicate.MOSTLY_WRITTEN,
    ),
    Stage(
        "last-encoder",
        "encoder",
        ("later-encoder",),
        25,
        7e-5,
        0.05,
        caps=twin.MOSTLY_WRITTEN,
    ),
)
SHIPPED: Final[dict[Kind, tuple[str, ...]]] = {
    "cross-encoder": ("first", "second", "third", "fifth", "fifth", "fifth"),
    "encoder": ("last-encoder", BASE),
}


class Chain:
    """Trains what is missing.

    ``share``: of every run's minutes; ``steps``: instead of minutes, for a repeatable chain.
    ``written``: the folder of written groups.
    """

    def __init__(
        self, opened: Opened, data: Path, scratch: Path, *, share: float, steps: int | None,
        written: Path = FOLDER,
    ) -> None:  # fmt: skip
        self._opened, self._data, self._scratch = opened, data, scratch
        self._share, self._steps, self._written = share, steps, written

    @cached_property
    def questions(self) -> Questions:
        """The pairs as their files label them."""
        return read_questions(self._data, self._opened.base, self._written)

    def run(self) -> None:
        """Train every stage that has left no weights yet, in order."""
        for stage in STAGES:
            left = self._left(stage.name)
            _log.info("run", name=stage.name, left=str(left) if left.exists() else None)
            if not left.exists():
                self._train(stage)

    def mean(self, kind: Kind, names: Sequence[str]) -> dict[str, Tensor]:
        """Mean weights of the runs that these names say."""
        found = [load_file(self._left(name)) for name in names]
        return mean_weights([trunk_weights(w) for w in found] if kind == "encoder" else found)

    def _left(self, name: str) -> Path:
        """Where a run leaves its weights."""
        return self._opened.weights if name == BASE else self._scratch / f"{name}.safetensors"

    def _train(self, stage: Stage) -> None:
        unfinished = self._scratch / f"{stage.name}.unfinished.safetensors"
        if stage.network == "encoder":
            self._train_encoder(stage, unfinished)
        else:
            self._train_cross(stage, unfinished)
        unfinished.rename(self._left(stage.name))

    def _train_cross(self, stage: Stage, unfinished: Path) -> None:
        torch.manual_seed(duplicate.SEED)
        network = self._opened.cross(self.mean(stage.network, stage.start), stage.dropout)
        trainer = duplicate.Trainer(network, self.questions, self._opened.words, self._opened.base)
        caps = stage.caps or duplicate.LATER_ROUNDS
        trainer.run(self._schedule(stage), unfinished, later=stage.later, caps=caps)

    def _train_encoder(self, stage: Stage, unfinished: Path) -> None:
        torch.manual_seed(twin.SEED)
        network = self._opened.encoder(self.mean(stage.network, stage.start), stage.dropout)
        extra = extra_duplicates(self._data)
        words, base = self._opened.words, self._opened.base
        trainer = twin.TwinTrainer(network, self.questions, extra, words, base)
        trainer.run(self._schedule(stage), unfinished, stage.caps or twin.CAPS)

    def _schedule(self, stage: Stage) -> Schedule:
        minutes = stage.minutes * self._share
        return Schedule(minutes, stage.rate, _WARMUP, steps=self._steps)
