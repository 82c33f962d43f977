"""The interface of a cell, the registry of cells, and what their variables are.

Shapes: `...` any leading batch axes, T time, D features of the model, N state channels.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mru.operators.base import State
from mru.registry import Registry

REGISTRY: Registry[Cell] = Registry("cell", "mru.cells")


class StateParam(nnx.Param[Array]):
    """A parameter of the state update: `mru.adamw` trains it with a learning rate of its own and no weight decay."""


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A scalar that goes linearly from `start` to `end` while training is between two fractions of its steps.

    Args:
        start: Value before.
        end: Value after.
        begin: Fraction of the steps at which it begins to move.
        finish: Fraction of the steps at which it has arrived.
    """

    start: float = 1.0
    end: float = 0.0
    begin: float = 0.2
    finish: float = 0.6

    def __call__(self, step: Array, steps: int) -> Array:
        """The value at a step, exactly `end` from step `arrival(steps)` on."""
        begin, finish = self.begin * steps, self.arrival(steps)
        moving = self.start + (self.end - self.start) * jnp.clip((step - begin) / max(finish - begin, 1e-9), 0, 1)
        return jnp.where(step < finish, moving, self.end)

    def arrival(self, steps: int) -> int:
        """The first step with the value `end`."""
        return math.ceil(round(self.finish * steps, 6))  # 0.07 of 100 steps is a little more than 7, as floats have it


class Scheduled(nnx.Variable[Array]):
    """A scalar that a schedule may move during training: no optimiser sees it, checkpoints keep it.

    Args:
        value: The value where no schedule moves it.
        ramp: The schedule that training gives it unless a config says otherwise; None leaves it as it is.
    """

    ramp: Ramp | None

    def __init__(self, value: Array | float, *, ramp: Ramp | None = None, **metadata: Any):
        super().__init__(jnp.asarray(value, jnp.float32), ramp=ramp, **metadata)


def as_rngs(rngs: nnx.Rngs | int) -> nnx.Rngs:
    """Random streams, also of an int seed.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(rngs, nnx.Rngs):
        return rngs
    try:
        return nnx.Rngs(operator.index(rngs))
    except TypeError:
        raise ValueError(f"rngs must be an nnx.Rngs or an int seed, got {type(rngs).__name__}") from None


def at_least_one(name: str, size: int) -> int:
    """A size as an int.

    Raises:
        ValueError: It is not an integer of at least 1.
    """
    if not hasattr(size, "__index__") or operator.index(size) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
    return operator.index(size)


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that a state has where the input is float64: float64, complex128, or that of integers and booleans."""
    return jnp.promote_types(dtype, jnp.float64) if jnp.issubdtype(dtype, jnp.inexact) else dtype


def in_precision_of(x: Array, state: State) -> State:
    """The state, of float64 and complex128 where the input is float64: a loop must not change the dtype it carries."""
    if x.dtype != jnp.float64:
        return state
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, wide(leaf.dtype)), state)


def resets(reset: Array, x: Array) -> Array:
    """`reset` as (..., T)."""
    reset, shape = jnp.asarray(reset), x.shape[:-1]
    try:
        if reset.dtype != bool or reset.shape[-1:] != shape[-1:]:
            raise ValueError
        return jnp.broadcast_to(reset, shape)
    except ValueError:
        raise ValueError(f"reset must be bool {shape}, got {reset.dtype} {reset.shape}") from None


class Cell(nnx.Module):
    """A causal sequence layer (..., T, D) -> (..., T, D) that can also be run one step at a time.

    A subclass names itself for configs, `class LRU(ScanCell, name="lru")`, and is found by `mru.cells.get`. One that
    is found by name is built as `cls(features, state_size, method=..., dtype=..., rngs=..., **options)`.

    Parameters are float32. The computation is that of float32 (complex64), or of float64 (complex128) where the input
    is float64, for which JAX has to be told `jax_enable_x64`.
    """

    registry_name: ClassVar[str]
    features: int
    state_size: int

    if TYPE_CHECKING:  # a class found by name takes whatever its own constructor takes

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            REGISTRY.add(name, cls)
            cls.registry_name = name

    @classmethod
    def bidirectional(cls, *args: Any, rngs: nnx.Rngs | int, **options: Any) -> Cell:
        """This cell in both directions, built with the arguments of one: two cells, unless the class has a better way.

        Returns:
            A cell that is called like one but has no `step`, as a backward half needs the steps still to come.
        """
        from mru.cells.bidirectional import Bidirectional  # which is a cell itself

        rngs = as_rngs(rngs)  # once: from one seed both directions would be the same cell
        return Bidirectional(cls(*args, rngs=rngs, **options), cls(*args, rngs=rngs, **options))

    @classmethod
    def host_bytes(cls, features: int, state_size: int, **options: Any) -> int:
        """Bytes of host memory that making a cell with these arguments takes for sure, beside its parameters.

        Training asks before it makes one, and refuses what does not fit; a cell whose constructor computes with large
        arrays of its own says so here.
        """
        return 0

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """The state before the first step: a pytree of arrays whose shapes begin with `batch_shape`."""
        raise NotImplementedError

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        reset: Array | None = None,
        *,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, State]:
        """Run over a whole sequence.

        Args:
            x: (..., T, D), floating point.
            state: State carried over from the steps before; the cell's initial state if None.
            reset: Boolean (..., T), true where a new sequence starts, from the cell's initial state.
            capture: If given, it is filled with what happens inside, by name: the "state" after each step, gates,
                and of a cell that can hold, where it does a "write", boolean; arrays (..., T, and their own axes).

        Returns:
            y (..., T, D) in the dtype of `x`, and the state after the last step.

        Raises:
            ValueError: A shape or dtype does not fit; the message gives the expected and the given one.
        """
        raise NotImplementedError

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """Run one step.

        Args:
            x: (..., D), floating point.
            state: What the step before returned; the cell's initial state if None.

        Returns:
            y (..., D) in the dtype of `x`, and the state after the step.

        Raises:
            ValueError: A shape or dtype does not fit.

        Example:
            A cell that adds up what it is given goes on where the whole sequence ended:

            >>> import jax.numpy as jnp, mru
            >>> class Sum(mru.cells.ScanCell):
            ...     def operator(self, x):
            ...         return mru.Affine(jnp.ones(1), x)
            ...     def readout(self, h, x):
            ...         return h
            >>> cell = Sum(features=1, state_size=1)
            >>> y, state = cell(jnp.array([[1.0], [2.0], [3.0]]))
            >>> y, state = cell.step(jnp.array([4.0]), state)
            >>> print(y)  # 1 + 2 + 3 + 4
            [10.]
        """
        raise NotImplementedError

    def _set_sizes(self, features: int, state_size: int) -> None:
        self.features = at_least_one("features", features)
        self.state_size = at_least_one("state_size", state_size)

    def _set_method(self, method: str, methods: Iterable[str]) -> None:
        if method not in (known := list(methods)):
            raise ValueError(f"method of {type(self).__name__} must be one of {', '.join(known)}, got {method!r}")
        self.method = method

    def _checked(self, x: Array, time: bool) -> Array:
        """The inputs as an array of JAX, if they fit."""
        name = type(self).__name__
        expected = f"(..., T, {self.features})" if time else f"(..., {self.features})"
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} takes floating-point inputs, got {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim < 1 + time or x.shape[-1] != self.features or (time and x.shape[-2] < 1):
            raise ValueError(f"{name} takes inputs of shape {expected} with T >= 1, got {x.shape}")
        return jnp.asarray(x)

    def _carried(self, state: State | None, batch_shape: tuple[int, ...]) -> State:
        """The state to start from: the initial one if None, else the given one, which must be like it."""
        if state is None:
            return self.initial_state(batch_shape)
        start = jax.eval_shape(lambda: self.initial_state(batch_shape))
        structure: Any = jax.tree.structure(start)
        if jax.tree.structure(state) != structure:
            raise ValueError(
                f"{type(self).__name__} takes a state of structure {structure}, got {jax.tree.structure(state)}"
            )
        expected = jax.tree_util.tree_leaves_with_path(start)
        for (path, leaf), value in zip(expected, jax.tree.leaves(state), strict=True):
            if jnp.shape(value) != leaf.shape or jnp.result_type(value) not in (leaf.dtype, wide(leaf.dtype)):
                where = f" at {jax.tree_util.keystr(path)}" if path else ""
                raise ValueError(
                    f"{type(self).__name__} takes a state of shape {leaf.shape} and dtype {leaf.dtype}{where}, "
                    f"got {jnp.shape(value)} {jnp.result_type(value)}"
                )
        return state


def named(name: str, tree: Any) -> dict[str, Array]:
    """The arrays of a pytree by name, for `capture`: "state", or "state/0", "state/keys" where there are several."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {f"{name}/{path}" if path else name: leaf for path, (_, leaf) in zip(paths, leaves, strict=True)}
