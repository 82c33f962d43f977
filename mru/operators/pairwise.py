"""The affine map of a pair of states, one 2x2 block a channel."""

from __future__ import annotations

from typing import Self

import jax.numpy as jnp
from jax import Array

from mru.operators.base import Operator, field

Pair = tuple[Array, Array]


class Pairwise(Operator):
    """`(p, q) -> (a p + b q + e, c p + d q + f)`: the state of a scan is two arrays (..., N).

    Each entry of the block is an array of its own, so that the channels are innermost, as everywhere.

    Attributes:
        matrix: ((a, b), (c, d)), each (..., T, N), or (N,) where the blocks are constant in time.
        offset: (e, f), each (..., T, N).

    Example:
        A position that moves by its velocity, which loses half each step:

        >>> import jax.numpy as jnp, mru
        >>> from mru.operators import Pairwise
        >>> one, offset = jnp.ones((3, 1)), jnp.zeros((3, 1))
        >>> op = Pairwise(matrix=((one, one), (0 * one, 0.5 * one)), offset=(offset, offset))
        >>> position, velocity = mru.scan(op, (jnp.zeros(1), jnp.ones(1)))
        >>> print(position[:, 0], velocity[:, 0])
        [1.   1.5  1.75] [0.5   0.25  0.125]
    """

    matrix: tuple[Pair, Pair] = field(kinds="f", constant=True)
    offset: Pair = field(kinds="f")

    def compose(self, earlier: Self) -> Self:
        """The map `self . earlier`."""
        (a, b), (c, d) = self.matrix
        (i, j), (k, m) = earlier.matrix
        matrix = (a * i + b * k, a * j + b * m), (c * i + d * k, c * j + d * m)
        return type(self)(matrix, self.apply(earlier.offset))

    def apply(self, h: Pair) -> Pair:
        """The states after each step, given those before it."""
        (a, b), (c, d) = self.matrix
        (p, q), (e, f) = h, self.offset
        return a * p + b * q + e, c * p + d * q + f

    def zero_state(self) -> Pair:
        """Two arrays of zeros."""
        e, f = (jnp.zeros(jnp.shape(x), self.dtype) for x in self.offset)
        return e, f
