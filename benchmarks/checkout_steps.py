"""Training steps of the checkout whose code is on the path: a process of `benchmarks.against`, which prints JSON.

It may be another checkout's code than this file's, so that nothing of it is used but `benchmarks.train.training`, and
`mru.training.devices.compiled`, by which its train steps are compiled, where there is such a function.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from typing import Any

import jax

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
        jax.block_until_ready(program(params, state, *data))
        times = []
        for _ in range(3):
            began = time.perf_counter()
            jax.block_until_ready(program(params, state, *data))
            times.append((time.perf_counter() - began) / steps)
        at = {"name": name, "dtype": dtype, "batch": batch, "length": 784, "width": width}
        temporary = program.memory_analysis().temp_size_in_bytes
        found.append(at | {"seconds": statistics.median(times), "temporary_bytes": temporary})
    return found


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1:])))
