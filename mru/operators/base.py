"""Scalar maps closed under composition: what one recurrent step does to the state.

A step of every cell here takes the state `h` to `f_t(h)`, where `f_t` depends on the input alone. When the family of
maps is closed under composition, `f_T . ... . f_1` is an associative scan. Three families carry the zoo:

    Affine(a, b)         h -> a * h + b
    Latch(write, value)  h -> value if write else h
    Clamp(lo, hi)        h -> min(max(h, lo), hi)

An operator holds the parameters of its maps for every step and channel, shape (..., T, N), and says what a scan and
its backward pass need of it:

    compose(earlier)     the map `self . earlier`
    apply(h)             f(h)
    jacobian(h)          d f(h) / d h: 0 or 1 for `Latch` and `Clamp`
    cotangent(h, g)      the operator's cotangent, given the cotangent `g` of f(h)
    fold(h, where)       the same maps, constant at f(h) where `where` is true: how an initial state enters a scan
    constant()           the value of maps that are constant, as every prefix is once its initial state is folded in
    reaches()            where f(h) depends on h at all
    identity             the fields of the map that leaves every state as it is

Two more hold what a cell has before its gates, so that these are computed where they are used, in both passes, and not
stored. They lack what composition needs; instead `lower()` gives the same maps as one of the three:

    Relay(candidate, threshold)   a `Latch`, or an `Affine` when it leaks
    Play(centre, radius)          a `Clamp`
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators.surrogate import sign, slope, step

_Class = TypeVar("_Class")


def pytree(cls: type[_Class]) -> type[_Class]:
    """Register a dataclass as a pytree whose structure is equal to that of no other class.

    With `jax.tree_util.register_dataclass` all classes of as many fields have equal structures (JAX 0.10 to 0.12), if
    with other hashes: now and then `jit` finds the program of an `Affine` for a `Latch`.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    keys = [jax.tree_util.GetAttrKey(name) for name in names]

    def values(x):
        return tuple(getattr(x, name) for name in names)

    jax.tree_util.register_pytree_with_keys(
        cls,
        lambda x: (tuple(zip(keys, values(x), strict=True)), None),
        lambda _, values: cls(*values),
        lambda x: (values(x), None),
    )
    return cls


@pytree
@dataclasses.dataclass(frozen=True)
class Affine:
    """`h -> a * h + b`, real or complex.

    Attributes:
        a: Coefficient, (..., T, N), or (N,) where it is constant in time: it is then never materialised as (T, N).
        b: Offset, (..., T, N).
    """

    identity: ClassVar[tuple[float, float]] = (1, 0)

    a: Array
    b: Array

    def compose(self, earlier: Affine) -> Affine:
        """The map `self . earlier`."""
        return Affine(self.a * earlier.a, self.a * earlier.b + self.b)

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return self.a * h + self.b

    def jacobian(self, h: Array) -> Array:
        """d f(h) / d h."""
        return self.a

    def cotangent(self, h: Array, g: Array) -> Affine:
        """The cotangent of (a, b), given the states before each step and the cotangent of those after it."""
        a = g * h
        return Affine(a.sum(range(a.ndim - 1)) if self.a.ndim == 1 else a, g)

    def fold(self, h: Array, where: Array) -> Affine:
        """The same maps, constant at f(h) where `where` holds.

        `a` stays as it is: nothing earlier is composed into a folded map, so no prefix that begins there reads it, and
        a coefficient that is constant in time remains so.
        """
        return Affine(self.a, jnp.where(where, self.apply(h), self.b))

    def constant(self) -> Array:
        """The value of maps that are constant."""
        return self.b

    def reaches(self) -> Array:
        """Where f(h) depends on h."""
        return self.a != 0


@pytree
@dataclasses.dataclass(frozen=True)
class Latch:
    """`h -> value if write else h`: set, reset and hold, exactly.

    Attributes:
        write: Boolean, or float in {0, 1} if it is to be differentiated (`surrogate.step`); the derivative is
            that of `write * value + (1 - write) * h`. (..., T, N).
        value: What is written, (..., T, N).
    """

    identity: ClassVar[tuple[float, float]] = (0, 0)

    write: Array
    value: Array

    def compose(self, earlier: Latch) -> Latch:
        """The map `self . earlier`."""
        return Latch(
            jnp.where(self.write != 0, self.write, earlier.write),
            jnp.where(self.write != 0, self.value, earlier.value),
        )

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return jnp.where(self.write != 0, self.value, h)

    def jacobian(self, h: Array) -> Array:
        """d f(h) / d h."""
        return (self.write == 0).astype(h.dtype)

    def cotangent(self, h: Array, g: Array) -> Latch:
        """The cotangent of (write, value), given the states before each step and the cotangent of those after it."""
        write: Any = None if self.write.dtype == bool else (g * (self.value - h)).real.astype(self.write.dtype)
        return Latch(write, jnp.where(self.write != 0, g, 0))

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


@pytree
@dataclasses.dataclass(frozen=True)
class Clamp:
    """`h -> min(max(h, lo), hi)`: the play (backlash) operator, whose equilibria are the whole band [lo, hi].

    The derivative is exact almost everywhere: 1 through a hold (also on the band's edge), else 1 to the active bound.

    Attributes:
        lo: Lower bound, (..., T, N).
        hi: Upper bound, (..., T, N), not below `lo`.
    """

    identity: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    lo: Array
    hi: Array

    def compose(self, earlier: Clamp) -> Clamp:
        """The map `self . earlier`."""
        return type(self)(self.apply(earlier.lo), self.apply(earlier.hi))

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return jnp.minimum(jnp.maximum(h, self.lo), self.hi)

    def jacobian(self, h: Array) -> Array:
        """d f(h) / d h."""
        return ((h >= self.lo) & (h <= self.hi)).astype(h.dtype)

    def cotangent(self, h: Array, g: Array) -> Clamp:
        """The cotangent of (lo, hi), given the states before each step and the cotangent of those after it."""
        return Clamp(jnp.where(h < self.lo, g, 0), jnp.where(h > self.hi, g, 0))

    def fold(self, h: Array, where: Array) -> Clamp:
        """The same maps, constant at f(h) where `where` holds."""
        value = self.apply(h)
        return type(self)(jnp.where(where, value, self.lo), jnp.where(where, value, self.hi))

    def constant(self) -> Array:
        """The value of maps that are constant."""
        return self.lo

    def reaches(self) -> Array:
        """Where f(h) depends on h."""
        return ~(self.lo >= self.hi)  # a NaN is passed on, as `apply` does


@pytree
@dataclasses.dataclass(frozen=True)
class Relay:
    """The non-ideal relay of the BMRU, before its gates: to sgn(candidate) where |candidate| >= |threshold|, else hold.

    With z = H(|c| - |beta|) and a leak eps, h -> z (sgn(c) + eps h) + (1 - z) h. Without a leak this is a `Latch`; at a
    leak of 0 it holds and writes exactly as one, and at a leak of 1 it counts.

    Attributes:
        candidate: c, (..., T, N).
        threshold: beta, (..., T, N), of either sign.
        leak: eps in [0, 1], a scalar that may be traced, or None for a relay that never leaks. Not differentiated.
        width: Width of the surrogate derivatives (`mru.operators.surrogate`), a scalar. Not differentiated.
    """

    candidate: Array
    threshold: Array
    leak: Array | float | None = None
    width: Array | float = 1.0

    @property
    def write(self) -> Array:
        """z, float in {0, 1}."""
        return step(self._excess, self.width)

    @property
    def _excess(self) -> Array:
        return jnp.abs(self.candidate) - jnp.abs(self.threshold)

    def gates(self) -> dict[str, Array]:
        """What happens in it, by name, for plots."""
        return {"candidate": self.candidate, "threshold": jnp.abs(self.threshold), "write": self.write}

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


@pytree
@dataclasses.dataclass(frozen=True)
class Play:
    """The play operator of the PMRU, before its gate: h -> clip(h, c - r, c + r) with r = softplus(radius).

    Attributes:
        centre: c, (..., T, N).
        radius: Before the softplus, (..., T, N).
    """

    centre: Array
    radius: Array

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

    def jacobian(self, h: Array) -> Array:
        """d f(h) / d h."""
        return self.lower().jacobian(h)

    def cotangent(self, h: Array, g: Array) -> Play:
        """The cotangent of (centre, radius), given the states before each step and that of those after it."""
        bar = self.lower().cotangent(h, g)
        return Play(bar.lo + bar.hi, (bar.hi - bar.lo) * jax.nn.sigmoid(self.radius))


def _along(g: Array, x: Array) -> Array:
    """g d|x|/dx, by fewer instructions than `g * jnp.sign(x)` takes in a kernel."""
    return jnp.where(x == 0, 0, jnp.where(x < 0, -g, g))


Operator = Affine | Latch | Clamp | Relay | Play


def lowered(op: Operator) -> Affine | Latch | Clamp:
    """The operator in the form that is closed under composition."""
    return op.lower() if isinstance(op, Relay | Play) else op
