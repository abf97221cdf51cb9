"""Fine-tune a cross-encoder from labelled pairs (bce) or a teacher's soft scores (mse)."""

from collections.abc import Sequence

from funnel.models.source import ModelName
from funnel.training.exports import Form
from funnel.training.losses import PairLoss, ScoreScale
from funnel.training.pair_training import PairTask, train_pairs
from funnel.training.records import LabelledPair
from funnel.training.report import TrainReport
from funnel.training.settings import RunOptions, TrainSettings


def train_cross_encoder(
    pairs: Sequence[LabelledPair],
    options: RunOptions,
    *,
    base: ModelName = "embedded:duplicate",
    loss: PairLoss = "bce",
    scale: ScoreScale = "probability",
    residual: bool = False,
    form: Form = "auto",
    settings: TrainSettings | None = None,
    dev: Sequence[LabelledPair] | None = None,
) -> TrainReport:
    """Teach a cross-encoder which documents answer which queries.

    ``loss="bce"`` learns from labels within [0, 1]; ``loss="mse"`` imitates a teacher, whose
    scores are probabilities or, with ``scale="logit"``, raw logits. The default base is the
    shipped model that reads pairs: where a hub can be reached, name one trained on relevance.

    Raises:
        InputError: the data cannot be trained on.
        ConfigError: an option cannot be honoured here.
        ModelError: the base cannot be loaded or the result cannot be saved.
        TrainingStopped: interrupted; resume with ``RunOptions(resume=True)``.
    """
    title = "cross-encoder" if loss == "bce" else "cross-encoder distilled from soft scores"
    task = PairTask(title=title, loss=loss, scale=scale, residual=residual, form=form)
    return train_pairs(pairs, task, base, settings or TrainSettings(), options, dev)
