"""Fine-tune the paraphrase detector: do two questions ask the same?"""

from collections.abc import Sequence

from funnel.models.source import ModelName
from funnel.training.exports import Form
from funnel.training.pair_training import PairTask, train_pairs
from funnel.training.records import LabelledPair
from funnel.training.report import TrainReport
from funnel.training.settings import RunOptions, TrainSettings


def train_duplicate(
    pairs: Sequence[LabelledPair],
    options: RunOptions,
    *,
    base: ModelName = "embedded:duplicate",
    residual: bool = False,
    form: Form = "auto",
    settings: TrainSettings | None = None,
    dev: Sequence[LabelledPair] | None = None,
) -> TrainReport:
    """Teach the cache's verifier what your users mean by the same question.

    Both orders of every pair are trained on. The development part shares no question with the
    training part; its figures are what a cache lives from: recall at 1% false positives and at
    95% and 99% precision.

    Raises:
        InputError: the data cannot be trained on.
        ConfigError: an option cannot be honoured here.
        ModelError: the base cannot be loaded or the result cannot be saved.
        TrainingStopped: interrupted; resume with ``RunOptions(resume=True)``.
    """
    task = PairTask(
        title="duplicate detector", loss="bce", symmetric=True, residual=residual, form=form
    )
    return train_pairs(pairs, task, base, settings or TrainSettings(), options, dev)
