"""The play (backlash) operator, before its gate."""

from __future__ import annotations

import jax
from jax import Array

from mru.operators.base import KernelOperator, Operator, field
from mru.operators.clamp import Clamp


class Play(KernelOperator):
    """The play operator of the PMRU, before its gate: h -> clip(h, c - r, c + r) with r = softplus(radius).

    The gate is computed where it is used, in both passes, and not stored.

    Attributes:
        centre: c, (..., T, N).
        radius: Before the softplus, (..., T, N).

    Example:
        The radius is softplus(0.541325) = 1. The state stays while the centre is within 1 of it, and is pulled along
        by the edge of the band when it goes further:

        >>> import jax.numpy as jnp, mru
        >>> centre = jnp.array([[0.5], [3.0], [2.5], [-1.0]])
        >>> h = mru.scan(mru.Play(centre, radius=jnp.full((4, 1), 0.541325)))
        >>> print(h[:, 0].round(3))
        [0. 2. 2. 0.]
    """

    centre: Array = field(kinds="f")
    radius: Array = field(kinds="f")

    def gates(self) -> dict[str, Array]:
        """What happens in it, by name, for plots."""
        return vars(self.lower())

    def lower(self) -> Clamp:
        """The same maps, closed under composition."""
        r = jax.nn.softplus(self.radius)
        return Clamp(self.centre - r, self.centre + r)

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return self.lower().apply(h)

    def holds(self, h: Array) -> Array:
        """Where the state lies within the band."""
        return self.lower().holds(h)

    def jacobian(self, h: Array) -> Array:
        """d f(h) / d h."""
        return self.lower().jacobian(h)

    def cotangent(self, h: Array, g: Array) -> Play:
        """The cotangent of (centre, radius), given the states before each step and that of those after it."""
        bar = self.lower().cotangent(h, g)
        return Play(bar.lo + bar.hi, (bar.hi - bar.lo) * jax.nn.sigmoid(self.radius))

    def before_loop(self) -> Clamp:
        """The clamp: a softplus is faster for all steps at once."""
        return self.lower()

    def in_kernel(self) -> Operator:
        """The clamp that the kernel's compiler gets right."""
        return self.lower().in_kernel()

    @property
    def overwrites(self) -> bool:
        """An empty band does."""
        return True
