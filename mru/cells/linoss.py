"""LinOSS, the linear oscillatory state-space model, with and without damping."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import StateParam, as_rngs
from mru.cells._linear import linear
from mru.cells._scan import ScanCell
from mru.operators import Operator, PairAffine
from mru.operators.base import State

DISCRETIZATIONS = ("im", "imex")


class LinOSS(ScanCell, name="linoss"):
    """Oscillators y'' = -A y + B x, one a channel, with output C y + d x; the state is the pair (z, y) with z = y'.

    A = relu(A^) >= 0, and the step dt = sigma(s) is learned too. With `discretization`

        im      z_t = z + dt (-A y_t + B x), y_t = y + dt z_t: implicit, loses energy, |lambda|^2 = 1 / (1 + dt^2 A)
        imex    z_t = z + dt (-A y + B x), y_t = y + dt z_t: implicit-explicit, keeps it, |lambda| = 1 if dt^2 A < 4

    Either is h_t = M h_{t-1} + S (dt B x, dt^2 B x) with M = [[S, -S dt A], [S dt, 1 - S dt^2 A]], where S is
    1 / (1 + dt^2 A) for "im" and 1 for "imex". M is constant in time and kept as one 2x2 block a channel.

    `damping` adds -G z to y'', as D-LinOSS does, with G = relu(G^) >= 0, learned. Our reading: it is taken at z_t, so
    that it never makes a step unstable, which adds dt G to the denominator of S; |lambda|^2 = S where a channel
    oscillates. "imex" is stable for dt^2 A < 4 + 2 dt G. As dt < 1 that holds up to A = 4; training may go beyond.

    Our reading of what the source leaves open: A^ and s start uniform in [0, 1], B and C LeCun normal, d normal, all of
    them real; G^ starts so that 1 / sqrt(1 + dt G) is uniform in [0.9, 1].

    Source: Rusch, Rus 2024, arXiv 2410.03943.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        discretization: str = "im",
        damping: bool = False,
        learn_initial_state: bool = False,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N, oscillators. The carried state is two arrays of N.
            discretization: "im" or "imex".
            damping: Learn a damping G.
            learn_initial_state: Learn it, from zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        if discretization not in DISCRETIZATIONS:
            raise ValueError(f"LinOSS discretization must be 'im' or 'imex', got {discretization!r}")
        self._set_sizes(features, state_size)  # checks them
        start = jnp.zeros((state_size, 2), jnp.float32)
        super().__init__(features, state_size, learn_initial_state=learn_initial_state, start=start, method=method)
        rngs = as_rngs(rngs)

        def uniform(low: float, high: float) -> Array:
            return jax.random.uniform(rngs.params(), (state_size,), jnp.float32, minval=low, maxval=high)

        self.stiffness = StateParam(uniform(0, 1))
        self.step_logit = StateParam(uniform(0, 1))
        drag = (uniform(0.9, 1) ** -2 - 1) / nnx.sigmoid(self.step_logit[...]) if damping else None
        self.drag = nnx.data(None if drag is None else StateParam(drag))
        self.force = linear(features, state_size, use_bias=False, dtype=dtype, rngs=rngs)
        self.out = linear(state_size, features, use_bias=False, dtype=dtype, rngs=rngs)
        self.d = nnx.Param(jax.random.normal(rngs.params(), (features,), jnp.float32))
        self.discretization = discretization

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """(z, y) before the first step, each (*batch_shape, N)."""
        shape = (*batch_shape, self.state_size)
        start = jnp.zeros((self.state_size, 2), jnp.float32) if self.start is None else self.start[...]
        return jnp.broadcast_to(start[..., 0], shape), jnp.broadcast_to(start[..., 1], shape)

    def operator(self, x: Array) -> Operator:
        """(z, y) -> M (z, y) + S (dt B x, dt^2 B x), M constant in time."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        a, dt = nnx.relu(self.stiffness[...].astype(dtype)), nnx.sigmoid(self.step_logit[...].astype(dtype))
        denominator = 1 + dt**2 * a if self.discretization == "im" else jnp.ones_like(a)
        if self.drag is not None:
            denominator += dt * nnx.relu(self.drag[...].astype(dtype))
        s = 1 / denominator
        block = (s, -s * dt * a), (s * dt, 1 - s * dt**2 * a)
        force = s * dt * self.force(x)
        return PairAffine(block, (force, dt * force))

    def readout(self, h: State, x: Array) -> Array:
        """C y + d x."""
        return self.out(h[1]) + self.d[...] * x
