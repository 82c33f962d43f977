"""The largest Lyapunov exponent of a driven cell."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from mru.cells import Cell, State
from mru.dynamics._cells import advance, compiled, differentiable, flat


def lyapunov_exponent(cell: Cell, x: Array, *, seed: int = 0) -> Array:
    """Mean logarithmic growth a step of a small difference between two states under the same input.

    Negative: the past fades. 0: it is held, or counted. Positive: it is amplified. -infinity: it was overwritten whole.
    A random direction is carried along and made a unit vector again after each step (Benettin et al. 1980), so that
    the largest exponent is found with an error of the order of 1 / T.

    Args:
        cell: Cell.
        x: Inputs, (..., T, D).
        seed: Of the direction.

    Returns:
        One number a sequence, (...), per step.

    Raises:
        ValueError: The inputs are no sequences of at least one step of the cell's features.
    """
    if jnp.ndim(x) < 2 or jnp.shape(x)[-1] != cell.features or jnp.shape(x)[-2] < 1:
        raise ValueError(f"x must be (..., T, {cell.features}) with T >= 1, got {jnp.shape(x)}")
    return _exponent(cell, x, jax.random.key(seed))


@compiled()
def _exponent(cell: Cell, x: Array, key: Array) -> Array:
    lead = x.shape[:-2]
    start = cell.initial_state(lead)
    leaves, _ = differentiable(start)
    keys = jax.random.split(key, len(leaves))
    direction = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]

    def one(carry: tuple[State, list[Array], Array], x: Array) -> tuple[tuple[State, list[Array], Array], None]:
        h, v, total = carry
        arrays, whole = differentiable(h)

        def step(arrays: list[Array]) -> tuple[list[Array], State]:
            after = advance(cell, x, whole(arrays))
            return differentiable(after)[0], after

        _, v, h = jax.jvp(step, (arrays,), (v,), has_aux=True)
        norm = jnp.sqrt(jnp.sum(jnp.abs(flat(v, len(lead))) ** 2, -1))
        scale = jnp.where(norm > 0, norm, 1)
        v = jax.tree.map(lambda leaf: leaf / scale.reshape(scale.shape + (1,) * (leaf.ndim - scale.ndim)), v)
        return (h, v, total + jnp.log(norm)), None

    first = jnp.sqrt(jnp.sum(jnp.abs(flat(direction, len(lead))) ** 2, -1))
    begin = (start, direction, -jnp.log(first))
    (_, _, total), _ = jax.lax.scan(one, begin, jnp.moveaxis(x, -2, 0))
    return total / x.shape[-2]
