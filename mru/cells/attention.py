"""Attention, causal and of several heads, with rotary positions and a cache of keys and values."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells import _softmax
from mru.cells._base import Cell, as_rngs, at_least_one, in_precision_of, named, resets
from mru.cells._linear import linear, product_dtype
from mru.engine.forward_mode import reverse_only
from mru.operators.base import State

# Positions are split into multiples of this and a rest, so that their angles are exact to 3e-4 in float32, however long
# the sequence is.
COARSE = 4096


class Attention(Cell, name="attention"):
    """Softmax attention of several heads to the last `max_length` steps, with rotary positions.

    Per head, of P = N / heads channels, with s from t - max_length + 1 to t, inside of the sequence:

        q_t = R^t W_q x_t,  k_s = R^s W_k x_s,  v_s = W_v x_s
        y_t = W_o sum_s softmax_s(q_t . k_s / sqrt(P)) v_s + b_o

    R^t turns each pair of channels (i, i + P / 2) by the angle t / base^(2 i / P), so that a product of a query and a
    key depends on the distance of the two steps only; t counts from the start of a sequence.

    Blocks of this cell are a Transformer. Its state is the cache: keys and values of the last `max_length` steps, each
    (..., max_length, heads, P), as a ring that begins anew with each sequence, and the `count` of steps of the
    sequence. A step costs O(max_length), a sequence O(T max_length), a block of 128 queries at a time, the state
    2 N max_length numbers. What is older is forgotten at once: for a Transformer without a window, give `max_length`
    the length of the longest sequence.

    Our reading: where a source stands for an unbounded cache, this one has a size; a projection to queries, keys and
    values has no bias.

    Source: Vaswani et al. 2017, arXiv 1706.03762; rotary positions Su et al. 2021, arXiv 2104.09864.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        heads: int = 2,
        max_length: int = 1024,
        base: float = 10_000.0,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N, the channels of all heads together; a multiple of twice `heads`.
            heads: Number of heads.
            max_length: Steps that are attended to, the present one among them.
            base: Of the angles: the slowest pair of channels turns once in about 2 pi base steps.
            method: Ignored: there is nothing to scan.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.

        Raises:
            ValueError: A size is out of its range, or the heads do not divide the channels into pairs.
        """
        self._set_sizes(features, state_size)
        self.heads, self.max_length = at_least_one("heads", heads), at_least_one("max_length", max_length)
        if self.state_size % (2 * self.heads):
            raise ValueError(
                f"Attention state_size must be a multiple of {2 * self.heads}, pairs of channels for each of "
                f"{self.heads} heads, got {state_size}"
            )
        if not 1 <= base < math.inf:
            raise ValueError(f"Attention needs a base of at least 1, and finite, got {base}")
        self.base = float(base)
        rngs = as_rngs(rngs)
        self.query = linear(features, self.state_size, use_bias=False, dtype=dtype, rngs=rngs)
        self.key = linear(features, self.state_size, use_bias=False, dtype=dtype, rngs=rngs)
        self.value = linear(features, self.state_size, use_bias=False, dtype=dtype, rngs=rngs)
        self.out = linear(self.state_size, features, dtype=dtype, rngs=rngs)
        self.dtype = product_dtype(dtype)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """An empty cache: {"count": int32, "keys", "values": (*batch_shape, max_length, heads, P)}."""
        shape = (*batch_shape, self.max_length, self.heads, self.state_size // self.heads)
        keys, values = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
        return {"count": jnp.zeros(batch_shape, jnp.int32), "keys": keys, "values": values}

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        reset: Array | None = None,
        *,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, State]:
        """See `Cell.__call__`."""
        x = self._checked(x, time=True)
        batch, time, length = x.shape[:-2], x.shape[-2], self.max_length
        block = min(_softmax.BLOCK, time)
        padded = -(-time // block) * block
        # Steps before the first that a query may have to look at. With no state nothing is there.
        past = min(length, padded - block) if state is None else length
        old = self._carried(state, batch) if state is not None else None
        count = jnp.zeros(batch, jnp.int32) if old is None else old["count"]

        index = past + jnp.arange(time, dtype=jnp.int32)
        start = _starts(index, past - count[..., None], None if reset is None else resets(reset, x))
        instead = "another cell; this one has reverse mode only, but for its `step`"
        query, key, value = reverse_only(self._projected(x, index - start), "Attention", instead)
        lines = {"keys": key, "values": value}
        for name, new in lines.items():
            before = self._in_order(old[name], count, new.dtype) if old is not None else None
            lines[name] = _joined(before, new, past, padded - time)
        first = jnp.maximum(start, index - length + 1)
        blocks = _softmax.Blocks(len(batch), past, block, self.dtype)
        # The padding sees padding.
        first = jnp.concatenate([first, jnp.full((*batch, padded - time), past + time, jnp.int32)], -1)
        mixed = _softmax.by_blocks(
            blocks, _joined(None, query, 0, padded - time), lines["keys"], lines["values"], first
        )
        mixed = jax.lax.slice_in_dim(mixed, 0, time, axis=len(batch))

        if capture is not None:
            capture.update(named("state", self._cache(lines, start, index)))
        state = self._cache(lines, start[..., -1:], index[-1:])
        y = self.out(mixed.reshape(*x.shape[:-1], self.state_size)).astype(x.dtype)
        return y, jax.tree.map(lambda leaf: jnp.squeeze(leaf, len(batch)), state)

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """See `Cell.step`."""
        x = self._checked(x, time=False)
        state = in_precision_of(x, self._carried(state, x.shape[:-1]))
        count = state["count"]
        query, key, value = self._projected(x, count)
        slot = count % self.max_length
        keys, values = _written(state["keys"], key, slot), _written(state["values"], value, slot)
        seen = jnp.arange(self.max_length) <= count[..., None]
        mixed = _softmax.softmax_attention(query[..., None, :, :], keys, values, seen[..., None, :], self.dtype)
        y = self.out(mixed.reshape(*x.shape[:-1], self.state_size)).astype(x.dtype)
        return y, {"count": count + 1, "keys": keys, "values": values}

    def _projected(self, x: Array, position: Array) -> tuple[Array, Array, Array]:
        """Queries and keys, turned by their positions (...), and values; each (..., heads, P), at least float32."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        query, key, value = (
            layer(x).astype(dtype).reshape(*x.shape[:-1], self.heads, self.state_size // self.heads)
            for layer in (self.query, self.key, self.value)
        )
        turn = functools.partial(_turned, angle=_angles(position, query.shape[-1] // 2, self.base, dtype)[..., None, :])
        return turn(query), turn(key), value

    def _in_order(self, ring: Array, count: Array, dtype: jnp.dtype) -> Array:
        """A ring of the cache, oldest step first: its end is the last step that was written."""
        slots = (count[..., None] + jnp.arange(self.max_length)) % self.max_length
        return _taken(ring.astype(dtype), slots)

    def _cache(self, lines: dict[str, Array], start: Array, index: Array) -> State:
        """The caches after some steps, each with a time axis of these steps.

        Args:
            lines: Keys and values of past and present steps, (..., S, heads, P).
            start: Where on this line the sequence of each step starts, (..., steps).
            index: Where it is itself, (steps,).
        """
        length = self.max_length
        slots = jnp.arange(length)
        age = (index - start)[..., None]
        age = (age - slots) % length  # how many steps ago the slot was last written, if it was
        written = index[:, None] - age >= start[..., None]
        where = jnp.where(written, index[:, None] - age, 0)

        def ring(line: Array) -> Array:
            found = _taken(line, jax.lax.collapse(where, where.ndim - 2))
            return jnp.where(written[..., None, None], found.reshape(*where.shape, *line.shape[-2:]), 0)

        return {"count": index - start + 1, **{name: ring(line) for name, line in lines.items()}}


def _starts(index: Array, carried: Array, reset: Array | None) -> Array:
    """Where the sequence of each step starts, (..., T): at the last reset, or where the carried one does (..., 1)."""
    if reset is None:
        return jnp.broadcast_to(carried, (*carried.shape[:-1], index.size))
    latest = jax.lax.cummax(jnp.where(reset, index, -1), axis=reset.ndim - 1)
    return jnp.where(latest < 0, carried, latest)


def _angles(position: Array, pairs: int, base: float, dtype: DTypeLike) -> Array:
    """Angles by which pairs of channels are turned, (..., pairs), up to whole turns."""
    speed = base ** -(np.arange(pairs) / pairs)
    coarse, fine = (np.asarray(s, dtype) for s in (np.mod(COARSE * speed, 2 * np.pi), speed))
    position = position[..., None]
    return (position // COARSE).astype(dtype) * coarse + (position % COARSE).astype(dtype) * fine


def _turned(x: Array, angle: Array) -> Array:
    """Each pair of channels (i, i + P / 2) turned by an angle."""
    a, b = jnp.split(x, 2, -1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def _taken(line: Array, where: Array) -> Array:
    """Steps (..., S) of a line (..., L, heads, P)."""
    return jnp.take_along_axis(line, where[..., None, None], -3)


def _written(ring: Array, new: Array, slot: Array) -> Array:
    """A ring (..., L, heads, P) with one slot (...) replaced, in place where its buffer may be."""
    put = functools.partial(jax.lax.dynamic_update_index_in_dim, axis=0)
    for _ in range(slot.ndim):
        put = jax.vmap(put)
    return put(ring, new.astype(ring.dtype), slot)


def _joined(before: Array | None, new: Array, past: int, padding: int) -> Array:
    """A line of `past` steps before, zeros if there are none, the new ones, and padding."""
    axis = new.ndim - 3
    shape = new.shape[:axis], new.shape[axis + 1 :]
    zeros = [jnp.zeros((*shape[0], size, *shape[1]), new.dtype) for size in (past, padding)]
    return jnp.concatenate([zeros[0] if before is None else before, new, zeros[1]], axis)
