"""What every cell shares: the interface, the registry, the checks; and all that a cell gets for being a scan.

Shapes: `...` any leading batch axes, T time, D features of the model, N state channels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.engine.front import scan
from mru.operators import Operator

REGISTRY: dict[str, type[Cell]] = {}


class StateParam(nnx.Param):
    """A parameter of the state update: `mru.adamw` trains it with a learning rate of its own and no weight decay."""


class Scheduled(nnx.Variable):
    """A scalar that a schedule moves during training: no optimiser sees it, checkpoints keep it."""


def seeded(rngs: nnx.Rngs | int) -> nnx.Rngs:
    """Random number streams: those given, or new ones from an int seed.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(rngs, int) and not isinstance(rngs, bool):
        return nnx.Rngs(rngs)
    if not isinstance(rngs, nnx.Rngs):
        raise ValueError(f"rngs must be flax.nnx.Rngs or an int seed, got {type(rngs).__name__}")
    return rngs


def linear(inputs: int, outputs: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs, **kwargs: Any) -> nnx.Linear:
    """An `nnx.Linear` that multiplies in `dtype` and accumulates in float32.

    A gate compares what comes out with a threshold: rounding it to bfloat16 would make the parallel form and the step
    form of a cell disagree on which side it falls.
    """
    accumulate = None if dtype is None else jnp.promote_types(dtype, jnp.float32)
    return nnx.Linear(inputs, outputs, dtype=dtype, preferred_element_type=accumulate, rngs=rngs, **kwargs)


class Cell(nnx.Module):
    """A causal sequence layer (..., T, D) -> (..., T, D) that can also be run one step at a time.

    A subclass names itself for configs, `class LRU(ScanCell, name="lru")`, and is found by `mru.cells.get`.
    """

    registry_name: ClassVar[str]
    features: int
    state_size: int

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.registry_name = name
            REGISTRY[name] = cls

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Array:
        """The state before the first step, (*batch_shape, N)."""
        raise NotImplementedError

    def __call__(
        self,
        x: Array,
        state: Array | None = None,
        reset: Array | None = None,
        *,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Run over a whole sequence.

        Args:
            x: (..., T, D), floating point.
            state: State carried over from the steps before, (..., N); the cell's initial state if None.
            reset: Boolean (..., T), true where a new sequence starts, from the cell's initial state.
            capture: If given, it is filled with what happens inside (states, gates), by name, for plots.

        Returns:
            y (..., T, D) in the dtype of `x`, and the state after the last step.

        Raises:
            ValueError: A shape or dtype does not fit; the message gives the expected and the given one.
        """
        raise NotImplementedError

    def step(self, x: Array, state: Array) -> tuple[Array, Array]:
        """Run one step: x (..., D), state (..., N) -> y (..., D), state."""
        raise NotImplementedError

    def _check(self, x: Array, time: bool) -> None:
        name = type(self).__name__
        expected = f"(..., T, {self.features})" if time else f"(..., {self.features})"
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} takes floating-point inputs, got {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim < 1 + time or x.shape[-1] != self.features or (time and x.shape[-2] < 1):
            raise ValueError(f"{name} takes inputs of shape {expected} with T >= 1, got {x.shape}")


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
        """
        for name, size in (("features", features), ("state_size", state_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.features = features
        self.state_size = state_size
        self.channels = channels or state_size
        self.state_dtype = jnp.dtype(state_dtype)
        self.method = method
        if start is None:
            complex_ = jnp.issubdtype(self.state_dtype, jnp.complexfloating)
            start = jnp.zeros((self.channels, 2) if complex_ else self.channels)
        self.start = nnx.data(StateParam(start) if learn_initial_state else None)

    def operator(self, x: Array) -> Operator:
        """The maps of all steps, fields (..., T, N), given the inputs (..., T, D)."""
        raise NotImplementedError

    def readout(self, h: Array, x: Array) -> Array:
        """The outputs (..., T, D), given the states after each step (..., T, N) and the inputs."""
        raise NotImplementedError

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Array:
        """The state before the first step, (*batch_shape, N)."""
        if self.start is None:
            return jnp.zeros((*batch_shape, self.channels), self.state_dtype)
        start = self.start[...]
        if jnp.issubdtype(self.state_dtype, jnp.complexfloating):
            start = jax.lax.complex(start[..., 0], start[..., 1])
        return jnp.broadcast_to(start, (*batch_shape, self.channels))

    def __call__(self, x, state=None, reset=None, *, capture=None):
        """See `Cell.__call__`."""
        self._check(x, time=True)
        state = self._state(state, x.shape[:-2])
        op = self.operator(x)
        h = scan(op, state, reset=reset, reset_state=self.initial_state(), method=self.method)
        if capture is not None:
            capture["state"] = h
            capture.update({k: v for k, v in op.gates().items() if jnp.shape(v)[-2:] == h.shape[-2:]})
        return self.readout(h, x).astype(x.dtype), h[..., -1, :]

    def step(self, x, state):
        """See `Cell.step`."""
        self._check(x, time=False)
        state = self._state(state, x.shape[:-1])
        x = x[..., None, :]
        h = scan(self.operator(x), state)
        return self.readout(h, x).astype(x.dtype)[..., 0, :], h[..., 0, :]

    def _state(self, state: Array | None, batch_shape: tuple[int, ...]) -> Array:
        if state is None:
            return self.initial_state(batch_shape)
        expected = (*batch_shape, self.channels)
        if jnp.shape(state) != expected or jnp.result_type(state) != self.state_dtype:
            raise ValueError(
                f"{type(self).__name__} takes a state of shape {expected} and dtype {self.state_dtype}, "
                f"got {jnp.shape(state)} {jnp.result_type(state)}"
            )
        return state
