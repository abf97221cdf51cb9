"""Settings of one training run, checked when they are made."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Literal, get_args

from funnel.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
MIN_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How to train; what is trained and on what is the business of each command.

    ``dev_share`` of the examples is held out (by query) for evaluation during training, which
    happens ``evaluations`` times; checkpoints are written as often. ``lora_rank`` switches from
    full fine-tuning to low-rank adapters of that rank. ``warmup`` is a share of all steps.
    ``max_steps`` stops early on purpose (the run can be resumed); None trains to the end.
    """

    epochs: float = 3.0
    batch_size: int = 16
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_tokens: int = 256
    seed: int = 13
    device: Device = "auto"
    precision: Precision = "auto"
    dev_share: float = 0.1
    evaluations: int = 4
    lora_rank: int | None = None
    keep_best: bool = True
    min_rows: int = MIN_ROWS
    max_steps: int | None = None

    def __post_init__(self) -> None:
        check_choice("device", self.device, get_args(Device))
        check_choice("precision", self.precision, get_args(Precision))
        _positive("epochs", self.epochs)
        _positive("batch_size", self.batch_size)
        _positive("learning_rate", self.learning_rate)
        _positive("evaluations", self.evaluations)
        _share("warmup", self.warmup)
        _share("dev_share", self.dev_share)
        if self.max_tokens < 8:
            raise ConfigError(f"max_tokens is {self.max_tokens}, expected at least 8")
        if not 0 <= self.seed <= _LAST_SEED:
            raise ConfigError(f"seed is {self.seed}, expected 0 to {_LAST_SEED}")
        if self.lora_rank is not None:
            _positive("lora_rank", self.lora_rank)

    def identity(self) -> dict[str, object]:
        """The settings that decide the result: a resumed run must have the same ones."""
        return {name: value for name, value in asdict(self).items() if name not in _HARMLESS}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where the result goes, and whether to go on with an earlier run or to replace it.

    ``output`` may be given as a string, too. ``data_name`` is how the model card names the data.
    """

    output: Path
    resume: bool = False
    overwrite: bool = False
    keep_checkpoints: bool = False
    data_name: str = "rows given by the program"

    def __post_init__(self) -> None:
        given: object = self.output
        if not isinstance(given, str | os.PathLike) or not os.fspath(given):
            raise ConfigError(f"output is {given!r:.80}, expected the path of a directory to write")
        object.__setattr__(self, "output", Path(given))


_HARMLESS = frozenset({"max_steps", "min_rows"})
_LAST_SEED = 2**32 - 1  # NumPy's generator takes no other


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a mistyped choice, which would otherwise be taken for the default.

    Raises:
        ConfigError: it is none of those known.
    """
    if value not in known:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(known)}")


def _positive(name: str, value: float) -> None:
    if not 0 < value < inf:
        raise ConfigError(f"{name} is {value}, expected a finite number of more than 0")


def _share(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise ConfigError(f"{name} is {value}, expected a share from 0 up to but not 1")
