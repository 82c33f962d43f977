"""What the measures share: compiled functions of a cell, its step as a map of the state, and states as one array."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mru.cells import Cell, ScanCell, State
from mru.engine import checks
from mru.engine.steps import part, widen

_Result = TypeVar("_Result")


def compiled(*static: str) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """Compile `function(module, *arrays, **options)` once for all modules of a structure.

    Args:
        static: Names of the arguments that are no arrays.
    """

    def decorate(function: Callable[..., _Result]) -> Callable[..., _Result]:
        @functools.partial(jax.jit, static_argnums=0, static_argnames=static)
        def run(graphdef: Any, variables: Any, *arrays: Any, **options: Any) -> _Result:
            return function(nnx.merge(graphdef, variables), *arrays, **options)

        @functools.wraps(function)
        def call(module: nnx.Module, *arrays: Any, **options: Any) -> _Result:
            return run(*nnx.split(module), *arrays, **options)

        return call

    return decorate


def advance(cell: Cell, x: Array, h: State) -> State:
    """The state after a step, given its input (..., D) and the state before; JAX differentiates it in any mode."""
    if isinstance(cell, ScanCell):
        op = checks.operator(cell.operator(x[..., None, :]))
        return part(widen(op, op.dtype), 0, x.ndim - 1).apply(h)
    return cell.step(x, h)[1]


def flat(state: State, lead: int) -> Array:
    """A state as one array (..., M): its arrays, whose first `lead` axes are no channels, one after the other."""
    leaves = [jnp.reshape(x, (*jnp.shape(x)[:lead], -1)) for x in jax.tree.leaves(state)]
    return jnp.concatenate(leaves, -1) if len(leaves) > 1 else leaves[0]


def differentiable(state: State) -> tuple[list[Array], Callable[[list[Array]], State]]:
    """The arrays of a state that have derivatives, and how a state is made of such: with its others, counts, as is."""
    leaves, tree = jax.tree.flatten(state)
    places = [k for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def whole(arrays: list[Array]) -> State:
        new = dict(zip(places, arrays, strict=True))
        return jax.tree.unflatten(tree, [new.get(k, leaf) for k, leaf in enumerate(leaves)])

    return [leaves[k] for k in places], whole


def states(cell: Cell, x: Array) -> Array:
    """The state after each step, (..., T, M).

    Raises:
        ValueError: The cell does not say what its states are.
    """
    found: dict[str, Array] = {}
    cell(x, capture=found)
    held = {name: value for name, value in found.items() if name.split("/")[0] == "state"}
    if not held:
        raise ValueError(f"{type(cell).__name__} captures no state; it captures {', '.join(found) or 'nothing'}")
    return flat(held, x.ndim - 1)


def run_on(cell: Cell, x: Array, state: State, steps: int) -> State:
    """The state after `steps` more steps of the constant input (..., D), in memory that does not grow with them."""
    chunk = min(steps, 1000) or 1
    repeated = jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], chunk, x.shape[-1]))
    state = jax.lax.fori_loop(0, steps // chunk, lambda _, h: cell(repeated, h)[1], state)
    return jax.lax.fori_loop(0, steps % chunk, lambda _, h: cell.step(x, h)[1], state)


def histories(cell: Cell, count: tuple[int, ...], scale: Array | float, seed: int, steps: int = 200) -> State:
    """States that the cell gets into: those after `steps` random inputs, normal with deviation `scale`."""
    x = scale * jax.random.normal(jax.random.key(seed), (*count, steps, cell.features))
    return cell(x)[1]
