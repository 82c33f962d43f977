"""Forward, and forward with backward, of every operator, by each method and rival, against the memory roofline.

python -m benchmarks.scan --out results/benchmarks/scan-cpu.json

The floor of a pass is what it must move, each operand and each result once; the roofline is the rate at which the same
run adds two arrays of that shape. "backward" is both passes together. `times_ours` is how many times as long as ours a
method takes: least, median and most of the timings that were made at the same time. On a GPU the affine scan has rivals
on PyTorch too, where they are installed (`benchmarks/torch_rivals.py`).
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import mru
from benchmarks import rivals, torch_rivals
from benchmarks.measure import Foreign, compare, measure, parser, report, spread, start

SHAPES = {
    "cpu": [(4, 16384, 64), (32, 1024, 64), (16, 784, 128), (1, 65536, 64), (1, 65536, 32)],
    "gpu": [(8, 16384, 512), (32, 1024, 512), (1, 65536, 256), (1, 262144, 256)],
}
OURS = "mru auto"
METHODS = {
    OURS: mru.scan,
    "mru sequential": functools.partial(mru.scan, method="sequential"),
    "mru associative": functools.partial(mru.scan, method="associative"),
    "associative_scan, autodiff": rivals.associative_scan,
    "lax.scan, autodiff": rivals.lax_scan,
}
# Arrays of the size of the states that a forward and a backward pass must move: fields and states; fields, states and
# cotangents. Where a derivative does not need a field or the states, these do not count; int8 states are a quarter.
FLOORS = {
    "affine": (3, 5),
    "complex affine": (3, 5),
    "complex affine, slow": (3, 5),  # its states fade by at most 1 % a step, and a chunk never forgets what came before
    "constant a": (2, 3),
    "latch": (2.25, 2.25),
    "clamp": (3, 6),
    "relay (BMRU)": (3, 5.5),  # the code, written and read where there is a backward pass
    "relay, leak 0": (3, 6),
    "counter (CMRU)": (3, 5),
    "play (PMRU)": (3, 6),
}


def operator(name: str, shape: tuple[int, ...]) -> mru.operators.Operator:
    """Fields whose scan neither dies out nor grows."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, y = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
    decay = jax.random.uniform(keys[2], shape, minval=0.5)
    match name:
        case "affine":
            return mru.Affine(decay, x)
        case "complex affine":
            return mru.Affine(jax.lax.complex(decay * 0.7, decay * 0.7), jax.lax.complex(x, y))
        case "complex affine, slow":
            return mru.Affine((1 - decay / 100) * jnp.exp(6j * decay), jax.lax.complex(x, y))
        case "constant a":
            return mru.Affine(decay[0, 0], x)
        case "latch":
            return mru.Latch(x > 1, y)
        case "clamp":
            return mru.Clamp(x - decay, x + decay)
        case "relay (BMRU)":
            return mru.Relay(x, 0.5 + decay)
        case "relay, leak 0":  # as a schedule leaves it
            return mru.Relay(x, 0.5 + decay, leak=0.0)
        case "counter (CMRU)":
            return mru.Relay(x, 0.5 + decay, leak=1.0)
        case "play (PMRU)":
            return mru.Play(x, y)
    raise ValueError(f"operator must be one of {list(FLOORS)}, got {name!r}")


def gradient(scan: Callable, op: mru.operators.Operator, g: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """What training needs: the states, and the cotangents of the fields, given that of the states."""
    h, pullback = jax.vjp(scan, op)
    (bar,) = pullback(g)
    return h, [x for x in jax.tree.leaves(bar) if x.dtype != jax.dtypes.float0]


def beside_an_add(
    shape: tuple[int, ...], floor: float, programs: dict[Callable | Foreign, tuple]
) -> list[dict[str, Any]]:
    """How long programs take, and how near they come to their floor at the rate of an add at the same time.

    Args:
        shape: Of the arrays that are added, float32.
        floor: Bytes that a program must move.
        programs: As `compare` takes them.
    """
    x, y = jnp.ones(shape), jnp.zeros(shape)  # two: a cache would serve half of what is read of one
    add, *found = compare({jnp.add: (x, y), **programs}).values()
    rate = 3 * x.nbytes / add["seconds"]
    return [{"floor_bytes": int(floor), **row, "roofline": floor / row["seconds"] / rate} for row in found]


def rows(shape: tuple[int, ...], operators: list[str], methods: list[str], longest: int) -> Any:
    """Each operator and pass by every method, compared with an elementwise add at the same time."""
    x, y = jnp.ones(shape), jnp.zeros(shape)
    at = {"shape": shape, "operator": "add", "method": "add", "pass": "forward"}
    yield {**at, "floor_bytes": 3 * x.nbytes, **measure(jnp.add, x, y), "roofline": 1.0}
    del x, y
    if shape[1] > longest:
        methods = [method for method in methods if method not in ("mru sequential", "lax.scan, autodiff")]
    for name in operators:
        op = operator(name, shape)
        g = jnp.ones(shape, jnp.complex64 if "complex" in name else jnp.float32)
        forward, backward = (int(units * g.nbytes) for units in FLOORS[name])
        outside = torch_rivals.affine(op, g) if name == "affine" and jax.default_backend() == "gpu" else {}
        scans = {METHODS[method]: (op,) for method in methods}
        gradients = {functools.partial(gradient, METHODS[method]): (op, g) for method in methods}
        for i, (kind, floor, programs) in enumerate(
            (("forward", forward, scans), ("backward", forward + backward, gradients))
        ):
            others = {both_passes[i]: () for both_passes in outside.values()}
            found = beside_an_add(shape, floor, {**programs, **others})
            for method, row in zip([*methods, *outside], found, strict=True):
                at = {"shape": shape, "operator": name, "method": method, "pass": kind}
                ours = found[methods.index(OURS)]["timings"] if OURS in methods else None
                yield {**at, **row, "times_ours": spread(row["timings"], ours) if ours else None}


def draw(rows: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Time over its floor, both passes together, one panel a shape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker
    from matplotlib.patches import Patch

    rows = [row for row in rows if row["pass"] == "backward"]
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    colours = {method: f"C{i}" for i, method in enumerate(dict.fromkeys(row["method"] for row in rows))}
    figure, axes = plt.subplots(
        1, len(shapes), figsize=(3.2 * len(shapes) + 2, 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, shape in zip(axes[0], shapes, strict=True):
        here = [row for row in rows if tuple(row["shape"]) == shape]
        names, methods = (list(dict.fromkeys(row[key] for row in here)) for key in ("operator", "method"))
        for i, method in enumerate(methods):
            at = {row["operator"]: 1 / row["roofline"] for row in here if row["method"] == method}
            places = [names.index(name) + 0.8 * (i - len(methods) / 2 + 0.5) / len(methods) for name in at]
            axis.barh(places, list(at.values()), 0.8 / len(methods), color=colours[method])
        axis.axvline(1, color="grey", linestyle=":")
        axis.set(
            xscale="log", xlabel="time / memory floor", title=f"{shape}", yticks=range(len(names)), yticklabels=names
        )
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(ticker.NullLocator())
    axes[0, 0].invert_yaxis()
    patches = [Patch(color=colour, label=method) for method, colour in colours.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(4, 2 * len(shapes)), fontsize=8)
    figure.suptitle("Forward and backward pass, against what it must move")
    figure.savefig(out, dpi=120)
    plt.close(figure)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{','.join(map(str, row['shape'])):>17} {row['operator']:15} {row['method']:27} {row['pass']:9} "
        f"{row['seconds'] * 1e3:9.3f} {1 / row['roofline']:5.1f}x {row['temporary_bytes'] / 2**20:8.1f} "
        f"{row['compile_seconds']:9.2f} {row['page_faults']:8}  "
        + ("{:.2f} to {:.2f} to {:.2f}".format(*row["times_ours"]) if row.get("times_ours") else "")
    )


def main() -> None:
    """The command line."""
    arguments = parser(__doc__.splitlines()[0], shape="batch,time,channels")
    arguments.add_argument("--operator", action="append", choices=list(FLOORS), help="may be given several times")
    arguments.add_argument("--method", action="append", choices=list(METHODS), help="may be given several times")
    arguments.add_argument("--longest", type=int, help="longest sequence for methods that go step by step")
    given = arguments.parse_args()
    platform = start()
    shapes = given.shape or SHAPES[platform]
    chosen = {"cpu": "mru sequential"}.get(platform, "mru associative")  # what "auto" comes to
    methods = given.method or [name for name in METHODS if name != chosen]
    longest = given.longest or {"cpu": 2**20}.get(platform, 2048)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; steps one by one up to T = {longest:,}")
    names = f"{'shape':>17} {'operator':15} {'method':27} {'pass':9} {'ms':>9} {'floor':>6} {'MiB':>8} {'compile s':>9}"
    print(f"{names} {'faults':>8}  times ours")
    operators = given.operator or list(FLOORS)
    measured = (row for shape in shapes for row in rows(shape, operators, methods, longest))
    report(measured, line, given.out, draw)


if __name__ == "__main__":
    main()
