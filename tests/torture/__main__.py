"""The long form of the attacks on `train.py`, each in processes of its own on CPU.

    python -m tests.torture [--attacks kills,damages] [--seed 0] [--count 20] [--data_dir DIR] [--out FILE.json]

Prints a row for each attack: how often it was tried, and how often something was silently wrong, lost, ended in a
traceback (or in more or less than one readable line), or hung. What an attack is and what counts as a failure is said
in the file of its name and in `verdicts.py`. Of each failure the workdir, the output and the command that repeats it
are kept under --folder. The exit code is 1 if there is one.

A round is one run from start to end, however often it is attacked; what is random in it follows from --seed and its
number. How far a process has come when a second has passed does not, so a repeated kill falls near the same moment.
"""

import argparse
import itertools
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from tqdm import tqdm

from benchmarks.measure import report
from tests.torture import configs, damages, disk, kills, pairs, processes, requeue, signals
from tests.torture.scene import Scene, Skipped, Tried
from tests.torture.verdicts import KINDS, Failure

# What is tried, and how often.
ATTACKS: dict[str, tuple[Callable[[Scene, random.Random, pathlib.Path, int], Tried], int]] = {
    "kills": (kills.kills, 100),
    "kills-mnist": (kills.mnist, 20),
    "kills-two-processes": (kills.two_processes, 20),
    "signals": (signals.signals, 50),
    "damages": (damages.damages, 500),
    "configs": (configs.configs, 2000),
    "pairs": (pairs.pairs, 20),
    "disk": (disk.disk, 10),
    "requeue": (requeue.requeue, 100),
}


def attack(name: str, scene: Scene, seed: int, count: int | None = None, first: int = 0) -> dict[str, Any]:
    """A row of the table: rounds of an attack, from the `first` on, until it was tried so often."""
    wanted, began = ATTACKS[name][1] if count is None else count, time.perf_counter()
    row: dict[str, Any] = {"attack": name, "tried": 0, **dict.fromkeys(KINDS, 0), "seed": seed}
    with tqdm(total=wanted, desc=name, mininterval=0.5 if sys.stderr.isatty() else 10) as bar:
        for number in itertools.count(first):
            try:
                tried = one_round(name, scene, seed, number, wanted - row["tried"])
            except Skipped as reason:
                return row | {"skipped": str(reason)}
            row["tried"] += tried.count
            for failure in tried.failures:
                row[failure.kind] += 1
            bar.update(tried.count)
            if row["tried"] >= wanted:
                return row | {"seconds": round(time.perf_counter() - began)}
    raise AssertionError("the rounds have no end")


def one_round(name: str, scene: Scene, seed: int, number: int, limit: int) -> Tried:
    """One round; its folder is kept if something failed in it."""
    folder = scene.folder / f"{name}-{seed}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tried = ATTACKS[name][0](scene, random.Random(f"{name} {seed} {number}"), folder, limit)
    if tried.failures:
        keep(folder, tried.failures, f"--attacks {name} --seed {seed} --first {number} --count {limit}")
    else:
        shutil.rmtree(folder)
    return tried


def keep(folder: pathlib.Path, failures: list[Failure], options: str) -> None:
    """Write down what failed and how to repeat it, and say so."""
    said = [f"{failure.kind}: {failure.why}" for failure in failures]
    (folder / "failures.txt").write_text("\n".join([*said, f"repeat: python -m tests.torture {options}", ""]))
    for line in said:
        tqdm.write(f"{folder}: {line}", file=sys.stderr)


def rows(names: list[str], scene: Scene, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rows, each when it is done."""
    for name in names:
        yield attack(name, scene, options.seed, options.count, options.first)


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    if "skipped" in row:
        return f"{row['attack']:<20} skipped: {row['skipped']}"
    return f"{row['attack']:<20}" + "".join(f" {row[name]:>{max(6, len(name))}}" for name in ("tried", *KINDS))


def main() -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser("python -m tests.torture", description="Attacks on train.py.")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="which, by name (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--count", type=int, help="how often to try each (default: 10 to 2,000, as ATTACKS says)")
    parser.add_argument("--first", type=int, default=0, help="number of the first round, to repeat one")
    parser.add_argument("--data_dir", type=pathlib.Path, help="with a prepared MNIST, see `python -m tasks.prepare`")
    parser.add_argument("--folder", type=pathlib.Path, help="where all takes place and evidence is kept (default: new)")
    parser.add_argument("--out", type=pathlib.Path, help="JSON to write")
    options = parser.parse_args()
    names = options.attacks.split(",")
    if unknown := sorted(set(names) - set(ATTACKS)):
        parser.error(f"--attacks {','.join(unknown)}, allowed: {', '.join(ATTACKS)}")
    folder = (options.folder or pathlib.Path(tempfile.mkdtemp(prefix="mru-torture-"))).absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, and disks given back
    processes.keep_programs(folder / "programs")
    jax.config.update("jax_platforms", "cpu")  # it has read the environment already
    found = []

    def noted(row: dict[str, Any]) -> str:
        found.append(row)
        return line(row)

    print(f"{'attack':<20}" + "".join(f" {name:>6}" for name in ("tried", *KINDS)), flush=True)
    report(rows(names, Scene(folder, options.data_dir), options), noted, options.out, lambda *_: None)
    failed = any(row[kind] for row in found for kind in KINDS)
    print(f"evidence of what failed: {folder}" if failed else "nothing failed")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
