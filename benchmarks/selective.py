"""S6, the selective scan and its whole layer: time and memory, beside the same with `associative_scan` over (T, D x N).

python -m benchmarks.selective --out results/benchmarks/selective-gpu.json

"scan" is the scan alone, of D channels with N states each; "layer" is the cell, which has 2 D such channels inside.
"backward" is both passes together. Memory is what the compiled program holds beside its arguments and results, given as
a multiple of the input (B, T, D). What would not fit into the device is compiled, for its memory, and not run.
"""

from __future__ import annotations

import functools
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx

import mru
from benchmarks import rivals
from benchmarks.measure import compare, parser, report, start
from mru.engine.selective import selective_scan
from mru.operators import Selective

SHAPES = {"cpu": [(2, 1024, 256, 16)], "gpu": [(8, 2048, 1024, 16), (8, 16384, 1024, 16)]}
OURS, RIVAL = "mru auto", "associative_scan, autodiff"


def operator(shape: tuple[int, ...]) -> Selective:
    """Maps as they are at the start of training: rates 1 to N, time steps between 0.001 and 0.1."""
    batch, length, channels, states = shape
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (batch, length, channels))
    b, c = (jax.random.normal(key, (batch, length, states)) for key in keys[1:3])
    dt = 10 ** jax.random.uniform(keys[3], x.shape, minval=-3, maxval=-1)
    a = -jnp.broadcast_to(jnp.arange(1.0, states + 1), (channels, states))
    return Selective(dt, a, b, c, x)


def scans(shape: tuple[int, ...], method: str) -> tuple[Callable, Callable]:
    """The scan, and what makes its argument."""
    ours = method == OURS
    return (lambda op: selective_scan(op)[0]) if ours else rivals.selective, functools.partial(operator, shape)


def layers(shape: tuple[int, ...], method: str) -> tuple[Callable, Callable]:
    """The layer as a function of its parameters and inputs, and what makes these."""
    *inputs, channels, states = shape
    cell = nnx.eval_shape(lambda: mru.cells.S6(channels, states, rngs=nnx.Rngs(0)))
    graphdef, _ = nnx.split(cell)

    def make() -> Any:
        params = nnx.state(mru.cells.S6(channels, states, rngs=nnx.Rngs(0)))
        return params, jax.random.normal(jax.random.key(0), (*inputs, channels))

    def apply(given: Any) -> jax.Array:
        return nnx.merge(graphdef, given[0])(given[1])[0]

    def with_rival(given: Any) -> jax.Array:
        def scan(op: Selective, h0: jax.Array, **_: Any) -> tuple[jax.Array, jax.Array]:
            return rivals.selective(op), h0  # the last state is asked for by nobody here

        # As one would write it: the whole sequence at once.
        with mock.patch.multiple("mru.cells.s6", selective_scan=scan, _PIECE=inputs[1]):
            return apply(given)

    return apply if method == OURS else with_rival, make


PARTS = {"scan": scans, "layer": layers}


def gradient(f: Callable, given: Any, g: jax.Array) -> Any:
    """The outputs, and the cotangents of all that was given, from that of the outputs."""
    y, pullback = jax.vjp(f, given)
    return y, pullback(g)[0]


def rows(shape: tuple[int, ...], parts: list[str], methods: list[str], run: bool) -> Any:
    """Each part and pass by each method."""
    size = 4 * math.prod(shape[:3])
    for part in parts:
        programs = {method: PARTS[part](shape, method) for method in methods}
        make = programs[methods[0]][1]
        g = jax.ShapeDtypeStruct(shape[:3], jnp.float32)
        fits: dict[str, dict[str, bool]] = {"forward": {}, "backward": {}}
        for kind in fits:
            found = {}
            for method, (f, _) in programs.items():
                f, abstract = (f, ()) if kind == "forward" else (functools.partial(gradient, f), (g,))
                found[method] = f, _compiled(f, jax.eval_shape(make), *abstract)
            fitting = {f: () for f, facts in found.values() if run and facts["total_bytes"] < _capacity()}
            if fitting:
                given = (jax.jit(make)(), *([] if kind == "forward" else [jnp.ones(g.shape, g.dtype)]))
                fitting = compare(dict.fromkeys(fitting, given), calls=5)
                del given
            for method, (f, facts) in found.items():
                row = fitting.get(f, {"seconds": None}) | facts
                at = {"shape": shape, "part": part, "method": method, "pass": kind}
                yield {**at, **row, "times_input": facts["temporary_bytes"] / size}


def _compiled(f: Callable, *given: Any) -> dict[str, float]:
    """Seconds to compile a program, bytes of its temporary memory, and of all that it holds."""
    began = time.perf_counter()
    found = jax.jit(f).lower(*given).compile().memory_analysis()
    seconds, temporary = time.perf_counter() - began, found.temp_size_in_bytes
    total = temporary + found.argument_size_in_bytes + found.output_size_in_bytes
    return {"compile_seconds": seconds, "temporary_bytes": temporary, "total_bytes": total}


def _capacity() -> float:
    """Bytes that programs may hold."""
    stats = jax.devices()[0].memory_stats() or {}
    free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
    return 0.95 * free if free else 0.6 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def draw(rows: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Milliseconds and memory of both passes together, a group of bars for each shape and part."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row["pass"] == "backward"]
    groups = list(dict.fromkeys((row["part"], tuple(row["shape"])) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, axes = plt.subplots(1, 2, figsize=(10, 1.6 + 0.7 * len(groups)), sharey=True, layout="constrained")
    for axis, label in zip(axes, ("milliseconds", "temporary memory / input"), strict=True):
        for i, method in enumerate(methods):
            for row in (row for row in rows if row["method"] == method):
                place = groups.index((row["part"], tuple(row["shape"]))) + 0.4 * (i - len(methods) / 2 + 0.5)
                value = row["times_input"] if label != "milliseconds" else (row["seconds"] or 0) * 1e3
                axis.barh(place, value, 0.36, color=f"C{i}", label=method)
                text = f" {value:,.3g}" if row["seconds"] or label != "milliseconds" else " not run"
                axis.text(value or axis.get_xlim()[0], place, text, va="center", fontsize=8)
        names = [f"{part}\n{' x '.join(map(str, shape))}" for part, shape in groups]
        axis.set(xscale="log", xlabel=label, yticks=range(len(groups)), yticklabels=names)
        axis.margins(x=0.25)
    axes[1].axvline(15, color="grey", linestyle=":", label="15, the bound")
    axes[0].invert_yaxis()
    handles, labels = axes[1].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle("S6, forward and backward pass, (B, T, D, N)")
    figure.savefig(out, dpi=120)
    plt.close(figure)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    milliseconds = "not run" if row["seconds"] is None else f"{row['seconds'] * 1e3:12.2f}"
    return (
        f"{','.join(map(str, row['shape'])):>18} {row['part']:6} {row['method']:27} {row['pass']:9} {milliseconds:>12} "
        f"{row['temporary_bytes'] / 2**20:10.1f} {row['times_input']:8.2f}"
    )


def main() -> None:
    """The command line."""
    arguments = parser(__doc__.splitlines()[0], shape="batch,time,channels,states")
    arguments.add_argument("--part", action="append", choices=list(PARTS), help="may be given several times")
    arguments.add_argument("--method", action="append", choices=[OURS, RIVAL], help="may be given several times")
    arguments.add_argument("--memory-only", action="store_true", help="compile, and run nothing")
    given = arguments.parse_args()
    platform = start()
    shapes = given.shape or SHAPES[platform]
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"{'shape':>18} {'part':6} {'method':27} {'pass':9} {'ms':>12} {'MiB':>10} {'x input':>8}")
    parts, methods = given.part or list(PARTS), given.method or [OURS, RIVAL]
    measured = (row for shape in shapes for row in rows(shape, parts, methods, not given.memory_only))
    report(measured, line, given.out, draw)


if __name__ == "__main__":
    main()
