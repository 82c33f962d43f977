"""The affine map, which is what linear recurrences and gated ones are made of."""

from __future__ import annotations

from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators.base import KernelOperator, field


class Affine(KernelOperator):
    """`h -> a * h + b`, real or complex.

    Attributes:
        a: Coefficient, (..., T, N), or (N,) where it is constant in time: it is then never materialised as (T, N).
        b: Offset, (..., T, N).

    Example:
        >>> import jax.numpy as jnp, mru
        >>> half = mru.Affine(a=jnp.full((3, 1), 0.5), b=jnp.array([[1.0], [0.0], [0.0]]))
        >>> print(mru.scan(half)[:, 0])  # 1, and then half of it each step
        [1.   0.5  0.25]
    """

    identity: ClassVar[tuple[float, ...]] = (1, 0)

    a: Array = field(kinds="fc", constant=True)
    b: Array = field(kinds="fc")

    def compose(self, earlier: Self) -> Self:
        """The map `self . earlier`."""
        return type(self)(self.a * earlier.a, self.a * earlier.b + self.b)

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return self.a * h + self.b

    def jacobian(self, h: Array) -> Array:
        """d f(h) / d h."""
        return self.a

    def decay(self) -> Array:
        """|a|."""
        return jnp.abs(self.a)

    def cotangent(self, h: Array, g: Array) -> Self:
        """The cotangent of (a, b), given the states before each step and the cotangent of those after it."""
        a = g * h
        return type(self)(a.sum(range(a.ndim - 1)) if self.a.ndim == 1 else a, g)

    def fold(self, h: Array, where: Array) -> Self:
        """The same maps, constant at f(h) where `where` holds."""
        # Leaf by leaf: in a kernel a complex number is a pair of arrays.
        a = jax.tree.map(lambda x: jnp.where(where, 0, x), self.a)
        return type(self)(a, jax.tree.map(lambda x, y: jnp.where(where, x, y), self.apply(h), self.b))

    def constant(self) -> Array:
        """The value of maps that are constant."""
        return self.b

    def reaches(self) -> Array:
        """Where f(h) depends on h."""
        return self.a != 0
