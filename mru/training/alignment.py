"""Direct feedback alignment: learning without backpropagation through time, as M2RU does (arXiv 2512.17299).

The error at the output, e = d loss / d outputs, goes to the states of each cell at every step through a matrix of the
cell that is random and never changes: the state after step t has the cotangent e B. From there the derivative of that
one step, h_t = f(x_t, h_{t-1}), goes to the cell's parameters, and nowhere else: not to the state before, and not to
the input. No state has to be kept for a backward pass through time.

Our reading, where the paper is silent or its network is another: B is normal with variance 1 / outputs. Where the model
has one output for a sequence, each of its real steps has an equal share of e. What lies outside of the recurrence (the
cell's readout, MLPs, norms, encoder, head) has no time in it and learns by its exact derivative, along the residual
stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

import mru.cells
from mru.cells import RecurrentCell
from mru.dynamics.layers import layers
from mru.model import SequenceModel
from mru.training.task import ModelInputs

# The share of a gradient that M2RU writes.
KEEP = 0.43


def require(model: SequenceModel) -> None:
    """Require that feedback alignment can train a model.

    Raises:
        ValueError: It can not; one line names the cell.
    """
    for cell in layers(model).values():
        if not getattr(cell, "alignable", False):
            able = [name for name in mru.cells.names() if getattr(mru.cells.get(name), "alignable", False)]
            raise ValueError(
                f"train.feedback = alignment, allowed: backpropagation, as {type(cell).__name__} can not learn by "
                f"alignment; cells that can: {', '.join(able)}"
            )
    if jax.tree.leaves(nnx.state(model, nnx.BatchStat)):
        raise ValueError(
            "train.feedback = alignment, allowed: backpropagation, or model.norm = layer or rms, as the error of one "
            "example would go to all of a batch"
        )
    if model.bidirectional:
        raise ValueError("train.feedback = alignment, allowed: backpropagation, or model.bidirectional = false")


def value_and_grad(
    model_of: Callable[[Any], SequenceModel],
    outputs_of: Callable[..., Array],
    loss_of: Callable[[Array], tuple[Array, Any]],
    given: ModelInputs,
    key: Array,
) -> Callable[[Any], tuple[tuple[Array, Any], Any]]:
    """Like `jax.value_and_grad` of the loss with `has_aux`, with feedback alignment in place of the gradient.

    Args:
        model_of: From parameters to the model, made anew.
        outputs_of: From (model, capture) to its outputs.
        loss_of: From outputs to the loss, and anything else.
        given: What the model is called with.
        key: Key of the random matrices.
    """

    def run(params: Any) -> tuple[Array, dict[str, Array]]:
        model, captured = model_of(params), dict[str, Array]()
        for cell in layers(model).values():
            assert isinstance(cell, RecurrentCell)
            cell.local = True
        outputs = outputs_of(model, captured)
        return outputs, {name: captured[f"{name}/state"] for name in layers(model)}

    def call(params: Any) -> tuple[tuple[Array, Any], Any]:
        (outputs, states), pull = jax.vjp(run, params)
        found, error = jax.value_and_grad(loss_of, has_aux=True)(outputs)
        (gradient,) = pull((error, feedback(error, states, given, key)))
        return found, gradient

    return call


def feedback(error: Array, states: dict[str, Array], given: ModelInputs, key: Array) -> dict[str, Array]:
    """The cotangents of the states.

    Args:
        error: Derivative of the loss in the outputs, (B, outputs) of a sequence or (B, T, outputs) of each step.
        states: States (B, T, N) of each cell, by its name.
        given: What the model is called with.
        key: Key of the random matrices; that of a cell depends on its place among the cells.
    """
    found = {}
    for number, (name, h) in enumerate(states.items()):
        matrix = matrix_of(key, number, error.shape[-1], h.shape[-1])
        back = error.astype(jnp.float32) @ matrix
        if error.ndim < h.ndim:
            share = _last_sequence(given, h.shape[-2])
            back = back[:, None] * (share / share.sum(-1, keepdims=True))[..., None]
        found[name] = back.astype(h.dtype)
    return found


def matrix_of(key: Array, number: int, outputs: int, state_size: int) -> Array:
    """The random matrix (outputs, N) of a cell."""
    return jax.random.normal(jax.random.fold_in(key, number), (outputs, state_size)) / outputs**0.5


def _last_sequence(given: ModelInputs, time: int) -> Array:
    """1 at the steps (B, T) that the output is about: real ones, of the last sequence in a packed row."""
    steps = jnp.arange(time)
    real = jnp.ones((len(given.inputs), time), bool) if given.lengths is None else steps < given.lengths[:, None]
    if given.reset is not None:
        start = jnp.max(jnp.where(given.reset & real, steps, 0), -1, keepdims=True)
        real &= steps >= start
    return real.astype(jnp.float32)
