"""Train every config of the gallery, three seeds each, and write what came of it as a table.

python -m benchmarks.zoo [NAME ...] --out results/zoo_digits.md [--seeds 3] [--jobs 1] [--workdir runs/zoo]

Runs that are complete are not trained again. `--jobs` runs so many at a time: seconds and steps a second are then those
of a machine that is shared. The summaries of all runs go beside the table, as JSON.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
from typing import Any

import jax

from benchmarks.grid import ROOT, SEED, grid, require_all, train_all
from benchmarks.sweep import mean_and_deviation, save
from mru.training.messages import RunFailed, UserError, error_line

GALLERY = ROOT / "configs" / "zoo"
BAR = 0.90


def table(runs: list[dict[str, Any]]) -> str:
    """One row a cell, as Markdown: the mean and standard deviation of the test accuracy, size and speed."""
    rows = ["| cell | test accuracy | seeds | parameters | seconds | steps/s |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(run["name"] for run in runs):
        same = [run for run in runs if run["name"] == name]
        accuracy = [run["test"][run["metric"]] for run in same]
        seconds = statistics.mean(run["seconds"]["wall"] for run in same)
        speed = statistics.mean(run["steps_per_second"] for run in same)
        shown = f"{mean_and_deviation(accuracy)}{'' if statistics.mean(accuracy) >= BAR else ' (*)'}"
        rows.append(f"| `{name}` | {shown} | {len(same)} | {same[0]['parameters']:,} | {seconds:.0f} | {speed:.1f} |")
    return "\n".join(rows)


def page(runs: list[dict[str, Any]], command: str) -> str:
    """The table, and how it was made."""
    first = runs[0]
    made = f"`{command}`, {first['device']}, jax {first['versions']['jax']}, commit {first['commit']}"
    low = f"\n\n(*) below {BAR}: the head of the config says why." if "(*)" in table(runs) else ""
    return (
        "# The zoo on permuted digits\n\nTest accuracy at the best validation step, mean and standard deviation over "
        f"seeds; 8x8 digits, one pixel a step (T = 64), `configs/zoo/NAME.yaml`. {made}.\n\n{table(runs)}{low}\n"
    )


def main() -> None:
    """The command line."""
    known = sorted(path.stem for path in GALLERY.glob("*.yaml"))
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("names", nargs="*", metavar="NAME", help="configs of configs/zoo; all if none is named")
    arguments.add_argument("--out", type=pathlib.Path, help="Markdown to write; the summaries go beside it as JSON")
    arguments.add_argument("--seeds", type=int, default=3, help="seeds of each, from 0")
    arguments.add_argument("--jobs", type=int, default=1, help="runs at a time")
    arguments.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/zoo"), help="where runs lie")
    given = arguments.parse_args()
    if unknown := sorted({*given.names} - {*known}):
        arguments.error(f"no configs/zoo/{unknown[0]}.yaml; there are {', '.join(known)}")
    files = [f"configs/zoo/{name}.yaml" for name in given.names or known]  # as results name them, on any machine
    try:
        runs = grid({"config": files, SEED: [str(seed) for seed in range(given.seeds)]}, given.workdir)
        summaries = require_all(train_all(runs, given.jobs))
    except (UserError, RunFailed) as error:
        raise SystemExit(error_line(error)) from None
    found = [{"name": run.name, **held} for run, held in zip(runs, summaries, strict=True)]
    text = page(found, " ".join(["python -m benchmarks.zoo", *sys.argv[1:]]))
    print(text)
    if given.out:
        save(given.out, text, found)


if __name__ == "__main__":
    # To check configs asks JAX for devices, and with them for their memory, which is for the runs.
    jax.config.update("jax_platforms", "cpu")
    main()
