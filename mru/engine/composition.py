"""Steps taken as one: a composed map, and the state after them where a sequence started on the way.

Where a reset lies among the steps nothing before them matters, and the state after them is a value. There the composed
map is not read, and must not bring a NaN in by its derivative either: values are selected, never multiplied by zero.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.steps import varies
from mru.operators import Operator
from mru.operators.base import State, select


class Composition(NamedTuple):
    """Some steps as one, or many such.

    Attributes:
        op: Their maps composed, where there is no reset among them.
        value: The state after them, where there is; None if there are no resets at all.
        reset: Whether there is, boolean; None if there are no resets at all.
    """

    op: Operator
    value: State | None = None
    reset: Array | None = None

    def apply(self, h: State, reset_state: State | None) -> State:
        """The state after the steps, given the state before them."""
        if self.reset is None:
            return self.op.apply(h)
        # Selected twice, since the derivative of `apply` multiplies by the state that it was given.
        return select(self.reset, self.value, self.op.apply(select(self.reset, reset_state, h)))


def alone(op: Operator, reset: Array | None, reset_state: State | None) -> Composition:
    """Single steps, not yet composed; `reset_state` has the batch and time axes that `reset` has."""
    if reset is None:
        return Composition(op)

    def for_all(x: Array) -> Array:
        return jnp.broadcast_to(x, (*reset.shape, *x.shape[reset.ndim :]))

    return Composition(op, op.apply(jax.tree.map(for_all, reset_state)), reset)


def joined(earlier: Composition, later: Composition, reset_state: State | None) -> Composition:
    """The later steps after the earlier ones."""
    if earlier.reset is None or later.reset is None:
        return Composition(later.op.compose(earlier.op))
    leaves, tree = jax.tree.flatten(earlier.op)
    pairs = zip(leaves, jax.tree.leaves(later.op), varies(later.op), strict=True)
    # What lies before a reset is replaced by what is as finite as the steps after it.
    before = jax.tree.unflatten(tree, [select(later.reset, y, x) if moves else x for x, y, moves in pairs])
    value = later.op.apply(select(later.reset, reset_state, earlier.value))
    return Composition(
        later.op.compose(before), select(later.reset, later.value, value), earlier.reset | later.reset
    )  # fmt: skip
