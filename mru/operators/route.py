"""Maps that send each channel to a channel: a column one-hot matrix times a diagonal, and the transposed form."""

from __future__ import annotations

from typing import Self

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators.base import Operator, field


class Gather(Operator):
    """`h -> factor * h[source] + offset`: each channel reads one channel.

    Attributes:
        source: Which one, int (..., T, N).
        factor: (..., T, N), real or complex.
        offset: (..., T, N).
    """

    source: Array = field(kinds="i")
    factor: Array = field(kinds="fc")
    offset: Array = field(kinds="fc")

    def compose(self, earlier: Self) -> Self:
        """The map `self . earlier`."""
        factor = self.factor * _read(earlier.factor, self.source)
        return type(self)(_read(earlier.source, self.source), factor, self.apply(earlier.offset))

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return self.factor * _read(h, self.source) + self.offset


class Route(Operator):
    """`h -> P (factor * h) + offset`, with P column one-hot: each channel is sent to one, and what meets there adds up.

    Attributes:
        target: Where each channel is sent, int (..., T, N): P[target[j], j] = 1.
        factor: (..., T, N), real or complex.
        offset: (..., T, N).

    Example:
        >>> import jax.numpy as jnp
        >>> import mru
        >>> from mru.operators import Route
        >>> step = Route(target=jnp.array([[1, 2, 2]]), factor=jnp.ones((1, 3)), offset=jnp.zeros((1, 3)))
        >>> print(mru.scan(step, jnp.array([1.0, 2.0, 4.0])))
        [[0. 1. 6.]]
    """

    target: Array = field(kinds="i")
    factor: Array = field(kinds="fc")
    offset: Array = field(kinds="fc")

    def compose(self, earlier: Self) -> Self:
        """The map `self . earlier`: column j is at row self.target[earlier.target[j]]."""
        target = _read(self.target, earlier.target)
        return type(self)(target, _read(self.factor, earlier.target) * earlier.factor, self.apply(earlier.offset))

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return _sent(self.factor * h, self.target) + self.offset

    def adjoint(self, h: Array, b: Array) -> Gather:
        """The maps `g -> J^T g + b`."""
        return Gather(self.target, self.factor, b)

    def cotangent(self, h: Array, g: Array) -> Self:
        """The cotangents of the fields, given the states before each step and the cotangent of those after it."""
        return type(self)(None, h * _read(g, self.target), g)  # type: ignore[arg-type]


class ScoredRoute(Operator):
    """A `Route` that sends each channel where its score is highest, and is differentiated as if by their softmax.

    The derivative of P is that of softmax(scores) over the channels to be sent to (straight through), that of all else
    is exact.

    Attributes:
        scores: (..., T, N, N): scores[i, j] for channel j to be sent to channel i.
        factor: (..., T, N), real or complex.
        offset: (..., T, N).
    """

    scores: Array = field(kinds="f", axes=2)
    factor: Array = field(kinds="fc")
    offset: Array = field(kinds="fc")

    @property
    def target(self) -> Array:
        """Where each channel is sent, int (..., T, N)."""
        return jnp.argmax(self.scores, -2)

    def zero_state(self) -> Array:
        """Zeros (..., N)."""
        return jnp.zeros(jnp.broadcast_shapes(self.factor.shape, self.offset.shape), self.dtype)

    def lower(self) -> Route:
        """The same maps, closed under composition.

        Raises:
            TypeError: It is differentiated in the scores, as the softmax is no part of what is composed.
        """
        scores = _without_derivative(self.scores)
        return Route(jnp.argmax(scores, -2), self.factor, self.offset)

    def apply(self, h: Array) -> Array:
        """The state after each step, given the state before it."""
        return self.lower().apply(h)

    def adjoint(self, h: Array, b: Array) -> Gather:
        """The maps `g -> J^T g + b`."""
        return Gather(self.target, self.factor, b)

    def cotangent(self, h: Array, g: Array) -> Self:
        """The cotangents of the fields, given the states before each step and the cotangent of those after it."""
        matrix = jnp.real(g[..., :, None] * (self.factor * h)[..., None, :])
        soft = jax.nn.softmax(self.scores, -2)
        scores = soft * (matrix - (soft * matrix).sum(-2, keepdims=True))
        return type(self)(scores, h * _read(g, self.target), g)

    def gates(self) -> dict[str, Array]:
        """Where each channel is sent, and by what factor."""
        return {"target": self.target, "factor": self.factor}


def _read(x: Array, index: Array) -> Array:
    shape = jnp.broadcast_shapes(x.shape, index.shape)
    return jnp.take_along_axis(jnp.broadcast_to(x, shape), jnp.broadcast_to(index, shape), -1)


def _sent(x: Array, target: Array) -> Array:
    """The sum, at each channel, of what is sent to it."""
    shape = jnp.broadcast_shapes(x.shape, target.shape)
    x, target = (jnp.broadcast_to(each, shape).reshape(-1, shape[-1]) for each in (x, target))
    return jnp.zeros_like(x).at[jnp.arange(len(x))[:, None], target].add(x).reshape(shape)


@jax.custom_jvp
def _without_derivative(scores: Array) -> Array:
    return scores


@_without_derivative.defjvp
def _refuse(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    raise TypeError("a ScoredRoute has no derivative in its scores by method='autodiff'; take another method")
