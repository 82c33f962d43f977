"""One pass over memory on NVIDIA GPUs: a Pallas kernel that walks the steps with the state in registers.

What differs between operators and passes is the function of one step, and that is written with the operators' own
methods: gates are computed where they are used, and nothing but the operands, the states and the cotangents moves.

A program walks some channels of one sequence. Where there are too few of these to fill the chip, the time axis is cut
into chunks: each is composed into one map, from its far end towards its near one until nothing before can reach
through, then a walk over these maps gives what each chunk starts from, and then all chunks are walked at once.

Complex numbers are two reals. The kernel is lowered by way of Triton, which JAX has deprecated since 0.11. Its
successor, Mosaic GPU, is not used yet: JAX 0.11 can not interpret its pipelines on a CPU, where tests run, nor lower
gates with a derivative of their own through them. Without a GPU the kernel is interpreted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mru.engine.adjoint import decoded, encoded, field_cotangents, is_coded, time_of, widen
from mru.engine.associative import composed
from mru.operators import Affine, Clamp, Latch, Operator, Play, lowered, pytree

__all__ = ["composed", "obstacle", "on_cuda", "pullback", "states"]

# Measured on an H200, like the numbers in `_layout`: ...
_PROGRAMS = 132 * 12  # ... so many programs keep enough loads under way, the same number on each of its processors, ...
_ENOUGH = 512  # ... and with these a single walk is faster than chunks, of which all is read twice.
_GRAIN = 32  # Steps; chunks consist of whole grains.


def obstacle(op: Operator) -> str | None:
    """Why the kernels can not run this operator, or None."""
    if isinstance(op, Latch) and jnp.iscomplexobj(op.value):
        return "they have no complex Latch"
    size = max(x.size for x in jax.tree.leaves(op))
    if size >= 2**31:
        return f"they count elements in 32 bits, and a field has {size:,}"
    return None


@functools.cache
def on_cuda() -> bool:
    """If this process has a CUDA device."""
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


@pytree
@dataclasses.dataclass(frozen=True)
class _Complex:
    """Complex numbers as two reals, with what the methods of `Affine` do to them."""

    real: Array
    imag: Array

    def __add__(self, other):
        return _Complex(self.real + other.real, self.imag + other.imag)

    def __mul__(self, other):
        return _Complex(
            self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real
        )

    def __ne__(self, zero):
        return (self.real != zero) | (self.imag != zero)

    @property
    def ndim(self):
        return self.real.ndim

    def sum(self, axis):
        return jax.tree.map(lambda x: x.sum(axis), self)


def _split(tree):
    return jax.tree.map(lambda x: _Complex(x.real, x.imag) if jnp.iscomplexobj(x) else x, tree)


def _join(tree):
    return jax.tree.map(
        lambda x: jax.lax.complex(x.real, x.imag) if isinstance(x, _Complex) else x,
        tree,
        is_leaf=lambda x: isinstance(x, _Complex),
    )


@pytree
@dataclasses.dataclass(frozen=True)
class _Clamp(Clamp):
    """A clamp that passes a NaN on: minimum and maximum, as they are lowered by way of Triton, drop it."""

    def apply(self, h):
        h = jnp.where(h < self.lo, self.lo, h)
        h = jnp.where(h > self.hi, self.hi, h)
        return jnp.where(jnp.isnan(self.lo) | jnp.isnan(self.hi), jnp.nan, h)


def _select(flag, x, y):
    return y if flag is None else jax.tree.map(lambda x, y: jnp.where(flag, x, y), x, y)


def _zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def _steps(tree, shape):
    """Leaves (..., T, N) as (B, T, N), where `shape` is (..., N)."""
    return jax.tree.map(lambda x: x if x.ndim < 2 else x.reshape(math.prod(shape[:-1]), *x.shape[-2:]), tree)


def _rows(tree):
    """Leaves (..., N) as (B, N)."""
    return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), tree)


def _identity(maps, lanes):
    """Rows of maps of this kind, abstract, that leave the state as it is."""

    def fill(like, value):
        if isinstance(like, _Complex):
            return _Complex(fill(like.real, value), fill(like.imag, 0))
        return jnp.full(lanes, value, like.dtype)

    return type(maps)(*map(fill, vars(maps).values(), maps.identity))


def states(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, keep: bool
) -> tuple[Array, Array | None]:
    """Every state, and what is kept; see `mru.engine.front`."""
    keep = keep and is_coded(op)
    shape, time, real = h0.shape, time_of(op), h0.real.dtype
    op, h0, reset_state = _split((op, h0, reset_state))
    moving = _steps((op, None if reset is None else reset[..., None]), shape)
    h0, reset_state = _rows(h0), _rows(reset_state)

    def wide(maps):
        maps = widen(maps, real)
        return _Clamp(**vars(lowered(maps))) if isinstance(maps, Clamp | Play) else maps

    def build(now, fixed):
        maps, flag = now
        maps = lowered(wide(maps))
        if flag is None:
            return maps
        if isinstance(maps, Affine):  # zero, not folded: it says below that nothing reaches through
            return Affine(_select(flag, _zeros(maps.a), maps.a), _select(flag, maps.apply(fixed[0]), maps.b))
        return maps.fold(fixed[0], flag)

    def step(h, now, fixed):
        maps, flag = now
        start, first = fixed
        h = wide(maps).apply(_select(flag, start, h))
        return h, (h, encoded(h, first, start) if keep else None)

    fixed = reset_state, h0 if keep else None
    layout = _layout(h0, time, op)
    starts = _starts(build, moving, fixed, h0, layout, reverse)
    h = jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0], time, x.shape[1]), x.dtype), h0)
    outs = h, jax.ShapeDtypeStruct(h.shape, jnp.int8) if keep else None
    _, (h, code) = _walk(step, moving, fixed, starts, outs, reverse, layout)
    h, code = jax.tree.map(lambda x: x.reshape(*shape[:-1], time, shape[-1]), (_join(h), code))
    return h, code


def pullback(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, h: Array, g: Array
) -> tuple[Operator, Array, Array | None]:
    """The cotangents of (op, h0, reset_state); see `mru.engine.front`."""
    shape, time, real = h0.shape, time_of(op), h0.real.dtype
    kinds = {name: x for name, x in vars(op).items() if x is not None}
    constant = {name for name, x in kinds.items() if x.ndim < 2}
    op, h0, reset_state, h, g = _split((op, h0, reset_state, h, g))
    moving = _steps((op, None if reset is None else reset[..., None], g), shape)
    h, h0, reset_state = _steps(h, shape), _rows(h0), _rows(reset_state)

    coded = is_coded(op)

    def parts(now, fixed):
        (maps, flag, g), before = now
        start, first = fixed
        if coded:
            before = decoded(before, first, start)
        return widen(maps, real), flag, g, _select(flag, start, before)

    def build(now, fixed):
        maps, flag, g, before = parts(now, fixed)
        jacobian = maps.jacobian(before)
        through = jacobian * g
        jacobian = jax.tree.map(lambda x, y: jnp.broadcast_to(x, y.shape), jacobian, through)
        return _select(flag, Affine(_zeros(jacobian), _zeros(through)), Affine(jacobian, through))

    def step(carry, now, fixed):
        incoming, to_reset, sums = carry
        maps, flag, g, before = parts(now, fixed)
        total = g + incoming
        through = maps.jacobian(before) * total
        bars = field_cotangents(maps, before, total)
        sums = {name: x + bars[name] for name, x in sums.items()}
        results = {
            name: jax.tree.map(lambda x, like: x.astype(like.dtype), x, vars(op)[name])
            for name, x in bars.items()
            if name not in constant
        }
        if flag is not None:
            to_reset = to_reset + _select(flag, through, _zeros(through))
            through = _select(flag, _zeros(through), through)
        return (through, to_reset, sums), results

    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[-1:], real), g)
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[-1:], x.dtype), widen(op, real))
    bars = list(jax.eval_shape(field_cotangents, wide, row, row))
    outs = {
        name: jax.tree.map(lambda x, like: jax.ShapeDtypeStruct(x.shape, like.dtype), moving[2], vars(op)[name])
        for name in bars
        if name not in constant
    }
    fixed = reset_state, h0 if coded else None
    shifted = h, _zeros(h0).astype(h.dtype) if coded else h0
    layout = _layout(h0, time, op)
    incoming = _starts(build, moving, fixed, _zeros(h0), layout, not reverse, shifted)
    zeros = _zeros(incoming)
    carry = incoming, None if reset is None else zeros, {name: zeros for name in bars if name in constant}
    (through, to_reset, sums), results = _walk(step, moving, fixed, carry, outs, not reverse, layout, shifted=shifted)
    through, to_reset, sums, results = _join((through, to_reset, sums, results))
    found = {name: x.reshape(kinds[name].shape) for name, x in results.items()}
    found |= {name: x.sum((0, 1)).astype(kinds[name].dtype) for name, x in sums.items()}
    op_bar = type(op)(**{name: found.get(name) for name in vars(op)})
    return op_bar, through[:, -1].reshape(shape), None if to_reset is None else to_reset.sum(1).reshape(shape)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a walk is laid out.

    Attributes:
        lanes: Channels of a program.
        ahead: Bytes a channel that are read before the first step of them is taken.
        chunks: Parts of the time axis.
    """

    lanes: int
    ahead: int
    chunks: int = 1


def _layout(start, time, op):
    """The layout for a start (B, N) and T steps of an operator."""
    batch, channels = jax.tree.leaves(start)[0].shape

    def programs(lanes):
        return batch * pl.cdiv(channels, lanes)

    # Of chunks whose maps are constant from some step on, only what follows that step is read twice.
    if programs(32) >= (_ENOUGH if isinstance(op, Affine) else 4 * _ENOUGH):
        return _Layout(32 if programs(64) < _ENOUGH else 64, 192)
    lanes = 32 if channels <= 32 else 64
    return _Layout(lanes, 128, max(1, min(_PROGRAMS // programs(lanes), time // _GRAIN)))


def _first_grain(chunk, chunks, time):
    """The first grain of a chunk, `chunk * grains // chunks`: chunks differ by one grain, so that none is padded."""
    each, rest = divmod(pl.cdiv(time, _GRAIN), chunks)  # the product itself may exceed 32 bits
    return chunk * each + chunk * rest // chunks


def _starts(
    build: Callable[..., Any],
    moving: Any,
    fixed: Any,
    start: Any,
    layout: _Layout,
    reverse: bool,
    shifted: tuple[Any, Any] | None = None,
) -> Any:
    """What each chunk of a walk starts from, (B, C, N), given what the first does, (B, N).

    Args:
        build: (now, fixed) -> the maps of a step: they are constant where a new sequence starts.
        moving: As in `_walk`, like `fixed`, `layout`, `reverse` and `shifted`.
        fixed: Tree of (B, N).
        start: Tree of (B, N).
        layout: With C chunks.
        reverse: Direction of the walk.
        shifted: What is read one step further on.
    """
    firsts = jax.tree.map(lambda x: x[:, None], start)
    if layout.chunks == 1:
        return firsts
    row = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[-1:] if x.ndim else (), x.dtype), (moving, fixed, shifted)
    )
    now = row[0] if shifted is None else (row[0], row[2][0])
    identity = functools.partial(_identity, jax.eval_shape(build, now, row[1]))

    def compose(later, now, fixed):
        # Selected, not multiplied by zero: a non-finite value before a reset must not reach past it.
        return _select(later.reaches(), later.compose(build(now, fixed)), later), ()

    def follow(state, maps, _):
        return _select(maps.reaches(), maps.apply(state), maps.constant()), state

    maps, _ = _walk(compose, moving, fixed, identity, (), reverse, layout, shifted=shifted, until_constant=True)
    like = jax.tree.leaves(maps)[0]
    outs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(like.shape, x.dtype), start)
    _, starts = _walk(follow, maps, None, firsts, outs, False, _Layout(32, 256))
    return starts


def _walk(
    step: Callable[..., tuple[Any, Any]],
    moving: Any,
    fixed: Any,
    carry: Any,
    outs: Any,
    reverse: bool,
    layout: _Layout,
    *,
    shifted: tuple[Any, Any] | None = None,
    until_constant: bool = False,
) -> tuple[Any, Any]:
    """Go through the steps of every chunk: the carries after them, (B, C, N), and what each step results in, (B, T, N).

    Args:
        step: (carry, now, fixed) -> (carry, results), on rows of channels.
        moving: Tree of (B, T, N), or (B, T, 1) for what all channels share; (N,) or () for what is constant in time.
        fixed: Tree of (B, N).
        carry: Tree of (B, C, N), what each chunk starts from; or a function of the channels of a program that makes it.
        outs: Shapes and dtypes of the results.
        reverse: Go from the last step to the first.
        layout: With C chunks.
        shifted: Trees x (B, T, N) and last (B, N): `now` is then a pair, of the rows of `moving` and that of `x` one
            step further on, which at the end is `last`.
        until_constant: The carry is maps: go through each chunk from its end to its start, and no further than to where
            they are constant for all channels.
    """
    batch, time, channels = max(
        (x.shape for x in jax.tree.leaves((moving, shifted)) if x.ndim == 3), key=lambda s: s[-1]
    )
    lanes, chunks, blocks = layout.lanes, layout.chunks, pl.cdiv(channels, layout.lanes)
    made = jax.eval_shape(lambda: carry(lanes)) if callable(carry) else carry
    carries = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, chunks, channels), x.dtype), made)
    bytes_ = sum(
        x.dtype.itemsize for x in jax.tree.leaves((moving, shifted)) if x.ndim == 3 and x.shape[-1] == channels
    )
    # Of more steps in a row, interpreted, XLA takes minutes to compile the compositions of a latch (jax 0.12).
    most = _GRAIN if on_cuda() else 8
    unroll = min(2 ** int(math.log2(max(1, layout.ahead // bytes_))), most, pl.next_power_of_2(time))
    tiles, grain = pl.cdiv(time, unroll), _GRAIN // unroll
    whole = tiles * unroll == time

    def lay(x):
        return x[..., 0] if x.ndim == 3 and x.shape[-1] < channels else jnp.broadcast_to(x, x.shape or (channels,))

    given = None if callable(carry) else carry
    inputs, tree = jax.tree.flatten((jax.tree.map(lay, moving), fixed, given, shifted))
    results, results_tree = jax.tree.flatten((carries, outs))
    varies = jax.typeof(max(inputs, key=jnp.ndim)).manual_axis_type  # inside a `shard_map`; all do alike
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=varies) for x in results]

    def kernel(*refs):
        moving, fixed, given, shifted = tree.unflatten(refs[: len(inputs)])
        carry_out, outs = results_tree.unflatten(refs[len(inputs) :])
        # Those that run side by side read side by side, and only the first axis of a grid may exceed 65,535.
        (b, block), chunk = divmod(pl.program_id(0), blocks), pl.program_id(1)
        columns = block * lanes + jnp.arange(lanes)
        inside = None if channels % lanes == 0 else columns < channels

        def load(ref, *at):
            if len(ref.shape) == len(at):  # one for all channels
                return triton.load(ref.at[at])
            other = None if inside is None else jnp.zeros((), ref.dtype)
            return triton.load(ref.at[(*at, columns)], mask=inside, other=other)

        leaves, structure = jax.tree.flatten(moving)
        constants = [load(ref) if len(ref.shape) == 1 else None for ref in leaves]
        fixed = jax.tree.map(lambda ref: load(ref, b), fixed)
        last = None if shifted is None else jax.tree.map(lambda ref: load(ref, b), shifted[1])

        def place(number):
            return jnp.clip(time - 1 - number if reverse else number, 0, time - 1)

        def read(number):
            t = place(number)
            now = [load(ref, b, t) if constant is None else constant for ref, constant in zip(leaves, constants)]
            now = structure.unflatten(now)
            if shifted is None:
                return now
            ahead = jax.tree.map(lambda ref: load(ref, b, place(number + 1)), shifted[0])
            return now, _select(number >= time - 1, last, ahead)

        def edge(chunk):
            """The tile that a chunk begins with."""
            return jnp.minimum(_first_grain(chunk, chunks, time) * grain, tiles) if chunks > 1 else chunk * tiles

        def tile(i, carry):
            numbers = [i * unroll + u for u in range(unroll)]
            if until_constant:
                numbers.reverse()
            # All are read before the first is used: this is what keeps many loads under way.
            for number, now in list(zip(numbers, map(read, numbers))):
                after, found = step(carry, now, fixed)
                carry = after if whole else _select(number < time, after, carry)
                for ref, value in zip(jax.tree.leaves(outs), jax.tree.leaves(found), strict=True):
                    mask = inside
                    if not whole:
                        mask = jnp.broadcast_to(number < time, (lanes,)) if inside is None else inside & (number < time)
                    triton.store(ref.at[b, place(number), columns], value.astype(ref.dtype), mask=mask)
            return carry

        rows = carry(lanes) if callable(carry) else jax.tree.map(lambda ref: load(ref, b, chunk), given)
        if until_constant:

            def reaches(maps):
                where = maps.reaches() if inside is None else maps.reaches() & inside
                return jnp.max(where.astype(jnp.int32)) > 0

            _, rows = jax.lax.while_loop(
                lambda state: (state[0] >= edge(chunk)) & reaches(state[1]),
                lambda state: (state[0] - 1, tile(*state)),
                (edge(chunk + 1) - 1, rows),
            )
        else:
            rows = jax.lax.fori_loop(edge(chunk), edge(chunk + 1), tile, rows)
        for ref, value in zip(jax.tree.leaves(carry_out), jax.tree.leaves(rows), strict=True):
            triton.store(ref.at[b, chunk, columns], value, mask=inside)

    found = pl.pallas_call(
        kernel,
        out_shape=results,
        grid=(batch * blocks, chunks),
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        interpret=not on_cuda(),
        name="mru_scan",
    )(*inputs)
    return results_tree.unflatten(found)
