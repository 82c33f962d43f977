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
        yield f"{_file(layer)}-hysteresis", partial(_hysteresis, layer, cell, x)
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


def _hysteresis(name: str, cell: Cell, x: Array) -> Figure:
    """Loops under a drive along the main direction of what the layer is given: others may not move it at all."""
    mean, direction = main_direction(np.asarray(x))
    loop = dynamics.hysteresis_loop(cell, jnp.asarray(direction), around=jnp.asarray(mean))
    drive, state, area = (np.asarray(x) for x in (loop.drive, loop.state, loop.area))
    return states.hysteresis(drive, state, area, drive_name="drive u (sd of input)", title=f"{name}: hysteresis")


def main_direction(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of some inputs (..., D), and the direction in which they vary most, as long as their deviation, (D,)."""
    rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    values, vectors = np.linalg.eigh(np.cov(rows.T, ddof=0).reshape(2 * (x.shape[-1],)))
    return rows.mean(0).astype(np.float32), (np.sqrt(max(values[-1], 0.0)) * vectors[:, -1]).astype(np.float32)


def _hold_times(run: Run, write: np.ndarray) -> np.ndarray:
    """Of all examples."""
    return np.concatenate([dynamics.hold_times(jnp.asarray(look.real_steps(run, write, i))) for i in range(len(write))])


def _unpadded(run: Run, x: Any) -> Any:
    """All examples or, where they are padded, the first one without its padding."""
    return x if run.given.lengths is None else jnp.asarray(look.real_steps(run, np.asarray(x), 0))[None]


def _file(name: str) -> str:
    return name.replace("/", "-")
