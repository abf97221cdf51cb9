"""Losses on pairs: the library's own, and one for models that learn a residual."""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

PairLoss = Literal["bce", "mse"]
ScoreScale = Literal["probability", "logit"]


def pair_loss(
    model: Any,
    loss: PairLoss,
    *,
    scale: ScoreScale,
    residual_weight: float | None,
) -> "nn.Module":
    """Binary cross-entropy on labels, or mean squared error on a teacher's scores.

    With ``scale="probability"`` the squared error is taken after a sigmoid. ``residual_weight``
    is None for a plain cross-encoder; otherwise labels are those of
    :class:`funnel.training.dense.FixedPart`, and the loss is taken on the score that will be
    served (of a base that scores both orders: in the order that is trained).
    """
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, MSELoss
    from torch import nn

    activation = nn.Sigmoid() if loss == "mse" and scale == "probability" else nn.Identity()
    if residual_weight is not None:
        criterion = nn.BCEWithLogitsLoss() if loss == "bce" else nn.MSELoss()
        return _residual_loss(model, criterion, activation, residual_weight)
    if loss == "bce":
        return BinaryCrossEntropyLoss(model)
    return MSELoss(model, activation_fn=activation)


def _residual_loss(
    model: Any,
    criterion: "nn.Module",
    activation: "nn.Module",
    weight: float,
) -> "nn.Module":
    import torch
    from sentence_transformers.util import batch_to_device
    from torch import nn

    class ResidualLoss(nn.Module):
        """Loss of a score whose dense part is fixed, so only the rest is learned."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            inputs: list[list[str]],
            labels: list[torch.Tensor],
            prompt: str | None = None,
            task: str | None = None,
        ) -> torch.Tensor:
            """Mean loss of a batch; each label is ``[target, offset]``, perhaps a ceiling too."""
            targets, offsets, *ceilings = torch.stack(list(labels)).float().unbind(dim=1)
            pairs = list(zip(*inputs, strict=True))
            features = batch_to_device(
                self.model.preprocess(pairs, prompt=prompt, task=task), self.model.device
            )
            logits = self.model(features)["scores"].view(-1).float()
            for ceiling in ceilings:
                logits = -nn.functional.softplus(ceiling - logits)
            loss: torch.Tensor = criterion(activation(weight * logits + offsets), targets)
            return loss

    return ResidualLoss()
