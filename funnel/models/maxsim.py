"""MaxSim: how well each token of a query finds a counterpart in a document (ColBERT)."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


def maxsim(
    query: "FloatArray", documents: "Sequence[FloatArray]", weights: "FloatArray | None" = None
) -> "FloatArray":
    """The mean over the query's tokens of the highest cosine with any token of the document.

    Args:
        query: unit token vectors (tokens, dim).
        documents: for each document its unit token vectors (tokens, dim); none may be empty.
        weights: of the query's tokens in the mean, (tokens,), not all zero; equal if not given.

    Returns:
        One value in [-1, 1] for each document, float32 (n,).
    """
    if not documents:
        return np.empty(0, np.float32)
    # One product for all documents, then the highest value within each document's columns.
    columns = np.concatenate([np.asarray(each, np.float32) for each in documents])
    lengths = [len(each) for each in documents]
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    best = np.maximum.reduceat(np.asarray(query, np.float32) @ columns.T, starts, axis=1)
    return np.average(best, axis=0, weights=weights).astype(np.float32)
