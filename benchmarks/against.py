"""Training steps a second of this checkout and of another one, on the same machine, in turn.

git worktree add /tmp/before COMMIT
python -m benchmarks.against /tmp/before [--cell NAME ...] --out results/benchmarks/against-gpu.json

The models are those of `benchmarks.train`, part "psmnist": four blocks, 784 steps. As in train.py, one call makes many
training steps: called one by one, steps of a few milliseconds wait for Python now and then. Each checkout measures in
processes of its own, which see its code alone, one checkout after the other, several rounds. What is reported is how
many times as fast this checkout is: the least, the median and the most of the rounds. On a CPU one gradient of four LRU
layers without norms and MLPs is compared, too, called by itself.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.measure import parser, report, spread

HERE = pathlib.Path(__file__).resolve().parent.parent


def measured_in(checkout: pathlib.Path, programs: str, cells: list[str]) -> list[dict[str, Any]]:
    """What `benchmarks/checkout_steps.py` finds of a checkout, for some cells, or all of its own if none is named."""
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    cache = {"JAX_COMPILATION_CACHE_DIR": programs}  # so that only the first round compiles; the user's own, if set
    env = cache | os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    command = [sys.executable, "-P", str(HERE / "benchmarks/checkout_steps.py"), *cells]
    done = subprocess.run(command, env=env, cwd=checkout, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"the models of {checkout} could not be measured: see above")
    return json.loads(done.stdout.splitlines()[-1])


def rows(other: pathlib.Path, rounds: int, cells: list[str]) -> Iterator[dict[str, Any]]:
    """How the models of two checkouts compare."""
    with tempfile.TemporaryDirectory() as programs:
        found = []
        for i in range(rounds):
            print(f"round {i + 1} of {rounds}", file=sys.stderr, flush=True)
            found.append([measured_in(checkout, programs, cells) for checkout in (other, HERE)])
    for k, first in enumerate(found[0][1]):
        theirs, ours = ([one[which][k]["seconds"] for one in found] for which in (0, 1))
        yield first | {
            "seconds": ours, "seconds_before": theirs,
            "steps_per_second": 1 / statistics.median(ours),
            "times_faster": spread(theirs, ours),
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
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("checkout", type=pathlib.Path, help="folder of the other one")
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    arguments.add_argument("--cell", nargs="+", default=[], help="these cells only")
    given = arguments.parse_args()
    other = given.checkout.resolve()
    if not (other / "benchmarks/train.py").exists():
        raise SystemExit(f"checkout must be a folder with benchmarks/train.py, got {given.checkout}")
    report(rows(other, given.rounds, given.cell), line, given.out, lambda *_: None)


if __name__ == "__main__":
    main()
