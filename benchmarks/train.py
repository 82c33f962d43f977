"""Layers and models: time against T, training steps a second, and streaming, beside what can not be scanned.

python -m benchmarks.train --out results/benchmarks/train-cpu.json

"layer": forward and backward pass of one layer on (batch, T, width). "model": one training step (gradient and AdamW) of
four blocks. "psmnist": the model of configs/psmnist (784 steps), ours against `associative_scan` with autodiff, and
with a sum in place of the scan, which is more than any scan could gain. "tokens": a model of tokens with the gradient
of its embedding, with that of `nnx.Embed`, and without one.
"step": one streamed step of a batch of one, by itself on the device, and with the dispatch from Python.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import mru
from benchmarks import rivals
from benchmarks.measure import compare, measure, parser, report, start
from mru.model.embedding import Embedding

LENGTHS = [256, 1024, 4096, 16384, 65536, 262144]
SETTINGS: dict[str, dict[str, Any]] = {
    "cpu": {"batch": 1, "width": 32, "psmnist": 10, "tokens": (2, 256, 32)},
    "gpu": {"batch": 8, "width": 128, "psmnist": 100, "tokens": (50, 2000, 128)},
}
CELLS = ["bmru", "cmru", "pmru", "lru", "s5", "mingru"]


def layer(name: str, width: int) -> tuple[Any, Callable]:
    """A layer's parameters, and the function of (parameters, x (B, T, D)) that it is."""
    if name == "memax LRU":
        return rivals.memax_lru(width)
    if name == "GRU (nnx.RNN)":
        module = rivals.GRU(width, rngs=nnx.Rngs(0))
    else:
        module = mru.cells.get(name)(width, width, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def apply(params, x):
        y = nnx.merge(graphdef, params, rest)(x)
        return y[0] if isinstance(y, tuple) else y

    return params, apply


def layers(lengths: list[int], batch: int, width: int, limit: float) -> Any:
    """Forward and backward against T; a series ends where its next point would take longer than `limit` seconds."""
    for name in ["bmru", "pmru", "lru", "GRU (nnx.RNN)", "memax LRU"]:
        try:
            params, apply = layer(name, width)
        except ImportError:
            print(f"{name}: not installed, left out (pip install memax)")
            continue
        expected = 0.0
        for length in lengths:
            if expected > limit:
                print(f"{name}: T = {length} left out, it would take about {expected:.0f} s a pass")
                break
            x = jax.random.normal(jax.random.key(0), (batch, length, width))

            def both(params, x, apply=apply):
                return jax.vjp(apply, params, x)[1](jnp.ones_like(x))

            found = measure(both, params, x, calls=3)
            expected = found["seconds"] * 4
            at = {"part": "layer", "name": name, "length": length, "batch": batch, "width": width}
            yield {**at, **found}


def training(
    name: str, batch: int, length: int, width: int, inputs: int, outputs: int, dtype: str | None = None
) -> tuple[Callable, tuple]:
    """A training step of four blocks, and its arguments."""
    model = mru.SequenceModel(
        inputs, outputs, cells=[name] * 4, width=width, state_size=width, positions=32,
        pooling="mean", dtype=dtype, rngs=nnx.Rngs(0),
    )  # fmt: skip
    return step_of(model, jax.random.normal(jax.random.key(0), (batch, length, inputs)))


def step_of(model: mru.SequenceModel, x: jax.Array) -> tuple[Callable, tuple]:
    """A training step of a classifier, and its arguments."""
    batch, outputs = len(x), model.outputs
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    transform = mru.adamw(1e-3)
    targets = jax.random.randint(jax.random.key(1), (batch,), 0, outputs)

    def step(params, state, x, targets):
        def loss(params):
            logits, _ = nnx.merge(graphdef, params, rest)(x, rngs=nnx.Rngs(dropout=0))
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step, (params, transform.init(params), x, targets)


def models(lengths: list[int], batch: int, width: int) -> Any:
    """Training steps of whole models against T."""
    for name in ["bmru", "pmru", "lru"]:
        for length in lengths:
            step, args = training(name, batch, length, width, 4, 10)
            found = measure(step, *args, calls=3)
            at = {"part": "model", "name": name, "length": length, "batch": batch, "width": width}
            yield {**at, **found, "tokens_per_second": batch * length / found["seconds"]}


def no_scan(op: mru.operators.Operator, *_: Any, **__: Any) -> jax.Array:
    """The sum of the operands as the states: what is left of a model without its recurrence."""
    return functools.reduce(jnp.add, (x for x in jax.tree.leaves(op) if jnp.ndim(x) > 1))


def psmnist(batch: int) -> Any:
    """Training steps of the psMNIST models, and of the same with something else in place of our scan."""
    scans = {"mru auto": mru.scan, "associative_scan, autodiff": rivals.associative_scan, "no scan": no_scan}
    for name, dtype in itertools.product(["bmru", "pmru"], ["float32", "bfloat16"]):
        step, args = training(name, batch, 784, 128, 1, 10, dtype)

        def by(scan, *args, step=step):
            with mock.patch("mru.cells._scan.scan", scan):
                return step(*args)

        found = compare({functools.partial(by, scan): args for scan in scans.values()}, calls=5)
        for method, row in zip(scans, found.values(), strict=True):
            at = {"part": "psmnist", "name": f"{name}, {method}", "dtype": dtype}
            at |= {"length": 784, "batch": batch, "width": 128}
            yield {**at, **row, "steps_per_second": 1 / row["seconds"]}


class CastFirst(Embedding):
    """Rows of a table that is cast first, as `nnx.Embed` has it."""

    def __call__(self, tokens):
        return nnx.Embed.__call__(self, tokens)


class NoGradient(Embedding):
    """No gradient of the table."""

    def __call__(self, tokens):
        return jax.lax.stop_gradient(super().__call__(tokens))


def tokens(batch: int, length: int, width: int) -> Any:
    """Training steps of two S5 blocks that read tokens, drawn evenly or as words are: the r-th has a share of 1 / r."""
    embeddings = {"mru": Embedding, "nnx.Embed": CastFirst, "no gradient": NoGradient}
    settings = [(16, "even"), (256, "words"), (32000, "even"), (32000, "words")]
    for dtype, (vocabulary, drawn) in itertools.product(["bfloat16", "float32"], settings):
        rank = jnp.arange(1, vocabulary + 1)
        logits = -jnp.log(rank) if drawn == "words" else jnp.zeros(vocabulary)
        x = jax.random.categorical(jax.random.key(0), logits, shape=(batch, length))
        programs = {}
        for name, kind in embeddings.items():
            with mock.patch("mru.model.inputs.Embedding", kind):
                model = mru.SequenceModel(
                    0, 10, cells=["s5"] * 2, vocabulary=vocabulary, width=width, state_size=width, pooling="mean",
                    dtype=dtype, rngs=nnx.Rngs(0),
                )  # fmt: skip
            programs[name] = step_of(model, x)
        found = compare(dict(programs.values()), seconds=0.1, calls=9)
        without = list(found.values())[-1]["timings"]
        for name, row in zip(programs, found.values(), strict=True):
            at = {"part": "tokens", "name": f"{vocabulary} {drawn}, {name}", "dtype": dtype}
            at |= {"length": length, "batch": batch, "width": width}
            shares = [1 - b / a for a, b in zip(row["timings"], without, strict=True)]
            yield {**at, **row, "gradient_share": statistics.median(shares)}


def streaming(width: int, steps: int = 1000) -> Any:
    """Seconds of one step of each cell and of a stack: on the device, and as called from Python."""
    modules = {name: mru.cells.get(name)(width, width, rngs=nnx.Rngs(0)) for name in CELLS}
    modules["stack of 4 bmru"] = mru.SequenceModel(
        width,
        width,
        cells=["bmru"] * 4,
        width=width,
        state_size=width,
        pooling="none",
        rngs=nnx.Rngs(0),
    )
    for name, module in modules.items():
        graphdef, variables = nnx.split(module)
        x = jax.random.normal(jax.random.key(0), (steps, 1, width))
        state = module.initial_state((1,))

        def step(variables, state, x, graphdef=graphdef):
            y, state = nnx.merge(graphdef, variables).step(x, state)
            return state, y

        def many(variables, state, xs, step=step):
            return jax.lax.scan(functools.partial(step, variables), state, xs)

        found = measure(many, variables, state, x)
        one = jax.jit(step).lower(variables, state, x[0]).compile()
        now, y = one(variables, state, x[0])
        began = time.perf_counter()
        for _ in range(steps):
            now, y = one(variables, now, x[0])
        jax.block_until_ready(y)
        called = (time.perf_counter() - began) / steps
        found["seconds"] /= steps
        yield {"part": "step", "name": name, "batch": 1, "width": width, **found, "seconds_called": called}


def draw(rows: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Time against T of the layers, log-log; and of the models, where they were run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {"layer": "one layer, forward and backward", "model": "four blocks, one training step"}
    parts = [part for part in titles if any(row["part"] == part for row in rows)]
    if not parts:
        return
    figure, axes = plt.subplots(1, len(parts), figsize=(5 * len(parts), 3.8), layout="constrained", squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        here = [row for row in rows if row["part"] == part]
        for name in dict.fromkeys(row["name"] for row in here):
            points = [(row["length"], row["seconds"] * 1e3) for row in here if row["name"] == name]
            rival = not name.islower()
            axis.plot(*zip(*points, strict=True), "s--" if rival else "o-", label=name if rival else name.upper())
        shape = f"batch {here[0]['batch']}, width {here[0]['width']}"
        axis.set(xscale="log", yscale="log", xlabel="sequence length T", ylabel="milliseconds")
        axis.set_title(f"{titles[part]} ({shape})", fontsize=10)
        axis.legend(fontsize=8)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    extra = {"tokens_per_second": "tokens/s", "steps_per_second": "steps/s"}
    rest = "".join(f"  {row[key]:,.1f} {unit}" for key, unit in extra.items() if key in row)
    rest += f"  {row['gradient_share']:7.1%} of it the table's gradient" if "gradient_share" in row else ""
    rest += f"  {row['seconds_called'] * 1e6:.0f} us with dispatch" if "seconds_called" in row else ""
    return (
        f"{row['part']:8} {row['name']:32} {row.get('dtype', 'float32'):8} {row.get('length', 1):8,} "
        f"{row['seconds'] * 1e3:10.4f} {row['temporary_bytes'] / 2**20:9.1f} {row['compile_seconds']:9.2f}{rest}"
    )


def main() -> None:
    """The command line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--part", action="append", choices=["layer", "model", "psmnist", "tokens", "step"])
    arguments.add_argument("--longest", type=int, help="largest T")
    arguments.add_argument("--limit", type=float, default=10.0, help="most seconds of one pass of a layer")
    given = arguments.parse_args()
    settings = SETTINGS[start()]
    lengths = [n for n in LENGTHS if n <= (given.longest or max(LENGTHS))]
    batch, width = settings["batch"], settings["width"]
    parts = {
        "layer": lambda: layers(lengths, batch, width, given.limit),
        "model": lambda: models([n for n in lengths if n <= 16384], batch, width),
        "psmnist": lambda: psmnist(settings["psmnist"]),
        "tokens": lambda: tokens(*settings["tokens"]),
        "step": lambda: streaming(width),
    }
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"{'part':8} {'name':32} {'dtype':8} {'T':>8} {'ms':>10} {'MiB':>9} {'compile s':>9}")
    report((row for part in given.part or parts for row in parts[part]()), line, given.out, draw)


if __name__ == "__main__":
    main()
