"""A cell whose state update is an operator closed under composition, and all that it gets for being one.

Shapes: `...` any leading batch axes, T time, D features of the model, N state channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import Cell, StateParam, named
from mru.engine.front import scan
from mru.engine.methods import METHODS
from mru.engine.steps import states_before
from mru.operators import Operator
from mru.operators.base import State


class ScanCell(Cell):
    """A cell whose state update is an operator closed under composition: declare `operator` and `readout`."""

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        learn_initial_state: bool = False,
        start: Array | None = None,
        state_dtype: DTypeLike = jnp.float32,
        channels: int | None = None,
        method: str = "auto",
    ):
        """Record the sizes.

        Args:
            features: D.
            state_size: N.
            learn_initial_state: Learn the initial state; it is zero if not.
            start: What a learned initial state starts as, real (N,), or (N, 2) for a complex one; zeros if None.
            state_dtype: float32 or complex64.
            channels: State channels carried where they are fewer than `state_size` (conjugate pairs).
            method: Method of `mru.scan`.

        Raises:
            ValueError: A size is not an integer of at least 1, or the method is unknown.
        """
        self._set_sizes(features, state_size)
        self._set_method(method, METHODS)
        self.channels = channels or self.state_size
        self.state_dtype = jnp.dtype(state_dtype)
        if start is None:
            complex_ = jnp.issubdtype(self.state_dtype, jnp.complexfloating)
            start = jnp.zeros((self.channels, 2) if complex_ else self.channels, jnp.float32)
        self.start = nnx.data(StateParam(start) if learn_initial_state else None)

    def operator(self, x: Array) -> Operator:
        """The maps of all steps, fields (..., T, N), given the inputs (..., T, D)."""
        raise NotImplementedError

    def readout(self, h: State, x: Array) -> Array:
        """The outputs (..., T, D), given the states after each step, (..., T, N), and the inputs."""
        raise NotImplementedError

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """The state before the first step, (*batch_shape, N).

        A cell whose operator has states of another kind, such as pairs, gives them here.
        """
        if self.start is None:
            return jnp.zeros((*batch_shape, self.channels), self.state_dtype)
        start = self.start[...]
        if jnp.issubdtype(self.state_dtype, jnp.complexfloating):
            start = jax.lax.complex(start[..., 0], start[..., 1])
        # A copy, which a program may be given to overwrite, and not the parameter itself.
        return jnp.array(jnp.broadcast_to(start, (*batch_shape, self.channels)))

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        reset: Array | None = None,
        *,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, State]:
        """See `Cell.__call__`."""
        x = self._checked(x, time=True)
        return self._run(self.operator(x), x, state, reset, capture)

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """See `Cell.step`."""
        x = self._checked(x, time=False)
        x = x[..., None, :]
        y, state = self._run(self.operator(x), x, state)
        return y[..., 0, :], state

    def _run(
        self,
        op: Operator,
        x: Array,
        state: State | None,
        reset: Array | None = None,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, State]:
        state = self._carried(state, x.shape[:-2])
        restored = None if reset is None else self.initial_state()
        h = scan(op, state, reset=reset, reset_state=restored, method=self.method)
        if capture is not None:
            found = {"state": h, **op.gates()}
            if op.says("holds"):
                found["write"] = ~op.holds(self._before(h, state, x, reset))
            for name, value in found.items():
                capture.update({k: v for k, v in named(name, value).items() if _is_sequence(v, x)})
        return self.readout(h, x).astype(x.dtype), jax.tree.map(lambda leaf: _last(leaf, x.ndim - 2), h)

    def _before(self, h: State, state: State, x: Array, reset: Array | None) -> State:
        """The state before each step, as the scan had it."""
        reset = None if reset is None else jnp.broadcast_to(reset, x.shape[:-1])
        start = self.initial_state(x.shape[:-2])
        return states_before(h, state, reset, start, x.ndim - 2, reverse=False)


def _last(leaf: Array, axis: int) -> Array:
    lies = jax.typeof(leaf).sharding
    if not lies.mesh.explicit_axes or lies.spec[axis] is None:
        return leaf[(slice(None),) * axis + (-1,)]
    # Of an axis that types spread over devices JAX takes no single step.
    step = jax.lax.broadcasted_iota(jnp.int32, leaf.shape, axis, out_sharding=lies)
    return jnp.where(step == leaf.shape[axis] - 1, leaf, 0).sum(axis)


def _is_sequence(gate: Array, x: Array) -> bool:
    """If it has a value for every step: (..., T, and more)."""
    return jnp.ndim(gate) >= x.ndim and jnp.shape(gate)[: x.ndim - 1] == x.shape[:-1]
