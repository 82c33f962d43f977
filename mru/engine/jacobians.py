"""What Newton's method and the backward pass need of the Jacobian of an update, by its structure.

An update maps the states before all steps, (..., T, N), to those after them. A structure says
    linearise(f, h)                            f(h), and of its Jacobian what is kept
    solve(jacobian, residual, reset)           how Newton's method moves the states, d_t = J_t d_{t-1} + residual_t
    adjoint(update, inputs, before, g, ...)    the cotangents of the states after the steps, with what comes back
                                               through the later steps: g_t += J_{t+1}^T g_{t+1}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.front import scan
from mru.engine.recurrence import Update
from mru.engine.steps import previous
from mru.operators import Affine, Pairwise
from mru.operators.base import Operator, State, select


class Diagonal:
    """Channel n of the state after a step depends on channel n before it alone; a state of one array."""

    exact = True

    def linearise(self, f: Callable[[State], State], h: State) -> tuple[State, Any]:
        """f(h) and the diagonal: one derivative, in the direction of ones."""
        return jax.jvp(f, (h,), (jax.tree.map(jnp.ones_like, h),))

    def solve(self, jacobian: Any, residual: State, reset: Array | None) -> State:
        """One scan, from zero: where a sequence starts nothing moves."""
        return jax.tree.map(lambda j, r: scan(Affine(j, r), reset=reset), jacobian, residual)

    def adjoint(self, update: Update, inputs: Any, before: State, g: State, reset: Array | None, axis: int) -> State:
        """One scan backwards."""
        _, jacobian = self.linearise(lambda h: update(inputs, h), before)

        def one(j: Array, g: Array) -> Array:
            (ahead,) = _ahead((j,), reset, axis)
            return _backwards(Affine(ahead, g), reset, axis)

        return jax.tree.map(one, jacobian, g)


class Pairs:
    """A state of two arrays, channel n of both depending on channel n of both: 2x2 blocks."""

    exact = True

    def linearise(self, f: Callable[[State], State], h: State) -> tuple[State, Any]:
        """f(h) and the blocks: two derivatives, each in the direction of ones in one array."""
        after, tangent = jax.linearize(f, h)
        one, zero = (jax.tree.map(like, h) for like in (jnp.ones_like, jnp.zeros_like))
        (a, c), (b, d) = tangent((one[0], zero[1])), tangent((zero[0], one[1]))
        return after, ((a, b), (c, d))

    def solve(self, jacobian: Any, residual: State, reset: Array | None) -> State:
        """The same with blocks."""
        return scan(Pairwise(jacobian, residual), reset=reset)

    def adjoint(self, update: Update, inputs: Any, before: State, g: State, reset: Array | None, axis: int) -> State:
        """One scan backwards, of the transposed blocks."""
        _, ((a, b), (c, d)) = self.linearise(lambda h: update(inputs, h), before)
        a, b, c, d = _ahead((a, b, c, d), reset, axis)
        return _backwards(Pairwise(((a, c), (b, d)), g), reset, axis)


class Dense(Diagonal):
    """Any Jacobian of a state of real arrays, of which Newton's method takes the diagonal; the adjoint is exact."""

    exact = False

    def linearise(self, f: Callable[[State], State], h: State) -> tuple[State, Any]:
        """f(h) and the diagonal of its Jacobian: a derivative for every channel of a step, one after the other."""
        after, tangent = jax.linearize(f, h)
        tree: Any = jax.tree.structure(h)
        leaves = jax.tree.leaves(h)

        def of(place: int) -> Array:
            like = leaves[place]

            def channel(n: Array, found: Array) -> Array:
                here = jnp.broadcast_to((jnp.arange(like.shape[-1]) == n).astype(like.dtype), like.shape)
                tangents = [here if i == place else jnp.zeros_like(x) for i, x in enumerate(leaves)]
                return found + here * jax.tree.leaves(tangent(tree.unflatten(tangents)))[place]

            return jax.lax.fori_loop(0, like.shape[-1], channel, jnp.zeros_like(like))

        return after, tree.unflatten([of(place) for place in range(len(leaves))])

    def adjoint(self, update: Update, inputs: Any, before: State, g: State, reset: Array | None, axis: int) -> State:
        """One step after the other, through the states alone."""

        def one(incoming: State, now: Any) -> tuple[State, State]:
            u, h, g, first = now
            total = jax.tree.map(jnp.add, g, incoming)
            (back,) = jax.vjp(lambda h: update(u, h), h)[1](total)
            return select(first, jax.tree.map(jnp.zeros_like, back), back), total

        steps = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), (inputs, before, g, reset))
        zero = jax.tree.map(lambda x: jnp.zeros_like(x[0]), steps[2])
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), jax.lax.scan(one, zero, steps, reverse=True)[1])


STRUCTURES: dict[str, Any] = {"diagonal": Diagonal(), "pairwise": Pairs(), "dense": Dense()}


def _starts(reset: Array, axis: int) -> Array:
    """Where the step ahead is the first of a sequence."""
    return previous(reset, jnp.zeros(reset.shape[:axis], bool), axis, True)


def _ahead(jacobian: tuple[Array, ...], reset: Array | None, axis: int) -> tuple[Array, ...]:
    """Each array of the Jacobian one step ahead: of the last step, and across a reset, there is nothing."""
    ahead = previous(jacobian, jax.tree.map(lambda x: jnp.zeros_like(x.take(0, axis)), jacobian), axis, True)
    # The state being zero there, 0 * NaN of the sequence ahead would enter this one.
    return ahead if reset is None else select(_starts(reset, axis), jax.tree.map(jnp.zeros_like, ahead), ahead)


def _backwards(op: Operator, reset: Array | None, axis: int) -> State:
    """The scan from the last step to the first, from zero."""
    return scan(op, reverse=True, reset=None if reset is None else _starts(reset, axis))
