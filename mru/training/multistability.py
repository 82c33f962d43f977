"""Warm nonlinear recurrences up, before they are trained, until a batch reaches many attractors.

Most recurrent cells have one equilibrium at the start: whatever they read, they end there, and nothing lasts. Gradient
steps on the recurrence alone, with inputs of the task and without its targets, give it many. Source: Lambrechts, De
Geeter, Vecoven, Ernst, Drion 2023, "Warming up recurrent neural networks to maximise reachable multistability greatly
improves learning" (arXiv 2106.01001). What is maximised, for how long and how is our reading; see `variability`.

This has nothing to do with `optimizer.warmup`, a learning rate that rises.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from mru.cells import Cell, RecurrentCell
from mru.dynamics import attractors
from mru.dynamics._cells import flat
from mru.dynamics.layers import layer, layers
from mru.model import SequenceModel
from mru.training.batches import Batch, train_batches
from mru.training.messages import compiling, say

if TYPE_CHECKING:
    from mru.training.trainer import Trainer, TrainState

# Relative distance at which two states count as 1/e of the same attractor.
WIDTH = 0.1


def suited(model: SequenceModel) -> list[str]:
    """The layers that can be warmed up: the nonlinear recurrences whose state is real.

    A cell that scans is none: what holds, holds by construction, and an affine map has one equilibrium.
    """
    return [name for name, cell in layers(model).items() if isinstance(cell, RecurrentCell) and _is_real(cell)]


def _is_real(cell: Cell) -> bool:
    graphdef, variables = nnx.split(cell)  # of a model that may be abstract, whose variables have no values
    state = jax.eval_shape(lambda variables: nnx.merge(graphdef, variables).initial_state(), variables)
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(state))


def variability(cell: Cell, x: Array, rest: Array | int, longest: int) -> Array:
    """How many attractors a batch reaches, as a fraction of its size and smoothly, less how fast they still move.

    `mru.dynamics.attractors` counts each end as one over the number of ends near it. Here another end is near by
    exp(-distance / 0.1), the Euclidean distance relative to the larger of 1 and the largest norm of an end; and the
    cell runs without input for `rest` steps instead of for good, as the gradient of what has met is lost. What still
    moves is no attractor: the mean size of one more step, per channel, is taken off, without which cycles and chaos
    count too.

    Args:
        cell: Cell.
        x: Sequences (B, T, D).
        rest: Steps without input, at most `longest`; it may be traced.
        longest: A bound of it.

    Returns:
        1/B or less where all ends are one, at most 1.
    """
    silence = jnp.zeros_like(x[:, 0])

    def one(h: Any, number: Array) -> tuple[Any, None]:
        new = cell.step(silence, h)[1]
        return jax.tree.map(lambda a, b: jnp.where(number < rest, b, a), h, new), None

    state, _ = jax.lax.scan(one, cell(x)[1], jnp.arange(longest))
    ends, after = flat(state, 1), flat(cell.step(silence, state)[1], 1)
    scale = jax.lax.stop_gradient(jnp.maximum(1, _length(ends).max()))
    # An end is as near to itself as can be, and the root has no derivative there.
    near = jnp.where(jnp.eye(len(ends), dtype=bool), 1, jnp.exp(-_length(ends[:, None] - ends) / (WIDTH * scale)))
    return jnp.mean(1 / near.sum(1)) - jnp.mean(_length(after - ends)) / ends.shape[-1] ** 0.5


def _length(x: Array) -> Array:
    """Euclidean length of the last axis, with a derivative at 0."""
    return jnp.sqrt(jnp.sum(x**2, -1) + 1e-12)


def warmed_up(trainer: Trainer, state: TrainState) -> TrainState:
    """The state before the first step, with recurrences that reach many attractors; says how many, before and after.

    From the first layer to the last, each by itself, on training batches as the layers below it, warmed up already,
    give them to it. Only the cell's own parameters move. A number of attractors is a property of one cell and its
    inputs; in one objective for the whole stack, the layers below would learn to serve those above.

    Args:
        trainer: Trainer; its config says how many steps, at which learning rate, and the `rest`.
        state: The state before the first step.
    """
    settings, said = trainer.config.multistability, []
    with jax.set_mesh(trainer.mesh):
        for name in suited(nnx.merge(trainer.graphdef, state.params, state.rest)):
            before = _reached(trainer, state, name)
            with compiling(f"the warm-up of {name}"):
                state = _warm_layer(trainer, state, name)
            said.append(f"{name} {before:.3g} before and {_reached(trainer, state, name):.3g} after")
    size = trainer.config.train.batch_size
    say(f"attractors that {size} sequences reach, {settings.steps} steps of multistability: {', '.join(said)}")
    return state


def _warm_layer(trainer: Trainer, state: TrainState, name: str) -> TrainState:
    """Warm up a layer.

    The steps are of Adam, with a rate that falls to 0 as a half cosine. The steps without input grow from none to
    `rest`: after many, at first, nothing would be left of a difference.
    """
    settings = trainer.config.multistability
    rate = optax.cosine_decay_schedule(settings.lr, settings.steps)
    transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    def split(params: Any) -> tuple[SequenceModel, Cell, Any, Any, Any]:
        model = nnx.merge(trainer.graphdef, params, state.rest)
        cell = layers(model)[name]
        graphdef, own, rest = nnx.split(cell, nnx.Param, ...)  # type: ignore[misc]
        return model, cell, graphdef, own, rest

    def step(params: Any, optimizer: Any, batch: dict[str, Array], number: Array) -> tuple[Any, Any]:
        model, cell, graphdef, own, rest = split(params)
        _, x = layer(model, name, **_given(trainer, batch))
        pause = number * settings.rest // max(settings.steps - 1, 1)
        gradient = jax.grad(lambda own: -variability(nnx.merge(graphdef, own, rest), x, pause, settings.rest))(own)
        updates, optimizer = transform.update(gradient, optimizer, own)
        nnx.update(cell, optax.apply_updates(own, updates))
        return nnx.state(model, nnx.Param), optimizer

    params, optimizer = state.params, jax.jit(lambda params: transform.init(split(params)[3]))(state.params)
    one = jax.jit(step, out_shardings=(trainer.shardings.params, None))
    with contextlib.closing(_batches(trainer)) as batches:
        for number in range(settings.steps):
            params, optimizer = one(params, optimizer, next(batches), jnp.int32(number))
    return dataclasses.replace(state, params=params)


def _batches(trainer: Trainer) -> Any:
    """The training batches of the run, on the mesh, from its first on."""
    config = trainer.config.train
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def place(batch: Batch) -> dict[str, Array]:
        return trainer.place({name: x[0] for name, x in batch.items()}, 0)

    return train_batches(trainer.task, batch_size=config.batch_size, seed=config.seed, place=place, **processes)


def _given(trainer: Trainer, batch: dict[str, Array]) -> dict[str, Any]:
    given = trainer.task.model_inputs(batch)
    return {"inputs": given.inputs, "lengths": given.lengths, "reset": given.reset}


def _reached(trainer: Trainer, state: TrainState, name: str) -> float:
    """The number of attractors that the first batch brings a layer to."""
    with contextlib.closing(_batches(trainer)) as batches:
        model = nnx.merge(trainer.graphdef, state.params, state.rest)
        return attractors(*layer(model, name, **_given(trainer, next(batches))))
