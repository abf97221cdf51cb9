"""Logistic regression of a few features, by Newton's method: small enough to need no library."""

import numpy as np
from numpy.typing import ArrayLike

_STEPS = 25
_RIDGE = 1e-6


def logistic_regression(
    inputs: ArrayLike, labels: ArrayLike, known: ArrayLike = 0.0
) -> tuple[list[float], float]:
    """Weights and bias that make ``inputs @ weights + bias + known`` the log-odds of the labels.

    Args:
        inputs: features, shape (n, features).
        labels: probabilities, shape (n,).
        known: the part of each logit that is not fitted, shape (n,).
    """
    features = np.asarray(inputs, dtype=np.float64)
    given = np.asarray(known, dtype=np.float64)
    wanted = np.asarray(labels, dtype=np.float64)
    design = np.column_stack([features, np.ones(len(features))])
    solution = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ solution + given, -30, 30)))
        curvature = design.T @ (design * (chance * (1 - chance))[:, None])
        curvature += _RIDGE * np.eye(len(solution))
        solution += np.linalg.solve(curvature, design.T @ (wanted - chance))
    *weights, bias = map(float, solution)
    return weights, bias
