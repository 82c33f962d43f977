"""Train every config of the gallery, three seeds each, and write what came of it as a table.

python -m benchmarks.zoo [NAME ...] --out results/zoo_digits.md [--seeds 3] [--jobs 1] [--workdir runs/zoo]

Runs that are complete are not trained again. `--jobs` runs so many at a time: seconds and steps a second are then those
of a machine that is shared. The summaries of all runs go beside the table, as JSON.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from mru.training import summary

ROOT = pathlib.Path(__file__).parents[1]
GALLERY = ROOT / "configs" / "zoo"
BAR = 0.90


def trained(workdir: pathlib.Path, run: tuple[str, int]) -> dict[str, Any]:
    """The summary of one run, which is trained if it is not complete.

    Raises:
        SystemExit: It failed; its last line says why.
    """
    name, seed = run
    folder = workdir / f"{name}-{seed}"
    command = [sys.executable, "train.py", "--config", f"configs/zoo/{name}.yaml"]
    command += ["--train.seed", str(seed), "--workdir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name}, seed {seed}: {done.stderr.strip().splitlines()[-1]}")
    found = summary.read(folder / "summary.json")
    print(f"{name:14} seed {seed}  test {found['test'][found['metric']]:.4f}", flush=True)
    return {"name": name, **found}


def table(runs: list[dict[str, Any]]) -> str:
    """One row a cell, as Markdown: the mean and standard deviation of the test accuracy, size and speed."""
    rows = ["| cell | test accuracy | seeds | parameters | seconds | steps/s |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(run["name"] for run in runs):
        same = [run for run in runs if run["name"] == name]
        accuracy = [run["test"][run["metric"]] for run in same]
        spread = f" ± {statistics.stdev(accuracy):.4f}" if len(same) > 1 else ""
        seconds = statistics.mean(run["seconds"]["wall"] for run in same)
        speed = statistics.mean(run["steps_per_second"] for run in same)
        shown = f"{statistics.mean(accuracy):.4f}{spread}{'' if statistics.mean(accuracy) >= BAR else ' (*)'}"
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
    runs = [(name, seed) for name in given.names or known for seed in range(given.seeds)]
    with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        found = list(pool.map(functools.partial(trained, given.workdir), runs))
    text = page(found, " ".join(["python -m benchmarks.zoo", *sys.argv[1:]]))
    print(text)
    if given.out:
        given.out.write_text(text)
        given.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
