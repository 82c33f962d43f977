"""A cell whose state update is any function of the state: run one step after the other, or by Newton's method.

Shapes: `...` any leading batch axes, T time, D features of the model, N state channels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mru.cells._base import Cell, in_precision_of, named, resets
from mru.engine import newton
from mru.engine.forward_mode import reverse_only
from mru.engine.recurrence import loop
from mru.engine.steps import at, states_before
from mru.operators.base import State

METHODS = ("auto", "sequential", "newton", "parallel_backward")


class RecurrentCell(Cell):
    """A cell whose state update is any function: declare `update`, `readout` and, if it is not zero, `initial_state`.

    What of an update depends on the input alone goes into `prepare`: matrix products of all steps at once are faster.

    Methods:
        "auto"               "sequential"
        "sequential"         one step after the other, in both passes. The backward pass is exact; it keeps the states
                             and recomputes what is inside a step
        "newton"             parallel in time (see `mru.engine.newton`): each iteration is an update of all steps at
                             once and one `mru.scan`. Where any sequence of the batch has not converged after
                             `newton_iterations`, all are run one step after the other. The backward pass is one exact
                             scan, without iterations; where the Jacobian is "dense", it goes step by step
        "parallel_backward"  forward as "sequential", backward as "newton"; not where the Jacobian is "dense"

    With the last two the derivative is in reverse mode only, and `update` must work for any leading axes. What Newton's
    method did is in `capture`, the same at all steps of a sequence: "newton/iterations", "newton/residual" and
    "newton/converged". Under `jax.vmap` the loop is run even where it has converged: give batch axes instead.

    Attributes:
        jacobian: What the state after a step depends on. "diagonal": channel n on channel n alone, in one array;
            "pairwise": channel n of two arrays on channel n of both; "dense": anything, for which Newton's method takes
            the diagonal at the cost of N derivatives an iteration, and may well not converge. "diagonal" and "pairwise"
            are promises: gradients are wrong where they do not hold.
        newton_tolerance: Largest residual |f(x_t, h_{t-1}) - h_t| of a state that has converged, relative where |h_t|
            is above 1. It is that of float32, and smaller in float64.
        newton_iterations: Iterations at most.
        alignable: Whether feedback alignment (`mru.training.alignment`) can train the cell.
        local: Derivatives end within each step: none goes to the state before it, to its input through the state, or
            from the readout to the state. The states are then in `capture` with the derivative of their own step,
            for a cotangent that is made elsewhere.
    """

    jacobian: ClassVar[Literal["diagonal", "pairwise", "dense"]] = "dense"
    newton_tolerance: float = 1e-6
    newton_iterations: int = 100
    alignable: ClassVar[bool] = False
    local: bool = False

    def __init__(self, features: int, state_size: int, *, method: str = "auto"):
        """Record the sizes.

        Args:
            features: D.
            state_size: N.
            method: How a sequence is run.

        Raises:
            ValueError: A size is not an integer of at least 1, or the method is unknown, or not for this cell.
        """
        self._set_sizes(features, state_size)
        self._set_method(method, METHODS)
        if method == "parallel_backward" and self.jacobian == "dense":
            raise ValueError(
                f"method 'parallel_backward' needs a diagonal or pairwise Jacobian, that of {type(self).__name__} is "
                "dense: use 'sequential'"
            )

    def prepare(self, x: Array) -> Any:
        """What `update` is given of the inputs (..., D): arrays (..., and any axes) that depend on them alone.

        All steps of a sequence come at once, (..., T, D). The inputs themselves, if a cell says nothing.
        """
        return x

    def update(self, x: Any, h: State) -> State:
        """The state after a step, given what `prepare` made of its input, and the state before it.

        It must have the structure and shapes of the state before; it is given the dtypes of that.
        """
        raise NotImplementedError

    def readout(self, h: State, x: Array) -> Array:
        """The outputs (..., D), given the state after a step and its input.

        The steps of a sequence come at once: the inputs are then (..., T, D), and every array of `h` has T there too.
        """
        raise NotImplementedError

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """The state before the first step: zeros (*batch_shape, N)."""
        return jnp.zeros((*batch_shape, self.state_size), jnp.float32)

    def bound(self, steps: int) -> State | None:
        """By how much |h| can exceed that of the state before a number of steps, whatever their inputs.

        A number for each array of the state, or None if that is not known. Newton's method clips its guesses there, as
        they would else be many orders of magnitude away where the update is bistable.
        """
        return None

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
        state = in_precision_of(x, self._carried(state, x.shape[:-2]))
        start = None if reset is None else in_precision_of(x, self.initial_state(x.shape[:-2]))
        reset = None if reset is None else resets(reset, x)
        run = self._frozen() if self.local else self
        h, found = run._states(run.prepare(x), state, start, reset, x.ndim - 2)
        last = at(h, -1, x.ndim - 2)
        if self.local:
            before = states_before(h, state, reset, start, x.ndim - 2, False)
            h = self._update(self.prepare(jax.lax.stop_gradient(x)), jax.lax.stop_gradient(before))
        if capture is not None:
            capture.update(named("state", h))
            for name, value in {} if found is None else found._asdict().items():
                capture[f"newton/{name}"] = jnp.broadcast_to(value[..., None], x.shape[:-1])
        return self.readout(jax.lax.stop_gradient(h) if self.local else h, x).astype(x.dtype), last

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """See `Cell.step`."""
        x = self._checked(x, time=False)
        state = self._update(self.prepare(x), in_precision_of(x, self._carried(state, x.shape[:-1])))
        return self.readout(state, x).astype(x.dtype), state

    def _frozen(self) -> Self:
        """The cell without a derivative in its parameters: a backward pass keeps nothing of it."""
        graphdef, variables = nnx.split(self)
        return nnx.merge(graphdef, jax.lax.stop_gradient(variables))

    def _states(
        self, inputs: Any, state: State, start: State | None, reset: Array | None, axis: int
    ) -> tuple[State, newton.Diagnosis | None]:
        """The state after each step, and how Newton's method went, if it is the method."""
        if self.method in ("auto", "sequential"):
            return loop(self._update, inputs, state, reset, start, axis), None
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(state)):
            kinds = ", ".join(str(leaf.dtype) for leaf in jax.tree.leaves(state))
            raise ValueError(f"method {self.method!r} needs a state of real numbers, {type(self).__name__} has {kinds}")
        graphdef, variables = nnx.split(self)

        def update(variables: Any, x: Any, h: State) -> State:
            return nnx.merge(graphdef, variables)._update(x, h)

        recurrence = newton.Recurrence(
            update=update,
            jacobian=self.jacobian,
            newton=self.method == "newton",
            axis=axis,
            tolerance=self.newton_tolerance,
            iterations=self.newton_iterations,
            bound=self.bound(jax.tree.leaves(inputs)[0].shape[axis]),
        )
        given = reverse_only(
            (variables, inputs, state, start),
            f"{type(self).__name__} with method={self.method!r}",
            "method='sequential'; this one has reverse mode only",
        )
        return newton.states(recurrence, *given, reset)

    def _update(self, x: Any, h: State) -> State:
        new = self.update(x, h)
        expected, given = (jax.tree.map(jnp.shape, tree) for tree in (h, new))
        if expected != given:
            raise ValueError(
                f"{type(self).__name__}.update must return a state like the one it is given, of shapes {expected}, "
                f"got {given}"
            )
        return jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), h, new)
