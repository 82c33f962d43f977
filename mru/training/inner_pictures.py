"""Pictures of what happens inside of a run's model: of each layer, and of its decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure

from mru import dynamics
from mru.cells import Cell
from mru.plots import classification, states
from mru.training import look
from mru.training.look import Run

# Hysteresis: how many units are driven, how far, where 1 is the largest input, and how far in a step.
MOST_DRIVEN, AMPLITUDE, SPEED = 64, 1.5, 0.02
# A picture by its name; it is drawn when it is called, which raises ValueError where there is nothing to draw.
Pictures = Iterator[tuple[str, Callable[[], Figure]]]


def of_run(run: Run) -> Pictures:
    """What its model decides, and what happens in each of its layers, on validation examples."""
    name = run.task.name
    counts = look.confusion_matrix(run)
    if counts is not None:
        yield "confusion", partial(classification.confusion, counts, title=f"{name}, validation, step {run.step}")
    found = look.inside(run)
    yield from _rasters(run, found)
    layers = {
        layer: dynamics.layer(run.model, layer, run.given.inputs, lengths=run.given.lengths, reset=run.given.reset)
        for layer in dynamics.layers(run.model)
    }
    for layer, (cell, x) in layers.items():
        yield f"{_file(layer)}-hysteresis", partial(_hysteresis, layer, cell, x, found.get(f"{layer}/state"))
    times = {key.removesuffix("/write"): _hold_times(run, x) for key, x in found.items() if key.endswith("/write")}
    if times:
        yield "hold_times", partial(states.hold_times, times, title=f"{name}: lengths of holds")
    constants = _defined({layer: partial(dynamics.time_constants, *both) for layer, both in layers.items()})
    if constants:
        yield "time_constants", partial(states.time_constants, constants, title=f"{name}: time constants")
    whole = {"whole model": partial(dynamics.sensitivity, run.model, _unpadded(run, run.given.inputs))}
    each = {layer: partial(dynamics.sensitivity, cell, _unpadded(run, x)) for layer, (cell, x) in layers.items()}
    norms = _defined(whole | each)
    if norms:
        yield "sensitivity", partial(states.sensitivity, norms, title=f"{name}: how much an earlier input matters")


def _defined(values: Mapping[str, Callable[[], Any]]) -> dict[str, np.ndarray]:
    """Those of some quantities that are defined for their layer."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = np.asarray(value())
        except ValueError:
            continue
    return found


def _rasters(run: Run, found: dict[str, np.ndarray]) -> Pictures:
    """States and writes of all layers, of the first example."""
    inputs = look.real_steps(run, np.asarray(run.given.inputs), 0)
    draw: Callable[..., Figure]
    for name, x in found.items():
        first = look.real_steps(run, x, 0)
        if name.endswith("/write"):
            draw = states.write_raster
        elif "state" in name.split("/") and first.ndim == 2:
            draw = states.state_raster
        else:
            continue
        yield f"{_file(name)}s", partial(draw, first, inputs=inputs, title=f"{name}, first validation example")


def _hysteresis(name: str, cell: Cell, x: Array, state: np.ndarray | None) -> Figure:
    """Loops of the units, each driven along the input that moves it."""
    if state is None:
        raise ValueError(f"the states of {name} are no array of units")
    mean, directions = moving_directions(np.asarray(x), state, np.asarray(cell.initial_state()))
    moved = np.argsort(-np.linalg.norm(directions, axis=1), kind="stable")[:MOST_DRIVEN]
    way, around = jnp.asarray(directions[moved], x.dtype), jnp.asarray(mean, x.dtype)
    loops = dynamics.hysteresis_loop(cell, way, around=around, amplitude=AMPLITUDE, speed=SPEED)
    drive, each, areas = (np.asarray(part) for part in loops)
    rows = np.arange(len(moved))
    return states.hysteresis(
        drive,
        each[rows, :, moved].T,
        areas[rows, moved],
        units=moved,
        drive_name="drive u (largest input: 1)",
        title=f"{name}: hysteresis, each unit driven along the input that moves it",
    )


def moving_directions(x: np.ndarray, state: np.ndarray, initial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The input that moves each unit: the covariance of the input with the change of its state.

    Along an arbitrary direction a unit that holds may never switch.

    Args:
        x: Inputs of a layer, (B, T, D).
        state: Its states, (B, T, N), real or complex.
        initial: Its state before the first step, (N,).

    Returns:
        The mean input (D,), and a direction for each unit, (N, D), as long as the largest deviation from the mean along
        it; zeros for a unit that never moves.
    """
    first = np.broadcast_to(initial, state[:, :1].shape)
    change = np.diff(np.real(state), axis=1, prepend=np.real(first)).reshape(-1, state.shape[-1]).astype(np.float64)
    given = x.reshape(-1, x.shape[-1]).astype(np.float64)
    mean = given.mean(0)
    found = (change - change.mean(0)).T @ (given - mean)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return mean, found * np.abs((given - mean) @ found.T).max(0)[:, None]


def _hold_times(run: Run, write: np.ndarray) -> np.ndarray:
    """Of all examples."""
    return np.concatenate([dynamics.hold_times(jnp.asarray(look.real_steps(run, write, i))) for i in range(len(write))])


def _unpadded(run: Run, x: Any) -> Any:
    """All examples or, where they are padded, the first one without its padding."""
    return x if run.given.lengths is None else jnp.asarray(look.real_steps(run, np.asarray(x), 0))[None]


def _file(name: str) -> str:
    return name.replace("/", "-")
