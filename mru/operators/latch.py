"""The latch: set, reset and hold."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators.base import KernelOperator, Operator, field


class Latch(KernelOperator):
    """`h -> value if write else h`: set, reset and hold, exactly.

    Attributes:
        write: Boolean, or float in {0, 1} if it is to be differentiated (`surrogate.step`); the derivative is that of
            `write * value + (1 - write) * h`. (..., T, N).
        value: What is written, (..., T, N).

    Example:
        >>> import jax.numpy as jnp, mru
        >>> write = jnp.array([[True], [False], [False], [True]])
        >>> value = jnp.array([[0.1], [7.0], [8.0], [0.2]])
        >>> print(mru.scan(mru.Latch(write, value))[:, 0])
        [0.1 0.1 0.1 0.2]
    """

    identity: ClassVar[tuple[float, ...]] = (0, 0)

    write: Array = field(kinds="bf")
    value: Array = field(kinds="fc")

    def compose(self, earlier: Latch) -> Latch:
        """The map `self . earlier`."""
        return Latch(
            jnp.where(self.write != 0, self.write, earlier.write),
            jnp.where(self.write != 0, self.value, earlier.value),
        )

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return jnp.where(self.write != 0, self.value, h)

    def holds(self, h: Array) -> Array:
        """Where nothing is written; to write what is there already counts as a write."""
        return self.write == 0

    def jacobian(self, h: Array) -> Array:
        """d f(h) / d h."""
        return (self.write == 0).astype(h.dtype)

    def cotangent(self, h: Array, g: Array) -> Latch:
        """The cotangent of (write, value), given the states before each step and the cotangent of those after it."""
        write: Any = None if self.write.dtype == bool else (g * (self.value - h)).real.astype(self.write.dtype)
        return Latch(write, jnp.where(self.write != 0, g, 0))

    def for_autodiff(self) -> Operator:
        """As sums, where a derivative in `write` can be asked for: selections have none."""
        if self.write.dtype == bool:
            return self
        return _Sum(1 - self.write, _where_one(self.write, self.value))

    def fold(self, h: Array, where: Array) -> Latch:
        """The same maps, constant at f(h) where `where` holds."""
        write = jnp.where(where, jnp.ones((), self.write.dtype), self.write)
        return Latch(write, jnp.where(where, self.apply(h), self.value))

    def constant(self) -> Array:
        """The value of maps that are constant."""
        return self.value

    def reaches(self) -> Array:
        """Where f(h) depends on h."""
        return self.write == 0

    @property
    def kernel_obstacle(self) -> str | None:
        """Why a kernel can not run these maps, or None."""
        return "kernels have no complex Latch" if jnp.iscomplexobj(self.value) else None

    @property
    def overwrites(self) -> bool:
        """A write does."""
        return True


class _Sum(Operator):
    """`h -> hold * h + offset` with hold in {0, 1}, where NaN times 0 is 0."""

    hold: Array = field(kinds="f")
    offset: Array = field(kinds="fc")

    def compose(self, earlier: _Sum) -> _Sum:
        """The map `self . earlier`."""
        return _Sum(self.hold * earlier.hold, self.apply(earlier.offset))

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return _where_one(self.hold, h) + self.offset


@jax.custom_jvp
def _where_one(gate: Array, x: Array) -> Array:
    """The product with a gate in {0, 1}, which a NaN does not pass where the gate is 0."""
    return jnp.where(gate != 0, x, 0)


@_where_one.defjvp
def _where_one_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (gate, x), (d_gate, dx) = primals, tangents
    return _where_one(gate, x), _where_one(gate, dx) + d_gate * x
