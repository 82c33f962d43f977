"""Whole runs of train.py: what its checks and its look inside of the layers take of the time, and equal bits on a GPU.

python -m benchmarks.runs --config configs/quickstart.yaml --out results/benchmarks/runs-cpu.json [--train.steps 600]

Four ways, in turn, each in a process of its own: "as is", with a clock in every check; "unchecked", with nothing in
their place; "outside", whose evaluations do not count what the layers do; "deterministic", with `train.deterministic`.
Evaluations are clocked too, compilation included. The checks are of the numbers of the data (in the threads that
make the batches), of the metrics of each step, and of the numbers of each checkpoint, and its checksums.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from benchmarks.measure import parser, report

WAYS = ("as is", "unchecked", "outside", "deterministic")


def checks() -> dict[str, Callable]:
    """Every check, by its full name, and what stands in for it where nothing is checked."""

    def unchecked_table(arrays: dict[str, Any]) -> dict[str, list[Any]]:
        return {name: [str(x.dtype), list(x.shape), 0] for name, x in arrays.items()}

    def nothing(*_: Any) -> None:
        pass

    names = ("batches", "log", "resume")
    found: dict[str, Callable] = {f"mru.training.{name}.require_finite": nothing for name in names}
    return found | {"mru.training.checkpoint.table": unchecked_table}


def run(way: str, argv: list[str]) -> dict[str, Any]:
    """Train in one of the ways, in this process: its seconds, and the checksums of its last checkpoint."""
    import train
    from mru.training import checkpoint
    from mru.training.trainer import Trainer

    seconds, evaluating = dict.fromkeys(checks(), 0.0), {"evaluate": 0.0}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as exits:
        for name, stand_in in checks().items():
            clocked = functools.partial(_clocked, seconds, name, pkgutil.resolve_name(name))
            exits.enter_context(mock.patch(name, stand_in if way == "unchecked" else clocked))
        evaluate = functools.partialmethod(_clocked_method, evaluating, Trainer.evaluate)
        exits.enter_context(mock.patch.object(Trainer, "evaluate", evaluate))
        if way == "outside":
            exits.enter_context(mock.patch("mru.training.inside.counted", return_value={}))
        more = ["--train.deterministic", "true"] if way == "deterministic" else []
        code = train.main([*argv, *more, "--workdir", folder])
        if code:
            raise SystemExit(code)
        summary = json.loads((pathlib.Path(folder) / "summary.json").read_text())
        last = checkpoint.about(folder, checkpoint.steps(folder)[-1])["arrays"]
    training = summary["steps"] / summary["steps_per_second"]
    return {
        "way": way,
        "steps": summary["steps"],
        "steps_per_second": summary["steps_per_second"],
        "train_seconds": training,
        "seconds": summary["seconds"]["wall"] - summary["seconds"]["compile"],
        "compile_seconds": summary["seconds"]["compile"],
        "check_seconds": {name.removeprefix("mru.training."): round(x, 4) for name, x in seconds.items()},
        "share_of_checks": sum(seconds.values()) / training,
        "evaluate_seconds": round(evaluating["evaluate"], 4),
        "device": summary["device"],
        "arrays": [row[2] for item in last.values() for row in item.values()],
    }


def _clocked(seconds: dict[str, float], name: str, check: Callable, *args: Any) -> Any:
    began = time.perf_counter()
    try:
        return check(*args)
    finally:
        seconds[name] += time.perf_counter() - began  # the batches' threads may lose one of the other's, by luck


def _clocked_method(self: Any, seconds: dict[str, float], method: Callable, *args: Any) -> Any:
    return _clocked(seconds, "evaluate", functools.partial(method, self), *args)


def rows(argv: list[str], repeats: int) -> Iterator[dict[str, Any]]:
    """Run each way so many times, in turn; then whether the deterministic one gave equal bits every time."""
    arrays: dict[str, list[list[int]]] = {way: [] for way in WAYS}
    for repeat in range(repeats):
        for way in WAYS:
            # Compiled anew each time, as a program that was kept gives the same bits in any way.
            anew = {"JAX_ENABLE_COMPILATION_CACHE": "0"} if way == "deterministic" else {}
            command = [sys.executable, "-m", "benchmarks.runs", "--way", way, *argv]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **anew})
            row = json.loads(done.stdout.splitlines()[-1])
            arrays[way].append(row.pop("arrays"))
            yield {"repeat": repeat, **row}
    same = all(x == arrays["deterministic"][0] for x in arrays["deterministic"])
    yield {"way": "deterministic", "repeats": repeats, "equal_bits": same}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    if "equal_bits" in row:
        return f"{row['way']:14} {row['repeats']} runs, {'equal' if row['equal_bits'] else 'different'} bits"
    return (
        f"{row['way']:14} {row['steps_per_second']:9.2f} steps/s, {row['train_seconds']:7.1f} s in the train loop, of "
        f"which checks {100 * row['share_of_checks']:.3f} %, and {row['evaluate_seconds']:.2f} s of evaluation; "
        f"compiled in {row['compile_seconds']:.1f} s"
    )


def draw(found: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Steps a second of each run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 2.5), layout="constrained")
    for way in WAYS:
        speeds = [row["steps_per_second"] for row in found if row["way"] == way and "steps_per_second" in row]
        axis.plot(speeds, [way] * len(speeds), "o", alpha=0.6)
    axis.set(xlabel="training steps a second", xlim=(0, None))
    axis.margins(y=0.3)
    axis.invert_yaxis()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def main() -> None:
    """The command line; what it does not know is that of train.py."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=3, help="runs of each way")
    arguments.add_argument("--way", choices=WAYS, help="run one way once, and print its row as JSON")
    given, argv = arguments.parse_known_args()
    if given.way:
        print(json.dumps(run(given.way, argv)))
    else:
        report(rows(argv, given.repeats), line, given.out, draw)


if __name__ == "__main__":
    main()
