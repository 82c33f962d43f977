"""Causal softmax attention over a line of steps, some queries at a time, so that no array of T x T numbers is made.

Non-finite numbers reach the steps that may read them, and no other. A step that must not read another gives it the
weight 0, but 0 * NaN is NaN: so what is read is made finite first, and what has read a bad step is marked afterwards.

Shapes: `...` any batch axes, T steps of the queries, S of the line, H heads of P channels.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Queries that attend at a time.
BLOCK = 128


class Blocks(NamedTuple):
    """How a line is cut.

    Attributes:
        axis: Of time, the number of batch axes.
        past: Steps of the line before the first query, of which each query sees at most as many before itself.
        size: Queries of a block, which divides their number.
        dtype: Of the matrix products; that of the arrays if None.
    """

    axis: int
    past: int
    size: int
    dtype: jnp.dtype | None

    def near(self, line: Array, begin: Array) -> Array:
        """What the queries of a block may see: the block itself, and `past` steps before it."""
        return jax.lax.dynamic_slice_in_dim(line, begin, self.past + self.size, self.axis)

    def add(self, line: Array, part: Array, begin: Array) -> Array:
        """The line, with something added where `near` is."""
        return jax.lax.dynamic_update_slice_in_dim(line, self.near(line, begin) + part, begin, self.axis)

    def cut(self, queries: Array) -> Array:
        """(..., T, more) as (blocks, ..., size, more)."""
        before, time, after = queries.shape[: self.axis], queries.shape[self.axis], queries.shape[self.axis + 1 :]
        return jnp.moveaxis(queries.reshape(*before, time // self.size, self.size, *after), self.axis, 0)

    def joined(self, queries: Array) -> Array:
        """The reverse of `cut`."""
        queries = jnp.moveaxis(queries, 0, self.axis)
        return jax.lax.collapse(queries, self.axis, self.axis + 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def by_blocks(blocks: Blocks, query: Array, keys: Array, values: Array, first: Array) -> Array:
    """What each query reads on a line of keys and values, from `first` to its own place.

    Its derivative computes each block again, and adds up the cotangents of the line in place.

    Args:
        blocks: How the line is cut.
        query: (..., T, H, P); the place of query t on the line is past + t.
        keys: (..., past + T, H, P).
        values: Like the keys.
        first: int (..., T), at most the query's own place.

    Returns:
        (..., T, H, P).
    """

    def one(now: tuple[Array, Array, Array]) -> Array:
        begin, q, first = now
        return _block(blocks, begin, first, q, blocks.near(keys, begin), blocks.near(values, begin))

    begins = jnp.arange(0, query.shape[blocks.axis], blocks.size)
    return blocks.joined(jax.lax.map(one, (begins, blocks.cut(query), blocks.cut(first))))


def _forward(blocks: Blocks, *args: Array) -> tuple[Array, tuple[Array, ...]]:
    return by_blocks(blocks, *args), args


def _backward(blocks: Blocks, args: tuple[Array, ...], bar: Array) -> tuple[Array | None, ...]:
    query, keys, values, first = args

    def one(bars: Any, now: Any) -> Any:
        begin, q, first, bar = now
        near = (blocks.near(line, begin) for line in (keys, values))
        _, pullback = jax.vjp(functools.partial(_block, blocks, begin, first), q, *near)
        q_bar, *near_bars = pullback(bar)
        return [blocks.add(line, part, begin) for line, part in zip(bars, near_bars, strict=True)], q_bar

    begins = jnp.arange(0, query.shape[blocks.axis], blocks.size)
    steps = begins, *(blocks.cut(x) for x in (query, first, bar))
    (keys_bar, values_bar), query_bar = jax.lax.scan(one, [jnp.zeros_like(keys), jnp.zeros_like(values)], steps)
    return blocks.joined(query_bar), keys_bar, values_bar, None


by_blocks.defvjp(_forward, _backward)


def _block(blocks: Blocks, begin: Array, first: Array, query: Array, keys: Array, values: Array) -> Array:
    """What the queries of one block read."""
    place = begin + blocks.past + jnp.arange(blocks.size)
    line = begin + jnp.arange(blocks.past + blocks.size)
    seen = (first[..., None] <= line) & (line <= place[:, None])
    bad = ~(jnp.isfinite(keys) & jnp.isfinite(values)).all((-2, -1))
    spoiled = (seen & bad[..., None, :]).any(-1) | ~jnp.isfinite(query).all((-2, -1))
    clean = jnp.where(spoiled[..., None, None], 0, query)
    keys, values = (jnp.where(bad[..., None, None], 0, x) for x in (keys, values))
    return _mark(softmax_attention(clean, keys, values, seen, blocks.dtype), query, spoiled)


def softmax_attention(query: Array, keys: Array, values: Array, seen: Array, dtype: jnp.dtype | None) -> Array:
    """Queries (..., T, H, P) of keys and values (..., S, H, P) where they are seen, (..., T, S).

    We do not call `jax.nn.dot_product_attention`: its softmax is of float32, also for float64.
    """
    wide = query.dtype
    query = query / query.shape[-1] ** 0.5
    if dtype is not None:
        query, keys, values = (x.astype(dtype) for x in (query, keys, values))
    scores = jnp.einsum("...thp,...shp->...hts", query, keys, preferred_element_type=wide)
    weights = jax.nn.softmax(jnp.where(seen[..., None, :, :], scores, -jnp.inf), -1)
    return jnp.einsum("...hts,...shp->...thp", weights.astype(values.dtype), values, preferred_element_type=wide)


@jax.custom_vjp
def _mark(mixed: Array, query: Array, spoiled: Array) -> Array:
    """What was read, with NaN for the queries (...) that have read a bad step.

    In the backward pass a cotangent that is not finite would be mixed too: it goes to its own query alone.
    """
    return jnp.where(spoiled[..., None, None], jnp.nan, mixed)


def _mark_forward(mixed: Array, query: Array, spoiled: Array) -> tuple[Array, Array]:
    return _mark(mixed, query, spoiled), spoiled


def _mark_backward(spoiled: Array, bar: Array) -> tuple[Array, Array, None]:
    spoiled = (spoiled | ~jnp.isfinite(bar).all((-2, -1)))[..., None, None]
    return jnp.where(spoiled, 0, bar), jnp.where(spoiled, jnp.nan, jnp.zeros_like(bar)), None


_mark.defvjp(_mark_forward, _mark_backward)
