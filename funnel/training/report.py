"""What a training run returns: figures, losses and where things are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LossPoint:
    """Mean training loss up to ``step`` since the point before."""

    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures on the development part at ``step`` (0: before training)."""

    step: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """A finished run.

    ``kept_step`` is the checkpoint that was kept (the best one on dev). ``fingerprint`` is a hash
    of data, base and settings: two runs with the same one should give the same model.
    """

    output: Path
    task: str
    base: str
    form: str
    data: str
    fingerprint: str
    rows: Mapping[str, int]
    steps: int
    kept_step: int
    seconds: float
    hardware: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    losses: tuple[LossPoint, ...]
    evaluations: tuple[Evaluation, ...]
    settings: Mapping[str, object]
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, object]:
        """Plain values for ``--json``."""
        return {**asdict(self), "output": str(self.output)}
