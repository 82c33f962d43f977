"""A nonlinear recurrence h_t = f(u_t, h_{t-1}), parallel in time: Newton's method forward, one exact scan backward.

Newton's method takes the states of all steps as one unknown. It linearises the update at the current guess of all of
them and solves the linear recurrence that this gives by one scan, again and again. Where the Jacobian of a step is
diagonal, or of 2x2 blocks, this is exact Newton and converges quadratically once it is near: in 2 or 3 iterations where
the update forgets its state, in dozens where it is bistable and guesses have to cross between its equilibria.
Of a dense Jacobian the diagonal is taken, which converges linearly or not at all.

Sources: DEER, arXiv 2309.12252; quasi-DEER, arXiv 2407.19115; ParaRNN, arXiv 2510.21450.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.jacobians import STRUCTURES
from mru.engine.recurrence import loop
from mru.engine.steps import at, one_step, states_before
from mru.operators.base import State, select


@dataclasses.dataclass(frozen=True, eq=False)
class Recurrence:
    """A recurrence, and how it is to be run.

    Attributes:
        update: (parameters, u, h) -> the states after, for one step or for any number at once.
        jacobian: "diagonal", "pairwise" or "dense".
        newton: Forward by Newton's method; else one step after the other.
        axis: Axis of time, which is the number of batch axes.
        tolerance: Largest residual |f(u_t, h_{t-1}) - h_t|, relative where |h_t| is above 1, of converged states.
        iterations: Iterations at most.
        bound: No |h| ever exceeds that of what its sequence starts from by more than this: a number for each array of
            the state, or None if that is not known.
    """

    update: Callable[[Any, Any, State], State]
    jacobian: str
    newton: bool
    axis: int
    tolerance: float
    iterations: int
    bound: State | None


class Diagnosis(NamedTuple):
    """How Newton's method went, one value a sequence of the batch.

    Attributes:
        iterations: Iterations until it had converged, or those that were made.
        residual: The residual after them.
        converged: If it had; if any had not, the states of all are those of the loop.
    """

    iterations: Array
    residual: Array
    converged: Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def states(
    recurrence: Recurrence, parameters: Any, inputs: Any, h0: State, reset_state: State | None, reset: Array | None
) -> tuple[State, Diagnosis | None]:
    """Every state, (..., T, N), and how Newton's method went.

    Where it has not converged for every sequence of the batch, all of them run one step after the other: this costs the
    iterations and the loop, and the states are right. Reverse mode only, to any order.

    Args:
        recurrence: The update and the method.
        parameters: Arrays that the update is given for all steps.
        inputs: Arrays that it is given a step, time on the recurrence's axis.
        h0: State before the first step.
        reset_state: State before the steps where `reset` is true; None where `reset` is.
        reset: Boolean (..., T), or None.
    """
    update = functools.partial(recurrence.update, parameters)
    run = functools.partial(loop, update, inputs, h0, reset, reset_state, recurrence.axis)
    if not recurrence.newton:
        return run(), None
    last = _iterated(recurrence, update, inputs, h0, reset_state, reset)
    converged = last.converged(recurrence)
    h = jax.lax.cond(converged.all(), lambda: last.after, run)
    return h, Diagnosis(last.iterations, last.residual, converged)


def _forward(recurrence: Recurrence, parameters: Any, inputs: Any, h0: State, reset_state: Any, reset: Any) -> Any:
    # By its own VJP again, for derivatives of higher order.
    h, diagnosis = states(recurrence, parameters, inputs, h0, reset_state, reset)
    return (h, diagnosis), (parameters, inputs, h0, reset_state, reset, h)


def _backward(recurrence: Recurrence, residuals: Any, cotangents: Any) -> Any:
    parameters, inputs, h0, reset_state, reset, h = residuals
    update, axis = functools.partial(recurrence.update, parameters), recurrence.axis
    before = states_before(h, h0, reset, reset_state, axis, reverse=False)
    g = STRUCTURES[recurrence.jacobian].adjoint(update, inputs, before, cotangents[0], reset, axis)
    # What the parameters and inputs get does not go on through time: it is that of all steps at once.
    of_parameters, of_inputs, back = jax.vjp(recurrence.update, parameters, inputs, before)[1](g)
    if reset is None:
        return of_parameters, of_inputs, at(back, 0, axis), None, None
    zero = jax.tree.map(jnp.zeros_like, back)
    to_start = jax.tree.map(lambda x: x.sum(axis), select(reset, back, zero))
    return of_parameters, of_inputs, at(select(reset, zero, back), 0, axis), to_start, None


states.defvjp(_forward, _backward)


class _Iterate(NamedTuple):
    """A guess `h` of all states, the update and its Jacobian there, and for each sequence what is wrong with it."""

    h: State
    after: State
    jacobian: Any
    residual: Array
    moved: Array
    iterations: Array

    def converged(self, recurrence: Recurrence) -> Array:
        """If the residual is small, and so was the last move; a NaN in either is not.

        The residual alone would not do: by a saddle, or where little is forgotten, states of a small residual can be
        far from the true ones. What an exact iteration leaves is of the order of its move squared.
        """
        tolerance = _tolerance(recurrence, self.h)
        move = math.sqrt(tolerance) if STRUCTURES[recurrence.jacobian].exact else tolerance
        return (self.residual <= tolerance) & (self.moved <= move)


def _tolerance(recurrence: Recurrence, h: State) -> float:
    """The tolerance is one of float32; in float64 it is as many roundings."""
    eps = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(h))
    return recurrence.tolerance * eps / float(jnp.finfo(jnp.float32).eps)


def _iterated(
    recurrence: Recurrence, update: Any, inputs: Any, h0: State, reset_state: State | None, reset: Array | None
) -> _Iterate:
    """Newton's method, from zero until it has converged, or as long as it may."""
    axis, structure = recurrence.axis, STRUCTURES[recurrence.jacobian]
    before = functools.partial(
        states_before, h0=h0, reset=reset, reset_state=reset_state, axis=axis, reverse=False
    )  # fmt: skip
    bounds = _bounds(recurrence, h0, reset_state)

    def linearised(h: State) -> tuple[State, Any]:
        return structure.linearise(lambda h: update(inputs, h), before(h))

    def again(now: _Iterate) -> _Iterate:
        # The move is solved for, not the state: what is rounded gets small with it.
        move = structure.solve(now.jacobian, jax.tree.map(jnp.subtract, now.after, now.h), reset)
        # Where the linear recurrence overflows, on the way to states that do not, one plain step goes on instead.
        new = jax.tree.map(
            lambda h, d, plain: jnp.where(jnp.isfinite(d), h + d, plain), now.h, move, now.after
        )  # fmt: skip
        if bounds is not None:
            new = jax.tree.map(lambda x, most: jnp.clip(x, -most, most), new, bounds)
        after, jacobian = linearised(new)
        count = now.iterations + ~now.converged(recurrence)
        return _Iterate(new, after, jacobian, _distance(after, new, axis), _distance(new, now.h, axis), count)

    def goes_on(now: _Iterate) -> Array:
        return (~now.converged(recurrence) & (now.iterations < recurrence.iterations)).any()

    time = jax.tree.leaves(inputs)[0].shape[axis]
    h = jax.tree.map(lambda x: jnp.zeros((*x.shape[:axis], time, *x.shape[axis:]), x.dtype), h0)
    after, jacobian = linearised(h)
    residual = _distance(after, h, axis)
    unmoved, none = jnp.full_like(residual, jnp.inf), jnp.zeros(residual.shape, jnp.int32)
    return jax.lax.while_loop(goes_on, again, _Iterate(h, after, jacobian, residual, unmoved, none))


def _bounds(recurrence: Recurrence, h0: State, reset_state: State | None) -> State | None:
    """The largest |h| of each channel, for all steps, if it is known."""
    if recurrence.bound is None:
        return None

    def one(bound: float, start: Array, reset_state: Array) -> Array:
        return bound + jnp.maximum(jnp.abs(start), jnp.abs(reset_state))

    bounds = jax.tree.map(one, recurrence.bound, h0, h0 if reset_state is None else reset_state)
    return one_step(bounds, recurrence.axis)


def _distance(x: State, y: State, axis: int) -> Array:
    """The largest |x - y| of each sequence, relative where |x| is above 1."""

    def one(x: Array, y: Array) -> Array:
        return (jnp.abs(x - y) / jnp.maximum(jnp.abs(x), 1)).max(range(axis, x.ndim))

    return functools.reduce(jnp.maximum, jax.tree.leaves(jax.tree.map(one, x, y)))
