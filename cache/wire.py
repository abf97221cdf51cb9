"""Query vectors as bytes, for stores outside this process's memory."""

import numpy as np

from funnel.cache.nearest import unit_vector
from funnel.cache.rows import Vector

_WIRE = np.dtype("<f2")


def to_wire(vector: Vector | None) -> bytes:
    """Half precision, little endian: 2 bytes a number, cosines within 1e-3. Empty for None.

    Raises:
        CacheError: the vector is not finite or is zero.
    """
    return b"" if vector is None else unit_vector(vector).astype(_WIRE).tobytes()


def from_wire(raw: bytes | None) -> Vector | None:
    """The vector, or None where there is none or it cannot be one."""
    if not raw or len(raw) % _WIRE.itemsize:
        return None
    return np.frombuffer(raw, dtype=_WIRE).astype(np.float32)
