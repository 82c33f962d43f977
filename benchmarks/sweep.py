"""Train configs with several seeds and values, and write the mean and standard deviation of each setting as a table.

python -m benchmarks.sweep --config configs/quickstart.yaml --train.seed 0 1 2 --optimizer.lr 1e-3 3e-3 --out lr.md
python -m benchmarks.sweep --config configs/zoo/*.yaml --train.seed 0 1 2 --out zoo.md

Every field of a config is an option, and each word behind it a value: all combinations are trained, one after the
other or, with `--jobs`, so many at a time. A run lies in a folder named after its values, below runs/ and the name of
the config; the same command goes on with runs that were stopped and leaves complete ones alone. `--only N` trains the
N-th run alone and writes no table. In a job array of SLURM, N is the place in the array; `--dry_run` prints the line
that submits it, and the command of each run. Once the runs are done, the whole command writes the table.

`--together` trains those runs in one program that differ in seed and learning rate alone (`benchmarks/together.py`).
Seconds and steps a second in the table are then those of the whole group, and a group that was stopped starts over.

Settings are compared by their mean over the seeds on validation, and test is told of the best one of each config and
task alone. The summaries of all runs go beside the table, as JSON. A setting of which a run failed has a row that says
so, and is not compared: what its other seeds gave would flatter it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import statistics
import sys
from typing import Any

import jax

from benchmarks.grid import SEED, Options, Run, combinations, grid, make_run, options_of, require_all, train_all
from mru.training.files import write
from mru.training.messages import RunFailed, UserError, error_line


def mean_and_deviation(values: list[float]) -> str:
    """Mean and, of several, sample standard deviation."""
    more = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{more}"


def markdown(rows: list[list[str]]) -> str:
    """A table, whose first row has the heads, as Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


Summaries = list[dict[str, Any] | None]  # None of a run that failed


def picked(runs: list[Run], summaries: Summaries) -> set[tuple[str, ...]]:
    """The setting of each contest that is best by its mean on validation; of equal ones the first."""
    best: dict[tuple[str, ...], tuple[float, tuple[str, ...]]] = {}
    for setting, (run, *_), held in _settings(runs, summaries):
        if len(whole := [one for one in held if one]) < len(held):
            continue
        mean = statistics.mean(one["validation"][one["metric"]] for one in whole)
        score = mean if run.config.task.goal == "max" else -mean
        if run.contest not in best or score > best[run.contest][0]:
            best[run.contest] = score, setting
    return {setting for _, setting in best.values()}


def _settings(runs: list[Run], summaries: Summaries) -> list[tuple[tuple[str, ...], list[Run], Summaries]]:
    """Each setting, its runs and what came of them."""
    found: dict[tuple[str, ...], list[tuple[Run, dict[str, Any] | None]]] = {}
    for run, held in zip(runs, summaries, strict=True):
        found.setdefault(run.setting, []).append((run, held))
    return [(setting, [run for run, _ in same], [held for _, held in same]) for setting, same in found.items()]


def table(runs: list[Run], summaries: Summaries) -> str:
    """One row a setting, as Markdown, with the options that vary; test stands where validation picked the setting."""
    varying = [o for o in runs[0].values if o != SEED and len({run.values[o] for run in runs}) > 1]
    metric, best = " / ".join(dict.fromkeys(held["metric"] for held in summaries if held)), picked(runs, summaries)
    heads = ["config", *varying, f"validation {metric}", f"test {metric}", "seeds", "parameters", "seconds", "steps/s"]
    rows = [heads]
    for setting, (run, *_), held in _settings(runs, summaries):
        row = [f"`{run.name}`", *(run.values[option] for option in varying)]
        whole = [one for one in held if one]
        if failed := len(held) - len(whole):
            rows.append([*row, f"{failed} of {len(held)} runs failed", *[""] * (len(heads) - len(row) - 1)])
            continue

        def values(split: str, held: list[dict[str, Any]] = whole) -> str:
            return mean_and_deviation([one[split][one["metric"]] for one in held])

        seconds = statistics.mean(one["seconds"]["wall"] for one in whole)
        speed = statistics.mean(one["steps_per_second"] for one in whole)
        row += [values("validation"), values("test") if setting in best else ""]
        rows.append([*row, str(len(whole)), f"{whole[0]['parameters']:,}", f"{seconds:.0f}", f"{speed:.1f}"])
    return markdown(rows)


def page(runs: list[Run], summaries: Summaries, command: str) -> str:
    """The table, and how it was made."""
    first = next(held for held in summaries if held)
    made = f"`{command}`, {first['device']}, jax {first['versions']['jax']}, commit {first['commit']}"
    return (
        f"# {', '.join(dict.fromkeys(run.name for run in runs))}\n\n"
        "Mean and standard deviation over seeds, each at its best validation step. Test is told of the setting alone "
        f"that is best on validation, of each config and task. {made}.\n\n{table(runs, summaries)}\n"
    )


def plan(runs: list[Run], command: list[str]) -> str:
    """The command of each run, and the line that submits them all as an array."""
    again = shlex.join([word for word in command if word != "--dry_run"])
    lines = [shlex.join(["python", "train.py", *run.argv]) for run in runs]
    return "\n".join([*lines, f"sbatch --array=0-{len(runs) - 1} --wrap {shlex.quote(f'exec {again}')}"])


def train_only(number: int, options: Options, folder: pathlib.Path | None) -> None:
    """Become the program that trains the run of this number, so that signals reach it; nothing if it is complete.

    Raises:
        UserError: There is no such run, or its values do not fit.
    """
    every = combinations(options)
    if not 0 <= number < len(every):
        raise UserError(f"--only = {number}, allowed: from 0 to {len(every) - 1}, as there are {len(every)} runs")
    run = make_run(every[number], folder)
    sys.stdout.flush()
    os.execv(sys.executable, run.command)


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, Options]:
    arguments = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage="%(prog)s --config FILE ... [--FIELD VALUE ...] ...",
        allow_abbrev=False,
    )
    arguments.add_argument("--config", nargs="+", required=True, help="config files")
    arguments.add_argument("--out", type=pathlib.Path, help="Markdown to write; the summaries go beside it as JSON")
    arguments.add_argument("--jobs", type=int, default=1, help="runs at a time")
    arguments.add_argument("--workdir", type=pathlib.Path, help="where the folders of configs lie (default: runs)")
    arguments.add_argument(
        "--only", type=int, default=os.environ.get("SLURM_ARRAY_TASK_ID"), help="train this run alone"
    )
    arguments.add_argument(
        "--together", action="store_true", help="train runs side by side that differ in seed and learning rate alone"
    )
    arguments.add_argument("--dry_run", action="store_true", help="print the command of each run, and train none")
    given, words = arguments.parse_known_args(argv)
    if given.out and given.out.suffix == ".json":
        raise UserError(f"--out = {given.out}, allowed: a page of Markdown; the summaries go beside it as JSON")
    if given.jobs < 1:
        raise UserError(f"--jobs = {given.jobs}, allowed: an integer >= 1")
    options = options_of(words)
    if "config" in options:
        raise UserError("--config=FILE, allowed: --config FILE")
    return given, {"config": given.config} | options


def run(argv: list[str]) -> None:
    """Do what a command line asks for.

    Raises:
        UserError: Something in it does not fit.
        RunFailed: Some runs failed.
    """
    given, options = _arguments(argv)
    command = ["python", "-m", "benchmarks.sweep", *argv]
    if given.only is not None and not given.dry_run:
        return train_only(given.only, options, given.workdir)
    runs = grid(options, given.workdir)
    if given.dry_run:
        print(plan(runs, command))
        return None
    summaries = train_all(runs, given.jobs, given.together)
    if not picked(runs, summaries):
        require_all(summaries)
    text = page(runs, summaries, shlex.join(command))
    print(f"\n{text}")
    if given.out:
        save(
            given.out,
            text,
            [
                {"name": run.name, "values": run.values, **held}
                for run, held in zip(runs, summaries, strict=True)
                if held
            ],
        )
    require_all(summaries)
    return None


def save(out: pathlib.Path, text: str, summaries: list[dict[str, Any]]) -> None:
    """Write a page, and the summaries beside it as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write(out, text)
    write(out.with_suffix(".json"), json.dumps(summaries, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code."""
    try:
        run(sys.argv[1:] if argv is None else argv)
    except (UserError, RunFailed, OSError) as error:
        print(error_line(error), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # To check configs asks JAX for devices, and with them for their memory, which is for the runs.
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main())
