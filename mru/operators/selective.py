"""The selective map of S6, held as what it is made of: time steps, rates, and what goes in and comes out."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from mru.operators.affine import Affine
from mru.operators.base import Operator, field


class Selective(Operator):
    """`h -> exp(dt a) h + dt b x`, read as `y = sum_n c_n h_n`: N states for each of D channels.

    The coefficients of the map, (..., T, D, N), are N times as large as what they are made of. `selective_scan` makes
    them step by step, where they are used, and gives the outputs and the last state. `mru.scan` gives every state, as
    it does for any operator, and so stores arrays of that size.

    Attributes:
        dt: Time steps, (..., T, D), positive.
        a: Rates, (D, N), negative where states are to fade.
        b: What the input is multiplied by on its way into each state, (..., T, N).
        c: What each state is multiplied by on its way out, (..., T, N).
        x: Inputs, (..., T, D).

    Source: Gu and Dao 2023, arXiv 2312.00752.
    """

    dt: Array = field(kinds="f")
    a: Array = field(kinds="f", axes=2, constant=True)
    b: Array = field(kinds="f", own_channels=True)
    c: Array = field(kinds="f", own_channels=True)
    x: Array = field(kinds="f")

    def apply(self, h: Array) -> Array:
        """The states after each step, (..., D, N), given those before it."""
        return self.lower().apply(h)

    def readout(self, h: Array) -> Array:
        """The outputs (..., D), given the states after each step, (..., D, N)."""
        return (self.c[..., None, :] * h).sum(-1)

    def zero_state(self) -> Array:
        """Zeros (..., D, N)."""
        return jnp.zeros((*self.dt.shape, self.b.shape[-1]), self.dtype)

    def lower(self) -> Operator:
        """The same maps discretised, with coefficients for every state, (..., T, D, N)."""
        return _Discretised(jnp.exp(self.dt[..., None] * self.a), (self.dt * self.x)[..., None] * self.b[..., None, :])

    @property
    def kernel_obstacle(self) -> str | None:
        """Why the kernel of `mru.scan` can not run these maps."""
        return "every state of a Selective was asked for, where selective_scan gives the outputs alone"


class _Discretised(Affine):
    """`h -> a * h + b` of states (..., D, N)."""

    a: Array = field(kinds="f", axes=2)
    b: Array = field(kinds="f", axes=2)
