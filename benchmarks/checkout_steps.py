"""Training steps of the checkout whose code is on the path: a process of `benchmarks.against`, which prints JSON.

On a CPU it also has one gradient of four LRU layers without norms and MLPs.

It may be another checkout's code than this file's, so that nothing of it is used but `benchmarks.train.training`, the
cells by their names, and `mru.training.devices.compiled`, by which its train steps are compiled, where there is such a
function.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import mru
from benchmarks.train import training
from mru.training import devices

# Batch and width, training steps of a call, cells and dtypes.
SETTINGS: dict[str, tuple[int, int, int, list[str], list[str]]] = {
    "cpu": (16, 64, 5, ["lru"], ["float32"]),
    "gpu": (100, 128, 50, ["bmru", "pmru", "lru", "s5"], ["bfloat16", "float32"]),
}


def measured(chosen: list[str]) -> list[dict[str, Any]]:
    """Each model, or those of the cells that are named: seconds of a step, and bytes of temporary memory."""
    batch, width, steps, cells, dtypes = SETTINGS[jax.default_backend()]
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    compiled = getattr(devices, "compiled", lambda lowered, mesh: lowered.compile())
    found = []
    for name, dtype in itertools.product(chosen or cells, dtypes):
        step, (params, state, *data) = training(name, batch, 784, width, 1, 10, dtype)

        def many(params, state, *data, step=step):
            return jax.lax.fori_loop(0, steps, lambda _, carry: step(*carry, *data), (params, state))

        program = compiled(jax.jit(many).lower(params, state, *data), mesh)
        seconds = _median_seconds(program, (params, state, *data), 3) / steps
        at = {"name": name, "dtype": dtype, "batch": batch, "length": 784, "width": width}
        temporary = program.memory_analysis().temp_size_in_bytes
        found.append(at | {"seconds": seconds, "temporary_bytes": temporary})
    return found


def gradient_of_layers(name: str = "lru", batch: int = 16, length: int = 784, width: int = 64) -> dict[str, Any]:
    """Four layers of a cell and nothing else: seconds of one call of a gradient, and bytes of temporary memory."""
    layers = [mru.cells.get(name)(width, width, rngs=nnx.Rngs(i)) for i in range(4)]
    graphdef, variables = nnx.split(layers)
    x = jax.random.normal(jax.random.key(0), (batch, length, width))

    def loss(variables, x):
        for layer in nnx.merge(graphdef, variables):
            x = layer(x)[0]
        return jnp.square(x).sum()

    program = jax.jit(jax.grad(loss)).lower(variables, x).compile()
    seconds = _median_seconds(program, (variables, x), 15)
    at = {"name": f"{name} x 4", "dtype": "float32", "batch": batch, "length": length, "width": width}
    temporary = program.memory_analysis().temp_size_in_bytes
    return at | {"seconds": seconds, "temporary_bytes": temporary}


def _median_seconds(program: Callable[..., Any], args: tuple[Any, ...], count: int) -> float:
    """Of so many calls, after one to warm up."""
    times = []
    for _ in range(1 + count):
        began = time.perf_counter()
        jax.block_until_ready(program(*args))
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


if __name__ == "__main__":
    found = measured(sys.argv[1:])
    if jax.default_backend() == "cpu":
        found.append(gradient_of_layers())
    print(json.dumps(found))
