"""The non-ideal relay (Schmitt trigger), before its gates."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from mru.operators.affine import Affine
from mru.operators.base import KernelOperator, field
from mru.operators.latch import Latch
from mru.operators.surrogate import sign, slope, step


class Relay(KernelOperator):
    """The non-ideal relay of the BMRU, before its gates: to sgn(candidate) where |candidate| >= |threshold|, else hold.

    With z = H(|c| - |beta|) and a leak eps, h -> z (sgn(c) + eps h) + (1 - z) h. Without a leak this is a `Latch`; at a
    leak of 0 it holds and writes exactly as one, and at a leak of 1 it counts. The gates are computed where they are
    used, in both passes, and not stored.

    Attributes:
        candidate: c, (..., T, N).
        threshold: beta, (..., T, N), of either sign.
        leak: eps in [0, 1], a scalar that may be traced, or None for a relay that never leaks. Not differentiated.
        width: Width of the surrogate derivatives (`mru.operators.surrogate`), a scalar. Not differentiated.

    Example:
        >>> import jax.numpy as jnp, mru
        >>> candidate = jnp.array([[3.0], [-0.5], [-2.0], [0.9]])
        >>> h = mru.scan(mru.Relay(candidate, threshold=jnp.ones((4, 1))))
        >>> print(h[:, 0])  # write, hold, write, hold
        [ 1.  1. -1. -1.]
    """

    candidate: Array = field(kinds="f")
    threshold: Array = field(kinds="f")
    leak: Array | float | None = field(kinds="f", scalar=True, default=None)
    width: Array | float = field(kinds="f", scalar=True, default=1.0)

    @property
    def write(self) -> Array:
        """z, float in {0, 1}."""
        return step(self._excess, self.width)

    @property
    def _excess(self) -> Array:
        return jnp.abs(self.candidate) - jnp.abs(self.threshold)

    def gates(self) -> dict[str, Array]:
        """What happens in it, by name, for plots."""
        return {"candidate": self.candidate, "threshold": jnp.abs(self.threshold)}

    def holds(self, h: Array) -> Array:
        """Where nothing is written; to write what is there already counts as a write."""
        return self.write == 0

    def lower(self) -> Latch | Affine:
        """The same maps, closed under composition."""
        z, value = self.write, sign(self.candidate, self.width)
        return Latch(z, value) if self.leak is None else Affine(1 - z + z * self.leak, z * value)

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        value = sign(self.candidate)
        return jnp.where(self.write != 0, value if self.leak is None else value + self.leak * h, h)

    def jacobian(self, h: Array) -> Array:
        """d f(h) / d h."""
        return jnp.where(self.write != 0, 0.0 if self.leak is None else self.leak, 1.0).astype(h.dtype)

    def cotangent(self, h: Array, g: Array) -> Relay:
        """The cotangent of (candidate, threshold), given the states before each step and that of those after it.

        With H' the surrogate derivative: d f / d z = sgn(c) + eps h - h, d sgn(c) / d c = 2 H'(c), and
        d z / d |c| = -d z / d |beta| = H'(|c| - |beta|).
        """
        value = sign(self.candidate)
        change = value - h if self.leak is None else value + (self.leak - 1) * h
        gate = g * change * slope(self._excess, self.width)
        written = 2 * g * self.write * slope(self.candidate, self.width)
        candidate = written + _along(gate, self.candidate)
        threshold = -_along(gate, self.threshold)
        # None stands for a cotangent of zero.
        return Relay(candidate, threshold, None, None)  # type: ignore[arg-type]

    @property
    def overwrites(self) -> bool:
        """A write does, where the relay does not leak."""
        return True

    @property
    def coded(self) -> bool:
        """Without a leak each state is -1, 1 or where it started; second derivatives do not go through the code."""
        return self.leak is None

    def encode(self, h: Array, h0: Array, reset_state: Array | None) -> Array:
        """What was written (-1 or 1), 0 for `h0`, 2 for `reset_state`, as int8."""
        if reset_state is None:
            start = jnp.zeros_like(h)
        else:
            # A NaN is never equal to itself; of two that are alike the first is meant.
            start = jnp.where((h == h0) | (jnp.isnan(h) & jnp.isnan(h0)), 0, 2).astype(h.dtype)
        return jnp.where(jnp.abs(h) == 1, h, start).astype(jnp.int8)

    def decode(self, code: Array, h0: Array, reset_state: Array | None) -> Array:
        """The states that were encoded."""
        start = h0 if reset_state is None else jnp.where(code == 0, h0, reset_state)
        return jnp.where(jnp.abs(code) == 1, code.astype(h0.dtype), start)


def _along(g: Array, x: Array) -> Array:
    """g d|x|/dx, by fewer instructions than `g * jnp.sign(x)` takes in a kernel."""
    return jnp.where(x == 0, 0, jnp.where(x < 0, -g, g))
