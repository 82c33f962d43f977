"""The affine map of a pair of states, which is what oscillators are made of."""

from __future__ import annotations

from typing import Self

import jax.numpy as jnp
from jax import Array

from mru.operators.base import Operator, field

Pair = tuple[Array, Array]


class PairAffine(Operator):
    """`h -> a h + b` for a pair h = (h_0, h_1) in each channel, with a 2x2 block a: two states that drive each other.

    The state is a tuple of two arrays (..., N). Each entry of a block is an array of its own, so that the channels are
    innermost, as everywhere. No kernel runs these maps: on a GPU `mru.scan` takes its associative form.

    Attributes:
        a: ((a_00, a_01), (a_10, a_11)), each (..., T, N), or (N,) where the blocks are constant in time: they are then
            never materialised for every step. Row k says what h_k becomes.
        b: (b_0, b_1), each (..., T, N).

    Example:
        A position that moves by its velocity, which loses half each step:

        >>> import jax.numpy as jnp, mru
        >>> from mru.operators import PairAffine
        >>> one, nothing = jnp.ones(1), jnp.zeros((3, 1))
        >>> op = PairAffine(a=((one, one), (0 * one, 0.5 * one)), b=(nothing, nothing))
        >>> position, velocity = mru.scan(op, (jnp.zeros(1), jnp.ones(1)))
        >>> print(position[:, 0], velocity[:, 0])
        [1.   1.5  1.75] [0.5   0.25  0.125]
    """

    a: tuple[Pair, Pair] = field(kinds="f", constant=True)
    b: Pair = field(kinds="f")

    def compose(self, earlier: Self) -> Self:
        """The map `self . earlier`."""
        (a, b), (c, d) = self.a
        (i, j), (k, m) = earlier.a
        block = (a * i + b * k, a * j + b * m), (c * i + d * k, c * j + d * m)
        return type(self)(block, self.apply(earlier.b))

    def apply(self, h: Pair) -> Pair:
        """The states after each step, given those before it."""
        (a, b), (c, d) = self.a
        (p, q), (e, f) = h, self.b
        return a * p + b * q + e, c * p + d * q + f

    def adjoint(self, h: Pair, b: Pair) -> PairAffine:
        """The maps `g -> J^T g + b`."""
        (p, q), (r, s) = self.a
        return PairAffine(((p, r), (q, s)), b)

    def cotangent(self, h: Pair, g: Pair) -> Self:
        """The cotangents of (a, b), given the states before each step and the cotangent of those after it."""

        def product(entry: Array, x: Array, y: Array) -> Array:
            found = x * y
            return found.sum(range(found.ndim - 1)) if entry.ndim == 1 else found

        (p, q), (r, s) = self.a
        block = (product(p, g[0], h[0]), product(q, g[0], h[1])), (product(r, g[1], h[0]), product(s, g[1], h[1]))
        return type(self)(block, g)

    def zero_state(self) -> Pair:
        """A pair of zeros."""
        shape = jnp.broadcast_shapes(*(x.shape for x in (*self.a[0], *self.a[1], *self.b)))
        return jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)

    def decay(self) -> Array:
        """The larger |eigenvalue| of each block: the factor of a step in the long run, with constant blocks."""
        (a, b), (c, d) = self.a
        half, determinant = (a + d) / 2, a * d - b * c
        square = half**2 - determinant
        real = jnp.abs(half) + jnp.sqrt(jnp.maximum(square, 0))
        return jnp.where(square < 0, jnp.sqrt(jnp.abs(determinant)), real)
