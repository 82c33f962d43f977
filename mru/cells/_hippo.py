"""HiPPO matrices, of which state-space models take their eigenvalues."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=1)  # the layers of a model ask for the same ones, one after the other
def hippo_normal(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (size,) and unitary eigenvectors (size, size) of the normal part of HiPPO-LegS, complex128.

    A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, 0 above; with P_n = sqrt(n + 1/2), S = A + P P^T is a
    skew-symmetric matrix minus 1/2, hence normal. The eigenvalues come sorted by imaginary part, so the second half has
    the positive ones. Both arrays are read-only.
    """
    scale = np.sqrt(2 * np.arange(size) + 1.0)
    a = -np.tril(np.outer(scale, scale), -1) - np.diag(np.arange(size) + 1.0)
    s = a + np.outer(scale, scale) / 2
    # -i times the skew part is Hermitian: its eigenvalues are real and its eigenvectors orthonormal to rounding.
    imaginary, vectors = np.linalg.eigh(-1j * (s + np.eye(size) / 2))
    values = -0.5 + 1j * imaginary
    for array in (values, vectors):
        array.flags.writeable = False
    return values, vectors
