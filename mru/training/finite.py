"""Whether numbers are finite, at the speed of memory: a run asks it of every batch and of all that it saves."""

from __future__ import annotations

import numpy as np


def all_finite(x: np.ndarray) -> bool:
    """Whether an array has neither infinities nor NaN; one of integers never has."""
    if x.dtype in (np.float32, np.float64):
        # One pass of BLAS. It is infinite or NaN if a number is, but also if the squares are too large.
        if np.isfinite(np.vdot(x, x)):
            return True
    elif np.issubdtype(x.dtype, np.integer) or x.dtype == bool:
        return True
    return bool(np.all(np.isfinite(x)))
