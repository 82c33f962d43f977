"""Milliseconds for one more token, against the length of the context: recurrent models and a Transformer.

python -m benchmarks.generate --out results/benchmarks/generate-cpu.json

A model reads a context of tokens, in chunks, and then generates: each token is the likeliest after the one before, by
`step`, all in one program, as the host would otherwise take longer to ask for a token than the device to make it. The
median is taken of several repeats, which start from the same context. Weights are those at the start, as time does not
depend on them.

"attention, cache" keeps the keys and values of the whole context, "attention, no cache" reads all of it again for each
token. Both are Transformers, blocks of attention and a gated MLP, which all models here have.
"""

from __future__ import annotations

import functools
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import mru
from benchmarks.measure import parser, report, start

SETTINGS: dict[str, dict[str, int]] = {
    "cpu": {"blocks": 2, "width": 64},
    "gpu": {"blocks": 4, "width": 256},
}
CONTEXTS = [64, 256, 1024, 4096, 16384, 65536]
CACHED, UNCACHED = "attention, cache", "attention, no cache"
MODELS = ["bmru", "pmru", "s5", "gru", CACHED, UNCACHED]
VOCABULARY, CHUNK = 256, 1024


class Generator:
    """A model that reads a context and goes on, one token after the other."""

    def __init__(self, name: str, blocks: int, width: int, window: int | None):
        cell, options = name.partition(",")[0], {}
        if window is not None:
            options = {"attention": {"max_length": window, "heads": max(1, width // 64)}}
        model = mru.SequenceModel(
            0, VOCABULARY, vocabulary=VOCABULARY, cells=[cell] * blocks, width=width, state_size=width,
            pooling="last", options=options, rngs=nnx.Rngs(0),
        )  # fmt: skip
        self.graphdef, self.variables = nnx.split(model)
        self.state = model.initial_state((1,))
        # Everything that a state holds is written in place.
        self._read = jax.jit(self._chunk, donate_argnums=1)
        self._go_on = jax.jit(self._tokens, static_argnums=0)

    def _chunk(self, variables: Any, state: Any, tokens: jax.Array) -> Any:
        logits, state = nnx.merge(self.graphdef, variables)(tokens, state)
        return _likeliest(logits), state

    def _tokens(self, count: int, variables: Any, token: jax.Array, state: Any) -> Any:
        def one(_: Any, carry: Any) -> Any:
            token, state = carry
            if state is not None:
                logits, state = nnx.merge(self.graphdef, variables).step(token, state)
                return _likeliest(logits), state
            found = _likeliest(nnx.merge(self.graphdef, variables)(token)[0])
            return jnp.concatenate([token[:, 1:], found[:, None]], 1), None

        return jax.lax.fori_loop(0, count, one, (token, state))

    def read(self, tokens: jax.Array) -> tuple[jax.Array, Any]:
        """The likeliest token after a context (1, T), and the state there."""
        state, token = jax.tree.map(jnp.copy, self.state), tokens[:, 0]
        for begin in range(0, tokens.shape[1], CHUNK):
            token, state = self._read(self.variables, state, tokens[:, begin : begin + CHUNK])
        return jax.block_until_ready((token, state))

    def go_on(self, token: jax.Array, state: Any, count: int) -> tuple[jax.Array, Any]:
        """So many tokens more.

        Args:
            token: The last token, int (1,), or without a state all tokens of the context, (1, T).
            state: The state after the token before it; None to read the whole context again for each token.
            count: How many.

        Returns:
            The same, moved on.
        """
        return self._go_on(count, self.variables, token, state)

    def seconds(self, token: jax.Array, state: Any, count: int) -> float:
        """Of each of so many tokens, and of compiling where that is the first call with this number."""
        began = time.perf_counter()
        jax.block_until_ready(self.go_on(token, state, count))
        return (time.perf_counter() - began) / count


def _likeliest(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, -1).astype(jnp.int32)


# A model that has no window is the same at every context, and so are its programs.
_generator = functools.lru_cache(maxsize=1)(Generator)


def measured(
    name: str, context: int, blocks: int, width: int, count: int, repeats: int, limit: float
) -> dict[str, Any]:
    """One point: a model at a length of context.

    Args:
        name: One of `MODELS`.
        context: Tokens read before.
        blocks: Of the model.
        width: Of the model.
        count: Tokens that are timed in each repeat; fewer, at least 3, where they would take longer than the limit.
        repeats: Number of repeats.
        limit: Seconds of a repeat.
    """
    generator = _generator(name, blocks, width, context if "attention" in name else None)
    tokens = jax.random.randint(jax.random.key(0), (1, context), 0, VOCABULARY, jnp.int32)
    facts: dict[str, Any] = {}
    if name == UNCACHED:
        clock = functools.partial(generator.seconds, tokens, None)
        held = 0
    else:
        token, state = generator.read(tokens)  # compiles
        began = time.perf_counter()
        token, state = generator.read(tokens)
        facts["context_seconds"] = time.perf_counter() - began
        clock = functools.partial(generator.seconds, token, state)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    clock(3)  # compiles, and is not counted
    count = min(count, max(3, int(limit / clock(3))))
    clock(count)
    seconds = [clock(count) for _ in range(repeats)]
    at = {"name": name, "context": context, "blocks": blocks, "width": width, "batch": 1}
    return {
        **at,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "tokens": count,
        "repeats": repeats,
        "state_bytes": held,
        **facts,
    }


def rows(names: list[str], contexts: list[int], limit: float, **options: int) -> Iterator[dict[str, Any]]:
    """Every model at every context; a series ends where a token would take longer than the limit in seconds."""
    for name in names:
        if (cell := name.partition(",")[0]) not in mru.cells.names():
            print(f"{name}: left out, there is no cell {cell!r}")
            continue
        expected, before = 0.0, 0
        for context in contexts:
            if before and expected * (context / before) > limit:  # longer in proportion, at least
                print(f"{name}: left out from a context of {context:,} on, a token would take more than {limit:g} s")
                break
            found = measured(name, context, limit=limit, **options)
            expected, before = found["seconds"], context
            yield found


def draw(rows: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Milliseconds of a token, and what is carried from one to the next, against the context."""
    from mru.plots import style

    @style.styled
    def picture() -> None:
        figure, axes = style.panels(style.PAGE, 3.0, columns=2)
        for number, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
            here = [row for row in rows if row["name"] == name]
            x = [row["context"] for row in here]
            axes[0].plot(x, [row["seconds"] * 1e3 for row in here], label=name, **style.line(number, len(x)))
            if name != UNCACHED:
                axes[1].plot(x, [row["state_bytes"] / 1024 for row in here], **style.line(number, len(x)))
        for axis in axes:
            axis.set_xlabel("context (tokens)")
            style.logarithmic(axis, "x")
            style.logarithmic(axis, "y")
        axes[0].set(ylabel="ms for a new token", title="Time")
        axes[1].set(ylabel="KiB of state", title="Memory carried from token to token")
        style.legend_below(figure, axes[0])
        figure.savefig(out, dpi=style.DPI)

    picture()


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    milliseconds = [row[key] * 1e3 for key in ("seconds", "fastest", "slowest")]
    read = f"{row['context_seconds']:9.3f}" if "context_seconds" in row else f"{'':9}"
    return (
        f"{row['name']:20} {row['context']:8,} {milliseconds[0]:9.3f} {milliseconds[1]:9.3f} {milliseconds[2]:9.3f} "
        f"{row['state_bytes'] / 1024:11.1f} {read} {row['tokens']:6}"
    )


def main() -> None:
    """The command line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--model", action="append", choices=MODELS, help="may be given several times")
    arguments.add_argument("--longest", type=int, default=CONTEXTS[-1], help="largest context")
    arguments.add_argument("--blocks", type=int, help="blocks of each model")
    arguments.add_argument("--width", type=int, help="width, and size of the states")
    arguments.add_argument("--tokens", type=int, default=100, help="tokens timed in a repeat")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--limit", type=float, default=3.0, help="most seconds of a token, and of a repeat")
    given = arguments.parse_args()
    settings = SETTINGS["cpu" if start() == "cpu" else "gpu"]
    options = {key: getattr(given, key) or settings[key] for key in ("blocks", "width")}
    contexts = [context for context in CONTEXTS if context <= given.longest]
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}; {options['blocks']} blocks of width {options['width']}"
    )
    print(
        f"{'model':20} {'context':>8} {'ms/token':>9} {'fastest':>9} {'slowest':>9} {'state KiB':>11} {'read s':>9} "
        f"{'tokens':>6}"
    )
    found = rows(given.model or MODELS, contexts, given.limit, count=given.tokens, repeats=given.repeats, **options)
    report(found, line, given.out, draw)


if __name__ == "__main__":
    main()
