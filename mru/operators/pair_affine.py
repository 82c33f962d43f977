"""The affine map of pairs, which is what oscillators are made of."""

from __future__ import annotations

from typing import Any, Self

import jax.numpy as jnp
from jax import Array

from mru.operators.base import Operator, field

Pair = tuple[Array, Array]


class PairAffine(Operator):
    """`h -> a h + b` for a pair h = (h_0, h_1) in each channel, with a 2x2 block a: two states that drive each other.

    The state is a tuple of two arrays (..., N). No kernel runs these maps: on a GPU `mru.scan` takes its associative
    form.

    Attributes:
        a: Blocks, (..., T, N, 2, 2), or (N, 2, 2) where they are constant in time: they are then never materialised for
            every step. Row k says what h_k becomes.
        b: Offsets, a tuple of two arrays (..., T, N).

    Example:
        A rotation by a quarter turn, of a point that is put at (1, 0) in the first step:

        >>> import jax.numpy as jnp, mru
        >>> from mru.operators import PairAffine
        >>> turn = jnp.array([[[0.0, -1.0], [1.0, 0.0]]])
        >>> push = jnp.array([[1.0], [0.0], [0.0]])
        >>> h = mru.scan(PairAffine(a=turn, b=(push, jnp.zeros((3, 1)))))
        >>> print(h[0][:, 0], h[1][:, 0])
        [ 1.  0. -1.] [0. 1. 0.]
    """

    a: Array = field(kinds="f", axes=3, constant=True)
    b: Pair = field(kinds="f")

    def compose(self, earlier: Self) -> Self:
        """The map `self . earlier`."""
        # Products and sums of two: as a matrix product a GPU would round the factors.
        a = (self.a[..., :, :, None] * earlier.a[..., None, :, :]).sum(-2)
        return type(self)(a, self.apply(earlier.b))

    def apply(self, h: Pair) -> Pair:
        """The state after each step, given the state before it."""
        a, b = self.a, self.b
        return (
            a[..., 0, 0] * h[0] + a[..., 0, 1] * h[1] + b[0],
            a[..., 1, 0] * h[0] + a[..., 1, 1] * h[1] + b[1],
        )

    def adjoint(self, h: Pair, b: Pair) -> PairAffine:
        """The maps `g -> J^T g + b`."""
        return PairAffine(jnp.swapaxes(self.a, -1, -2), b)

    def cotangent(self, h: Pair, g: Pair) -> Self:
        """The cotangents of (a, b), given the states before each step and the cotangent of those after it."""
        a = jnp.stack([jnp.stack([each * h[0], each * h[1]], -1) for each in g], -2)
        return type(self)(a.sum(range(a.ndim - 3)) if self.a.ndim == 3 else a, g)

    def zero_state(self) -> Pair:
        """A pair of zeros."""
        shape = jnp.broadcast_shapes(self.a.shape[:-2], *(x.shape for x in self.b))
        return jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)

    def gates(self) -> dict[str, Any]:
        """What happens in it, by name, for plots: constant blocks are no event."""
        return {"b": self.b} if self.a.ndim == 3 else {"a": self.a, "b": self.b}

    def decay(self) -> Array:
        """The larger |eigenvalue| of each block: the factor of a step in the long run, with constant blocks."""
        a = self.a
        half, determinant = (a[..., 0, 0] + a[..., 1, 1]) / 2, a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]
        square = half**2 - determinant
        real = jnp.abs(half) + jnp.sqrt(jnp.maximum(square, 0))
        return jnp.where(square < 0, jnp.sqrt(jnp.abs(determinant)), real)
