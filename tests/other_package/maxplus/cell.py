"""A cell: its operator, and its readout."""

import jax.numpy as jnp
from flax import nnx

import mru
from maxplus.operator import MaxPlus


class MaxPlusCell(mru.cells.ScanCell, name="maxplus"):
    """h_t = max(h_{t-1} - softplus(decay), W x + b), y = W_o h + b_o: a peak detector that leaks."""

    def __init__(self, features, state_size, *, decay=-4.0, method="auto", dtype=None, rngs):
        """`decay` is where that of every channel starts."""
        super().__init__(features, state_size, method=method)
        self.decay = mru.cells.StateParam(jnp.full(state_size, decay, jnp.float32))
        self.candidate = nnx.Linear(features, state_size, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(state_size, features, dtype=dtype, rngs=rngs)

    def operator(self, x):
        """The maps of all steps, fields (..., T, N), given the inputs (..., T, D)."""
        b = self.candidate(x)
        return MaxPlus(jnp.broadcast_to(-nnx.softplus(self.decay[...]), b.shape), b)

    def readout(self, h, x):
        """The outputs (..., T, D), given the states (..., T, N) and the inputs."""
        return self.out(h)
