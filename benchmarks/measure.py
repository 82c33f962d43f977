"""How everything here is timed, and how results are written.

A program is compiled ahead of time, run once to warm up, and then timed over many repetitions: in a loop inside one
program where it is so short that its dispatch would count, else called again and again, each dispatched while the one
before runs. What is reported is the median of several such timings, divided by the repetitions, and all of them.
Programs that are compared are timed in turn: their first timings are of the same time, their second ones, and so on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import json
import math
import os
import pathlib
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from mru.training import provenance
from mru.training.files import write


def measure(f: Callable, *args: Any, seconds: float = 0.05, calls: int = 7) -> dict[str, Any]:
    """Seconds of one run of `f`, seconds to compile it, bytes of temporary memory, and how often it met fresh memory.

    Args:
        f: Function of arrays.
        *args: Its arguments.
        seconds: How long a timed call should take at least.
        calls: Number of timed calls, of which the median is taken.
    """
    return compare({f: args}, seconds, calls)[f]


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign:
    """A program that is not JAX's, with its arguments.

    Attributes:
        run: Starts it.
        wait: Waits until all that was started is done.
        temporary_bytes: Of `run`: what it takes besides its results.
    """

    run: Callable[[], Any]
    wait: Callable[[], None]
    temporary_bytes: Callable[[Callable[[], Any]], int]


def compare(
    programs: dict[Callable | Foreign, tuple], seconds: float = 0.05, calls: int = 7
) -> dict[Callable | Foreign, dict[str, Any]]:
    """`measure` for several functions: timed in turn, so that what else the machine does at a time falls on all.

    Args:
        programs: Functions of arrays, and their arguments; a `Foreign` program has none.
        seconds: How long a timed call should take at least.
        calls: Number of timed calls of each.
    """
    prepared = {
        f: _prepare_foreign(f, seconds) if isinstance(f, Foreign) else _prepare(f, args, seconds)
        for f, args in programs.items()
    }
    times: dict[Callable | Foreign, list[float]] = {f: [] for f in programs}
    for _ in range(calls):
        for f, (clock, _) in prepared.items():
            times[f].append(clock())
    return {
        f: {"seconds": statistics.median(x := times[f]), "timings": x, **facts} for f, (_, facts) in prepared.items()
    }


def _prepare(f, args, seconds):
    """What times one run of `f`, warmed up; and what is known before."""
    began = time.perf_counter()
    compiled = jax.jit(f).lower(*args).compile()
    facts = {
        "compile_seconds": time.perf_counter() - began,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        # An estimate of XLA's, which does not see into a kernel.
        "accessed_bytes": (compiled.cost_analysis() or {}).get("bytes accessed"),
    }
    once, clock = _repeated(functools.partial(compiled, *args), jax.block_until_ready, seconds, facts)
    # A host that launches many kernels is now and then slower than a GPU that runs them.
    if once > (1e-3 if jax.default_backend() == "cpu" else 1e-2):
        return clock, facts
    count = max(1, round(seconds / once))
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(f, *args))
    # The count is a constant: a GPU would otherwise ask the host after each repetition if it was the last.
    loop = jax.jit(lambda args, empty: jax.lax.fori_loop(0, count, lambda _, c: _again(f, *c), (args, empty))[1])
    loop = functools.partial(loop.lower(args, empty).compile(), args, empty)
    _clock(loop, jax.block_until_ready, 1)
    return lambda: _clock(loop, jax.block_until_ready, 1) / count, facts


def _prepare_foreign(program, seconds):
    """The same of a program that is not JAX's."""

    def wait(_):
        program.wait()

    facts = {
        "compile_seconds": _clock(program.run, wait, 1),
        "temporary_bytes": program.temporary_bytes(program.run),
    }
    return _repeated(program.run, wait, seconds, facts)[1], facts


def _repeated(run, wait, seconds, facts):
    """Seconds of one run, and what times one of as many as take so long; a fact more is known then."""
    once = min(_clock(run, wait, 1) for _ in range(3))
    # Pages of the host's memory that are touched for the first time. On a CPU they can be most of the time.
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _clock(run, wait, 1)
    facts["page_faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return once, functools.partial(_clock, run, wait, max(1, round(seconds / once)))


def _again(f, args, result):
    # The barrier makes the arguments depend on the result before, so that no run is moved out of the loop or dropped.
    args, _ = jax.lax.optimization_barrier((args, result))
    return args, f(*args)


def _clock(run, wait, count):
    """Seconds of one of `count` runs; `wait` is given the result of the last."""
    began = time.perf_counter()
    for _ in range(count):
        result = run()
    wait(result)
    return (time.perf_counter() - began) / count


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """A dictionary that has, afterwards, `seconds` and the `processor_seconds` of processes that ended inside."""
    held: dict[str, float] = {}
    began, before = time.perf_counter(), os.times()
    yield held
    after = os.times()
    held["seconds"] = round(time.perf_counter() - began, 1)
    held["processor_seconds"] = round(sum(after[2:4]) - sum(before[2:4]), 1)


def spread(theirs: list[float], ours: list[float]) -> list[float]:
    """How many times as long as ours theirs took, of timings made in turn: least, median and most."""
    ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    return [ratios[0], statistics.median(ratios), ratios[-1]]


def parser(description: str, shape: str | None = None) -> argparse.ArgumentParser:
    """A command line with what all benchmarks take, and `--shape` if the names of its numbers are given."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--out", type=_file, help="JSON to write; the plot goes beside it")
    if shape is not None:
        arguments.add_argument("--shape", action="append", type=_shape, help=f"{shape}; may be given several times")
    return arguments


def _file(text: str) -> pathlib.Path:
    """A file to write, whose folder is made now: to find out after hours that it can not be would be late."""
    path = pathlib.Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path.parent} can not be made: {error.strerror}") from None
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file, got the folder {path}")
    return path


def whole(least: int) -> Callable[[str], int]:
    """What reads a whole number of the command line that is not below the least."""

    def integer(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text}")
        return value

    return integer


def positive(text: str) -> float:
    """A number of the command line that is finite and above 0."""
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return value


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def start() -> str:
    """The platform; compiled programs are not kept, so that compiling is measured."""
    jax.config.update("jax_enable_compilation_cache", False)
    return jax.default_backend()


def report(
    rows: Iterable[dict[str, Any]], line: Callable[[dict[str, Any]], str], out: pathlib.Path | None, draw: Callable
) -> None:
    """Print a line for each row as it is measured, and write those so far as JSON; at the end also the plot.

    Args:
        rows: The measurements.
        line: A row as it is printed.
        out: JSON file to write, or None.
        draw: (rows, file) -> None, which draws the plot, where there is one of these rows.
    """
    found: list[dict[str, Any]] = []
    content = {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }

    def save(more: dict[str, str]) -> None:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            lines = ",\n".join("  " + json.dumps(row) for row in found)
            write(out, json.dumps(content | more, indent=1)[:-2] + f',\n "rows": [\n{lines}\n ]\n}}\n')

    for row in rows:
        found.append(row)
        print(line(row), flush=True)
        save({})
    # Last, as to ask for the devices takes their memory, which programs that the rows run need.
    save({"device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"})
    if out is None:
        return
    draw(found, out.with_suffix(".png"))
    print("wrote " + " and ".join(str(file) for file in (out, out.with_suffix(".png")) if file.exists()))
