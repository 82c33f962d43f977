"""Training steps a second of this checkout and of another one, on the same machine, in turn.

git worktree add /tmp/before COMMIT
python -m benchmarks.against /tmp/before --out results/benchmarks/against-gpu.json

The models are those of `benchmarks.train`, part "psmnist": four blocks, 784 steps. As in train.py, one call makes many
training steps: called one by one, steps of a few milliseconds wait for Python now and then. Each checkout measures in
processes of its own, which see its code alone, one checkout after the other, several rounds. What is reported is how
many times as fast this checkout is: the least, the median and the most of the rounds.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax

# Batch and width, training steps of a call, cells and dtypes.
SETTINGS: dict[str, tuple[int, int, int, list[str], list[str]]] = {
    "cpu": (16, 64, 5, ["lru"], ["float32"]),
    "gpu": (100, 128, 50, ["bmru", "pmru", "lru", "s5"], ["bfloat16", "float32"]),
}
HERE = pathlib.Path(__file__).resolve().parent.parent


def measured_here() -> list[dict[str, Any]]:
    """Each model of the checkout whose code is on the path: seconds of a step, and bytes of temporary memory."""
    from benchmarks.train import training

    batch, width, steps, cells, dtypes = SETTINGS[jax.default_backend()]
    found = []
    for name, dtype in itertools.product(cells, dtypes):
        step, (params, state, *data) = training(name, batch, 784, width, 1, 10, dtype)

        def many(params, state, *data, step=step):
            return jax.lax.fori_loop(0, steps, lambda _, carry: step(*carry, *data), (params, state))

        temporary = jax.jit(step).lower(params, state, *data).compile().memory_analysis().temp_size_in_bytes
        program = jax.jit(many).lower(params, state, *data).compile()
        jax.block_until_ready(program(params, state, *data))
        times = []
        for _ in range(3):
            began = time.perf_counter()
            jax.block_until_ready(program(params, state, *data))
            times.append((time.perf_counter() - began) / steps)
        at = {"name": name, "dtype": dtype, "batch": batch, "length": 784, "width": width}
        found.append(at | {"seconds": statistics.median(times), "temporary_bytes": temporary})
    return found


def measured_in(checkout: pathlib.Path, programs: str) -> list[dict[str, Any]]:
    """The same of any checkout, by a process of its own."""
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_COMPILATION_CACHE_DIR": programs,  # so that only the first round compiles
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-P", str(pathlib.Path(__file__).resolve()), "--here"]
    done = subprocess.run(command, env=env, cwd=checkout, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"the models of {checkout} could not be measured: see above")
    return json.loads(done.stdout.splitlines()[-1])


def rows(other: pathlib.Path, rounds: int) -> Iterator[dict[str, Any]]:
    """How the models of two checkouts compare."""
    with tempfile.TemporaryDirectory() as programs:
        found = []
        for i in range(rounds):
            print(f"round {i + 1} of {rounds}", file=sys.stderr, flush=True)
            found.append([measured_in(checkout, programs) for checkout in (other, HERE)])
    for k, first in enumerate(found[0][1]):
        theirs, ours = ([one[which][k]["seconds"] for one in found] for which in (0, 1))
        ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
        yield first | {
            "seconds": ours, "seconds_before": theirs,
            "steps_per_second": 1 / statistics.median(ours),
            "times_faster": [ratios[0], statistics.median(ratios), ratios[-1]],
            "temporary_bytes_before": found[0][0][k]["temporary_bytes"],
        }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{row['name']:8} {row['dtype']:9} {row['steps_per_second']:8.2f} steps/s, "
        "{:.2f} to {:.2f} to {:.2f} times as fast; ".format(*row["times_faster"])
        + f"{row['temporary_bytes'] / 2**20:,.0f} MiB, before {row['temporary_bytes_before'] / 2**20:,.0f}"
    )


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == ["--here"]:
        print(json.dumps(measured_here()))
        return
    from benchmarks.measure import parser, report  # not above: that would be another checkout's, with `--here`

    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("checkout", type=pathlib.Path, help="folder of the other one")
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    given = arguments.parse_args()
    other = given.checkout.resolve()
    if not (other / "benchmarks/train.py").exists():
        raise SystemExit(f"checkout must be a folder with benchmarks/train.py, got {given.checkout}")
    report(rows(other, given.rounds), line, given.out, lambda *_: None)


if __name__ == "__main__":
    main()
