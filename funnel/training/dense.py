"""The fixed part of a residual model's score: what the base's own vectors say of a pair.

Plain fine-tuning on little data destroys what a bi-encoder knows. A residual starts from that
knowledge: ``cross × logit + cosine × cos + maxsim × MaxSim + bias``, where only the cross-encoder
is trained and the rest stands from the first step. A combination with a ceiling keeps it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from funnel.models.adapters import Adapter, BaseModel, Combination, level_off

if TYPE_CHECKING:
    from funnel.models.adapters import Weights
    from funnel.models.source import ModelSource

Texts = tuple[str, str]
Floats = NDArray[np.float64]
_RIDGE = 1e-3
_LONGEST_STEP = 5.0


@dataclass(frozen=True, slots=True)
class FixedPart:
    """What of n pairs' scores is not trained, both of shape (n,).

    ``offsets`` are added to the logits; these level off at ``ceilings``, if there are any.
    """

    weight: float
    offsets: Floats
    ceilings: Floats | None = None

    def scores(self, cross: Floats) -> Floats:
        """The scores as they will be served, shape (n,), from the cross-encoder's logits."""
        levelled = cross if self.ceilings is None else level_off(cross, self.ceilings)
        return np.asarray(self.weight * levelled + self.offsets)

    def labels(self, targets: Sequence[float]) -> list[list[float]]:
        """``[target, offset]`` or ``[target, offset, ceiling]`` for each pair."""
        columns = [np.asarray(targets, np.float64), self.offsets]
        columns += [] if self.ceilings is None else [self.ceilings]
        return [[float(value) for value in row] for row in zip(*columns, strict=True)]


@dataclass(frozen=True, slots=True)
class DensePart:
    """The base encoder and how its similarities enter the score.

    ``fixed`` are an adapter's tensors that belong to them, see :attr:`Adapter.fixed`.
    """

    combine: Combination
    base: BaseModel
    source: "ModelSource"
    max_tokens: int
    fixed: "Weights" = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """What the cross-encoder's logit is multiplied by."""
        return self.combine.cross

    def uncapped(self) -> "DensePart":
        """The same with a cross-encoder that may add as much as it takes away.

        Far below its ceiling a score stays what it is.
        """
        old = self.combine
        if old.ceiling is None:
            return self
        bias = old.bias - old.cross * old.ceiling
        tuned = old.tuned - old.cross * old.slope
        free = replace(old, ceiling=None, slope=0.0, tuned=tuned, bias=bias)
        return replace(self, combine=free)

    def of(self, texts: Sequence[Texts]) -> FixedPart:
        """The part of each pair's score that is not trained."""
        return FixedPart(self.weight, self._offsets(texts), self._ceilings(texts))

    def _ceilings(self, texts: Sequence[Texts]) -> Floats | None:
        ceilings = self.combine.ceilings(self._tuned(texts))
        return None if ceilings is None else np.broadcast_to(ceilings, (len(texts),))

    def _tuned(self, texts: Sequence[Texts]) -> Floats | None:
        """The tuned encoder's cosines, if the ceiling depends on them."""
        return (
            self._logits(Combination(cross=0.0, tuned=1.0), texts) if self.combine.slope else None
        )

    def _offsets(self, texts: Sequence[Texts]) -> Floats:
        fixed = replace(self.combine, cross=0.0)
        if not (fixed.cosine or fixed.maxsim or fixed.tuned):
            return np.full(len(texts), fixed.bias)
        return self._logits(fixed, texts)

    def fitted(
        self, texts: Sequence[Texts], targets: Sequence[float], cross: Floats | None
    ) -> "DensePart":
        """The same with its weights fitted to targets within [0, 1] by logistic regression.

        Parts that an adapter does without stay out; a fresh residual has the base's similarities.
        ``cross`` holds the logits of a cross-encoder that was trained before, shape (n,); its
        weight stays.
        """
        old = self.combine
        fresh = not (old.cosine or old.maxsim or old.tuned)
        names = [name for name in ("cosine", "maxsim") if fresh or getattr(old, name)]
        names += ["tuned"] if old.tuned else []
        nothing = Combination(cross=0.0)
        columns = [self._logits(_reweighted(nothing, {name: 1.0}), texts) for name in names]
        start = np.array([getattr(old, name) for name in (*names, "bias")])
        known = np.zeros(len(texts))
        if cross is not None:
            known = old.cross * old.levelled(cross, self._tuned(texts))
        weights = logistic_weights(np.stack(columns, axis=1), np.asarray(targets), start, known)
        fitted = dict(zip((*names, "bias"), weights, strict=True))
        return replace(self, combine=_reweighted(old, fitted))

    def _logits(self, combine: Combination, texts: Sequence[Texts]) -> Floats:
        from funnel.models.backends import Choice
        from funnel.models.cross_networks import pair_tokenizer
        from funnel.models.pair_models import CombinedPairs

        adapter = Adapter("dense", self.base, 1, 1.0, self.max_tokens, self.fixed, combine)
        tokenizer = pair_tokenizer(self.source.folder, self.max_tokens)
        pairs = CombinedPairs(adapter, self.source, tokenizer, None, Choice("none"))
        return np.asarray(pairs.run(pairs.prepare(list(texts))), np.float64)


def logistic_weights(
    features: Floats, targets: Floats, start: Floats, known: Floats
) -> list[float]:
    """Weights of shape (m + 1,), the bias last: Newton's method, with a ridge towards ``start``.

    ``features`` has shape (n, m); ``targets`` within [0, 1] and ``known``, the part of each logit
    that is not fitted, have shape (n,).
    """
    columns = np.hstack([features, np.ones((len(features), 1))])
    weights = start.astype(np.float64)
    ridge = _RIDGE * np.eye(columns.shape[1])
    for _ in range(50):
        chances = 1.0 / (1.0 + np.exp(-np.clip(columns @ weights + known, -30, 30)))
        gradient = columns.T @ (chances - targets) / len(targets) + ridge @ (weights - start)
        curvature = (columns.T * (chances * (1 - chances))) @ columns / len(targets) + ridge
        step = np.linalg.solve(curvature, gradient)
        weights -= step / max(1.0, float(np.abs(step).max()) / _LONGEST_STEP)
        if np.abs(step).max() < 1e-8:
            break
    return [float(weight) for weight in weights]


def _reweighted(combine: Combination, weights: Mapping[str, Any]) -> Combination:
    """The combination with some of its weights, by name, set to others."""
    return replace(combine, **weights)
