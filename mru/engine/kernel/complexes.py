"""Complex numbers as two reals, since kernels have no complex ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators.base import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Complex:
    """A complex array as two real ones, with what the methods of `Affine` do to it."""

    real: Array
    imag: Array

    def __add__(self, other: Complex) -> Complex:
        return Complex(self.real + other.real, self.imag + other.imag)

    def __mul__(self, other: Complex) -> Complex:
        return Complex(self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real)

    def __ne__(self, zero: object) -> Array:  # type: ignore[override]
        return (self.real != zero) | (self.imag != zero)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.real.ndim

    def sum(self, axis: Any) -> Complex:
        """The sum over some axes."""
        return jax.tree.map(lambda x: x.sum(axis), self)  # type: ignore[no-any-return]


def split(tree: Any) -> Any:
    """The tree with each complex array as two real ones."""
    return jax.tree.map(lambda x: Complex(x.real, x.imag) if jnp.iscomplexobj(x) else x, tree)


def unsplit(tree: Any) -> Any:
    """The tree with complex arrays again."""
    return jax.tree.map(
        lambda x: jax.lax.complex(x.real, x.imag) if isinstance(x, Complex) else x,
        tree,
        is_leaf=lambda x: isinstance(x, Complex),
    )
