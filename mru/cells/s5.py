"""S5, the simplified state-space layer."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mru.cells.base import ScanCell, StateParam
from mru.cells.lru import complex_in, real_out
from mru.operators import Affine


def hippo_normal(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (size,) and unitary eigenvectors (size, size) of the normal part of HiPPO-LegS, complex128.

    A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, 0 above; with P_n = sqrt(n + 1/2), S = A + P P^T is a
    skew-symmetric matrix minus 1/2, hence normal. The eigenvalues come sorted by imaginary part, so the second half has
    the positive ones.
    """
    scale = np.sqrt(2 * np.arange(size) + 1.0)
    a = -np.tril(np.outer(scale, scale), -1) - np.diag(np.arange(size) + 1.0)
    s = a + np.outer(scale, scale) / 2
    # -i times the skew part is Hermitian: its eigenvalues are real and its eigenvectors orthonormal to rounding.
    imaginary, vectors = np.linalg.eigh(-1j * (s + np.eye(size) / 2))
    return -0.5 + 1j * imaginary, vectors


class S5(ScanCell, name="s5"):
    """h' = Lambda h + B x, y = 2 Re(C h) + d x: a diagonal state-space model of all features, discretised.

    Lambda starts as the eigenvalues of `blocks` copies of HiPPO-LegS's normal part, of which one of each conjugate pair
    is kept (`conjugate_symmetry`), B = V^-1 B', C = C' V; log step is uniform between log step_min and log step_max.
    With zero-order hold a = exp(Lambda step) and b = Lambda^-1 (a - 1) B x; bilinear, with u = Lambda step / 2, a = (1
    + u) / (1 - u) and b = step / (1 - u) B x. The real part of Lambda is kept below -1e-4, so that training can not
    make the recurrence unstable. Bidirectional: `mru.cells.Bidirectional`.

    Source: Smith, Warrington, Linderman 2022, arXiv 2208.04933. The distributions of B' and C' are not settled by our
    notes; ours are normal with variance 1/D and 1/N.
    """

    def __init__(
        self,
        features,
        state_size,
        *,
        blocks=1,
        discretization="zoh",
        conjugate_symmetry=True,
        step_min=0.001,
        step_max=0.1,
        learn_initial_state=False,
        method="auto",
        dtype=None,
        rngs,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N. With conjugate symmetry the carried state has N / 2 complex channels.
            blocks: J, number of HiPPO blocks that N is divided into.
            discretization: "zoh" or "bilinear".
            conjugate_symmetry: Keep one eigenvalue of each conjugate pair.
            step_min: Smallest step at the start.
            step_max: Largest step at the start.
            learn_initial_state: Learn it, from zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters.
        """
        if discretization not in ("zoh", "bilinear"):
            raise ValueError(f"S5 discretization must be 'zoh' or 'bilinear', got {discretization!r}")
        if not 0 < step_min <= step_max:
            raise ValueError(f"S5 needs 0 < step_min <= step_max, got step_min {step_min} and step_max {step_max}")
        pairs = 2 if conjugate_symmetry else 1
        if blocks < 1 or state_size % (pairs * blocks):
            raise ValueError(f"S5 state_size must be a multiple of {pairs} x {blocks} blocks, got {state_size}")
        channels = state_size // pairs
        super().__init__(
            features,
            state_size,
            learn_initial_state=learn_initial_state,
            state_dtype=jnp.complex64,
            channels=channels,
            method=method,
        )
        size = state_size // blocks
        values, vectors = hippo_normal(size)
        values, vectors = values[size - size // pairs :], vectors[:, size - size // pairs :]
        b = jax.random.normal(rngs.params(), (blocks, size, features)) / math.sqrt(features)
        c = jax.random.normal(rngs.params(), (features, blocks, size, 2)) * math.sqrt(0.5 / state_size)
        b = jnp.einsum("nk,jnd->djk", vectors.conj(), b).reshape(features, channels)
        c = jnp.einsum("djn,nk->jkd", jax.lax.complex(c[..., 0], c[..., 1]), vectors).reshape(channels, features)
        self.lambda_real = StateParam(jnp.tile(jnp.asarray(values.real, jnp.float32), blocks))
        self.lambda_imag = StateParam(jnp.tile(jnp.asarray(values.imag, jnp.float32), blocks))
        self.b = StateParam(jnp.stack([b.real, b.imag], 1))
        self.c = nnx.Param(jnp.stack([c.real, c.imag]))
        self.d = nnx.Param(jax.random.normal(rngs.params(), (features,)))
        self.log_step = StateParam(
            jax.random.uniform(rngs.params(), (channels,), minval=math.log(step_min), maxval=math.log(step_max))
        )
        self.discretization = discretization
        self.readout_scale = float(pairs)
        self.dtype = dtype

    def discretize(self):
        """The coefficient a and the input scale s of h -> a h + s (B x), complex (N,) each."""
        lam = jax.lax.complex(jnp.minimum(self.lambda_real[...], -1e-4), self.lambda_imag[...])
        dt = jnp.exp(self.log_step[...])
        if self.discretization == "bilinear":
            half = lam * dt / 2
            return (1 + half) / (1 - half), dt / (1 - half)
        a = jnp.exp(lam * dt)
        return a, jnp.expm1(lam * dt) / lam

    def operator(self, x):
        """h -> a h + s (B x), a constant in time."""
        a, scale = self.discretize()
        return Affine(a, scale * complex_in(x, self.b[...], self.dtype))

    def readout(self, h, x):
        """2 Re(C h) + d x, or Re(C h) + d x without conjugate symmetry."""
        return self.readout_scale * real_out(h, self.c[...], self.dtype) + self.d[...] * x
