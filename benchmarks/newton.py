"""Newton's method: iterations against bistability, and time against T, beside the loop and what one scan solves.

python -m benchmarks.newton --out results/benchmarks/newton-gpu.json

"iterations": of a BRC at T = 2,048, whose recurrent gain a is the same constant in all channels, monostable up to 1 and
bistable above, on three kinds of input; and how far the states are from those of the loop, beside how far those are
from the same loop in float64. "time": forward and backward pass of one layer on (batch, T, width); "speedup" is against
Flax's own GRU, timed in turn with the others.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import mru
from benchmarks import rivals
from benchmarks.measure import compare, parser, report, start

SETTINGS: dict[str, dict[str, Any]] = {
    "cpu": {"lengths": [256, 1024, 4096], "batch": 1, "width": 32},
    "gpu": {"lengths": [1024, 4096, 16384], "batch": 8, "width": 128},
}
GAINS = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 1.95]
INPUTS = ["white noise", "copy first", "sparse flips"]
RIVAL = "GRU (nnx.RNN)"
# Name of the series: cell and method.
SERIES = {
    "diagonal GRU, newton": ("diagonal_gru", "newton"),
    "diagonal GRU, parallel backward": ("diagonal_gru", "parallel_backward"),
    "diagonal GRU, sequential": ("diagonal_gru", "sequential"),
    "BRC, newton": ("brc", "newton"),
    "BRC, parallel backward": ("brc", "parallel_backward"),
    "BRC, sequential": ("brc", "sequential"),
    "BMRU, one scan": ("bmru", "auto"),
    "PMRU, one scan": ("pmru", "auto"),
    RIVAL: (None, None),
}


def inputs(kind: str, batch: int, time: int, features: int) -> Array:
    """Normal inputs at every step; one such, and a tenth of it after that; or one in 64 steps, and nothing between."""
    x = np.random.default_rng(0).normal(size=(batch, time, features)).astype(np.float32)
    match kind:
        case "white noise":
            scale = np.ones(time)
        case "copy first":
            scale = np.where(np.arange(time) == 0, 1, 0.1)
        case "sparse flips":
            scale = np.where(np.arange(time) % 64 == 0, 3, 0)
        case _:
            raise ValueError(f"kind must be one of {INPUTS}, got {kind!r}")
    return jnp.asarray(x * scale[:, None], jnp.float32)


def of_gain(gain: float, width: int, method: str) -> mru.cells.BRC:
    """A BRC whose gain a is a constant; its gate c sees inputs and state."""
    cell = mru.cells.BRC(width, width, method=method, rngs=nnx.Rngs(0))
    to_gain = slice(width, 2 * width)
    cell.input.kernel[...] = cell.input.kernel[...].at[:, to_gain].set(0)
    cell.input.bias[...] = cell.input.bias[...].at[to_gain].set(np.arctanh(gain - 1))
    cell.gain[...] = jnp.zeros(width)
    return cell


def iterations(batch: int, time: int, width: int) -> Any:
    """How often Newton's method iterates, sequence by sequence, and how far its states are from the loop's."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(graphdef, variables, x):
        capture: dict[str, Array] = {}
        nnx.merge(graphdef, variables)(x, capture=capture)
        return capture

    for kind in INPUTS:
        x = inputs(kind, batch, time, width)
        for gain in GAINS:
            found, loop = (run(*nnx.split(of_gain(gain, width, method)), x) for method in ("newton", "sequential"))
            double = nnx.split(of_gain(gain, width, "sequential"))
            with jax.enable_x64(True):
                exact = np.asarray(run(*double, x.astype("float64"))["state"])
            yield {
                "part": "iterations",
                "input": kind,
                "gain": gain,
                "length": time,
                "batch": batch,
                "width": width,
                "iterations": np.asarray(found["newton/iterations"][:, 0]).tolist(),
                "converged": np.asarray(found["newton/converged"][:, 0]).tolist(),
                "residual": float(found["newton/residual"].max()),
                "distance_from_loop": float(jnp.abs(found["state"] - loop["state"]).max()),
                "distance_of_loop_from_float64": float(np.abs(np.asarray(loop["state"], float) - exact).max()),
            }


def layer(name: str, width: int) -> tuple[Any, Callable]:
    """A layer's parameters, and the function of (parameters, x (B, T, D)) that it is."""
    kind, method = SERIES[name]
    module = rivals.GRU(width, rngs=nnx.Rngs(0)) if kind is None else mru.cells.get(kind)(
        width, width, method=method, rngs=nnx.Rngs(0)
    )  # fmt: skip
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def apply(params, x):
        y = nnx.merge(graphdef, params, rest)(x)
        return y[0] if isinstance(y, tuple) else y

    return params, apply


def times(lengths: list[int], batch: int, width: int, names: list[str]) -> Any:
    """Forward and backward against T, all series in turn."""
    for length in lengths:
        x = jax.random.normal(jax.random.key(0), (batch, length, width))
        programs = {}
        for name in names:
            params, apply = layer(name, width)

            def both(params, x, apply=apply):
                return jax.vjp(apply, params, x)[1](jnp.ones_like(x))

            programs[both] = params, x
        found = compare(programs, calls=3)
        for name, row in zip(names, found.values(), strict=True):
            at = {"part": "time", "name": name, "length": length, "batch": batch, "width": width}
            rival = list(found.values())[names.index(RIVAL)] if RIVAL in names else None
            yield {**at, **row, **({"speedup": rival["seconds"] / row["seconds"]} if rival else {})}


def draw(rows: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Iterations against the gain, and time against T."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mru.plots import style

    panels = {"iterations": _draw_iterations, "time": _draw_times}
    parts = [part for part in panels if any(row["part"] == part for row in rows)]
    with plt.rc_context(style.SETTINGS):
        figure, axes = plt.subplots(
            1, len(parts), figsize=(3.7 * len(parts), 3.2), layout="constrained", squeeze=False
        )  # fmt: skip
        for axis, part in zip(axes[0], parts, strict=True):
            panels[part](axis, [row for row in rows if row["part"] == part])
        figure.savefig(out, dpi=style.DPI)
        plt.close(figure)


def _draw_iterations(axis: Any, rows: list[dict[str, Any]]) -> None:
    from mru.plots.style import GREY, MARKERS, PALETTE, STYLES

    for kind, colour, marker, dashes in zip(INPUTS, PALETTE, MARKERS, STYLES, strict=False):
        here = [row for row in rows if row["input"] == kind]
        gains = [row["gain"] for row in here]
        middle, most = ([f(row["iterations"]) for row in here] for f in (np.median, np.max))
        axis.plot(gains, middle, marker=marker, linestyle=dashes, color=colour, label=kind)
        axis.fill_between(gains, middle, most, color=colour, alpha=0.15, linewidth=0)
        failed = [(row["gain"], max(row["iterations"])) for row in here if not all(row["converged"])]
        axis.plot(*zip(*failed, strict=True) if failed else ([], []), "x", color=colour, markersize=7)
    axis.axvline(1, color=GREY, linestyle=":", linewidth=0.8)
    axis.set(yscale="log", xlabel="recurrent gain a (bistable above 1)", ylabel="iterations, median to most")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_title(f"BRC at T = {rows[0]['length']:,} (x: back to the loop)")
    axis.legend(loc="upper left")


def _draw_times(axis: Any, rows: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    from mru.plots.style import BLACK, MARKERS, PALETTE, STYLES

    cells = list(dict.fromkeys(row["name"].split(",")[0] for row in rows))
    ways = ["newton", "parallel backward", "sequential"]
    for name in dict.fromkeys(row["name"] for row in rows):
        cell, _, way = name.partition(", ")
        place = ways.index(way) if way in ways else 0
        colour = BLACK if name == RIVAL else PALETTE[cells.index(cell)]
        points = [(row["length"], row["seconds"] * 1e3) for row in rows if row["name"] == name]
        dashes = "-" if name != RIVAL else ":"
        look = {"marker": MARKERS[place], "linestyle": STYLES[place] if way in ways else dashes}
        axis.plot(*zip(*points, strict=True), color=colour, label=name, **look)
    shape = f"batch {rows[0]['batch']}, width {rows[0]['width']}"
    lengths = sorted({row["length"] for row in rows})
    axis.set(xscale="log", yscale="log", xlabel="sequence length T", ylabel="milliseconds")
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_title(f"one layer, forward and backward ({shape})")
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    if row["part"] == "iterations":
        counts = row["iterations"]
        return (
            f"iterations {row['input']:13} a = {row['gain']:<5} {np.median(counts):5.0f} median {max(counts):4} most, "
            f"{sum(row['converged'])} of {len(counts)} converged, {row['distance_from_loop']:.1e} from the loop, "
            f"itself {row['distance_of_loop_from_float64']:.1e} from float64"
        )
    speedup = f" {row['speedup']:9.1f}x" if "speedup" in row else ""
    return (
        f"time       {row['name']:32} T = {row['length']:<7,} {row['seconds'] * 1e3:10.3f} ms "
        f"{row['temporary_bytes'] / 2**20:9.1f} MiB, compiled in {row['compile_seconds']:6.2f} s{speedup}"
    )


def main() -> None:
    """The command line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--part", action="append", choices=["iterations", "time"])
    arguments.add_argument("--series", action="append", choices=list(SERIES), help="may be given several times")
    arguments.add_argument("--longest", type=int, help="largest T")
    given = arguments.parse_args()
    settings = SETTINGS[start()]
    longest, batch, width = given.longest or max(settings["lengths"]), settings["batch"], settings["width"]
    parts = {
        "iterations": lambda: iterations(8, min(2048, longest), 32),
        "time": lambda: times(
            [n for n in settings["lengths"] if n <= longest], batch, width, given.series or list(SERIES)
        ),
    }
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; {RIVAL} is 1.0x")
    report((row for part in given.part or parts for row in parts[part]()), line, given.out, draw)


if __name__ == "__main__":
    main()
