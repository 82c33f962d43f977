"""The clamp, which a play (backlash) operator applies at every step."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import jax.numpy as jnp
from jax import Array

from mru.operators.base import KernelOperator, field


class Clamp(KernelOperator):
    """`h -> min(max(h, lo), hi)`: the play (backlash) operator, whose equilibria are the whole band [lo, hi].

    The derivative is exact almost everywhere: 1 through a hold (also on the band's edge), else 1 to the active bound.

    Attributes:
        lo: Lower bound, (..., T, N).
        hi: Upper bound, (..., T, N), not below `lo`.

    Example:
        The state before is in the band, below it, above it and above it again:

        >>> import jax.numpy as jnp, mru
        >>> lo = jnp.array([[0.0], [2.0], [-1.0], [-3.0]])
        >>> print(mru.scan(mru.Clamp(lo, hi=lo + 1))[:, 0])
        [ 0.  2.  0. -2.]
    """

    identity: ClassVar[tuple[float, ...]] = (-math.inf, math.inf)

    lo: Array = field(kinds="f")
    hi: Array = field(kinds="f")

    def compose(self, earlier: Self) -> Self:
        """The map `self . earlier`."""
        return type(self)(self.apply(earlier.lo), self.apply(earlier.hi))

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return jnp.minimum(jnp.maximum(h, self.lo), self.hi)

    def holds(self, h: Array) -> Array:
        """Where the state lies within the band."""
        return (h >= self.lo) & (h <= self.hi)

    def jacobian(self, h: Array) -> Array:
        """d f(h) / d h."""
        return self.holds(h).astype(h.dtype)

    def cotangent(self, h: Array, g: Array) -> Self:
        """The cotangent of (lo, hi), given the states before each step and the cotangent of those after it."""
        return type(self)(jnp.where(h < self.lo, g, 0), jnp.where(h > self.hi, g, 0))

    def fold(self, h: Array, where: Array) -> Self:
        """The same maps, constant at f(h) where `where` holds."""
        value = self.apply(h)
        return type(self)(jnp.where(where, value, self.lo), jnp.where(where, value, self.hi))

    def constant(self) -> Array:
        """The value of maps that are constant."""
        return self.lo

    def reaches(self) -> Array:
        """Where f(h) depends on h."""
        return ~(self.lo >= self.hi)  # a NaN is passed on, as `apply` does

    @property
    def overwrites(self) -> bool:
        """An empty band, lo = hi, does."""
        return True

    def in_kernel(self) -> KernelClamp:
        """A clamp that passes a NaN on there too."""
        return KernelClamp(self.lo, self.hi)


class KernelClamp(Clamp):
    """A clamp that passes a NaN on: minimum and maximum, as they are lowered by way of Triton, drop it."""

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        h = jnp.where(h < self.lo, self.lo, h)
        h = jnp.where(h > self.hi, self.hi, h)
        return jnp.where(jnp.isnan(self.lo) | jnp.isnan(self.hi), jnp.nan, h)
