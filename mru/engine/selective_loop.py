"""A selective scan step by step, in JAX alone: on CPUs, and wherever there is no kernel for it.

The arguments of both passes are described in `mru.engine.selective`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.selective_steps import Arguments, Maps, after, backward, chunk_of, divided, output, selected, widened
from mru.engine.steps import at, put


def forward(given: Arguments, reset: Array | None, keep: bool) -> tuple[Array, Array, Array | None]:
    """Outputs, the last state, and what was kept."""
    (maps, h0, reset_state), time = given, given.maps.x.shape[1]
    chunk, chunks = chunk_of(time), -(-time // chunk_of(time))

    def step(t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        h, y = carry
        now, first = _read(maps, h0.dtype, t), _at(reset, t)
        h = after(now, selected(first, reset_state, h))
        return h, put(y, output(now, h), t, 1)

    def steps(i: Array, carry: Any) -> Any:
        h, y, kept = carry
        if keep:
            kept = put(kept, h, i, 1)
        h, y = jax.lax.fori_loop(i * chunk, jnp.minimum((i + 1) * chunk, time), step, (h, y))
        return h, y, kept

    kept = jnp.zeros_like(jnp.repeat(h0[:, None], chunks, 1)) if keep else None
    h, y, kept = jax.lax.fori_loop(0, chunks, steps, (h0, jnp.zeros_like(maps.x, h0.dtype), kept))
    return y, h, kept


def pullback(given: Arguments, reset: Array | None, kept: Array, g: Array, g_last: Array) -> Arguments:
    """The cotangents of what was given."""
    (maps, h0, reset_state), time = given, given.maps.x.shape[1]
    chunk, chunks = chunk_of(time), -(-time // chunk_of(time))

    def again(t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        h, starts = carry
        h = selected(_at(reset, t), reset_state, h)
        return after(_read(maps, h0.dtype, t), h), put(starts, h, t % chunk, 1)

    def back(t: Array, starts: Array, carry: Arguments) -> Arguments:
        bars, incoming, to_reset_state = carry
        found, through = backward(_read(maps, h0.dtype, t), at(starts, t % chunk, 1), at(g, t, 1), incoming)
        incoming, to_reset_state = divided(_at(reset, t), through, to_reset_state)
        a = bars.a + found.a.sum(0)
        bars = Maps(*(bar if bar is bars.a else put(bar, new, t, 1) for bar, new in zip(bars, found, strict=True)))
        return Arguments(bars._replace(a=a), incoming, to_reset_state)

    def steps(k: Array, carry: tuple[Arguments, Array]) -> tuple[Arguments, Array]:
        bars, starts = carry
        i = chunks - 1 - k
        begin, end = i * chunk, jnp.minimum((i + 1) * chunk, time)
        _, starts = jax.lax.fori_loop(begin, end, again, (at(kept, i, 1), starts))
        return jax.lax.fori_loop(begin, end, lambda t, bars: back(begin + end - 1 - t, starts, bars), bars), starts

    zeros = jax.tree.map(jnp.zeros_like, maps)._replace(a=jnp.zeros_like(maps.a, h0.dtype))
    starts = jnp.zeros_like(jnp.repeat(h0[:, None], chunk, 1))
    none = None if reset_state is None else jnp.zeros_like(h0)
    return jax.lax.fori_loop(0, chunks, steps, (Arguments(zeros, g_last, none), starts))[0]


def _read(maps: Maps, dtype: Any, t: Array) -> Maps:
    """The maps of a step, in the precision of the states."""
    return widened(Maps(*(x if x is maps.a else at(x, t, 1) for x in maps)), dtype)


def _at(x: Array | None, t: Array) -> Any:
    return None if x is None else at(x, t, 1)
