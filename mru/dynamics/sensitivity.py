"""Sensitivity: how much the last state, or a loss, still depends on an input so many steps before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.cells import Cell
from mru.dynamics._cells import compiled, differentiable, flat
from mru.model import SequenceModel


def sensitivity(
    model: Cell | SequenceModel,
    x: Array,
    loss: Callable[[Array], Array] | None = None,
    *,
    seed: int = 0,
) -> Array:
    """Norm of the gradient by the input at lag k, root mean square over the batch, by one reverse pass.

    The derivatives are those that training sees: surrogates included.

    Args:
        model: A cell or a model.
        x: Inputs, (B, T, D), floating point.
        loss: Of what to take the gradient, a function from the outputs (B, ...) to the loss of each sequence (B,). If
            None it is the last state h_T, of which a random projection v . h_T is differentiated, with v normal: its
            squared gradient has the squared Frobenius norm of d h_T / d x_{T-k} as its mean.
        seed: Of v.

    Returns:
        (T,), for lag k = 0 (the last step) to T - 1 (the first).

    Raises:
        ValueError: The inputs are no batch of floating-point sequences.
    """
    if jnp.ndim(x) != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"sensitivity takes floating-point inputs (B, T, D), got {x.dtype} {jnp.shape(x)}")
    return _sensitivity(model, x, jax.random.key(seed), loss=loss)


@compiled("loss")
def _sensitivity(model: Any, x: Array, key: Array, *, loss: Callable[[Array], Array] | None) -> Array:
    def value(x: Array) -> Array:
        outputs, state = model(x)
        if loss is not None:
            return jnp.sum(loss(outputs))
        last = flat(differentiable(state.cells if isinstance(model, SequenceModel) else state)[0], 1)
        return jnp.sum((jax.random.normal(key, last.shape, last.dtype).conj() * last).real)

    squared = jnp.sum(jax.grad(value)(x) ** 2, -1)
    return jnp.sqrt(jnp.mean(squared, 0))[::-1]
