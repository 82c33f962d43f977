"""Derivatives of what a model computes row by row as kernels on GPUs: norms, and the gated product of an MLP.

Beside the cotangents of all rows there are those of a scale or a bias, which are sums over all rows. XLA takes a pass
of its own for each way to sum, or sums along both at half the memory's rate. A program of these kernels takes blocks of
rows, does with them all there is to do in registers, and holds its part of the sums until its last block.

Both have reverse mode only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from mru.engine.kernel import backend, on_cuda
from mru.engine.kernel.backend import triton

_PROGRAMS = 132 * 8
_BLOCK = 2048  # numbers: 16 for each thread of four warps
_MOST_COLUMNS = 2048

# (numbers of rows, numbers that are the same for all rows) -> (results of rows, what is summed over all rows)
Block = Callable[[list[Array], list[Array]], tuple[Sequence[Array], Sequence[Array]]]


def obstacle(shape: tuple[int, ...], dtype: DTypeLike) -> str | None:
    """Why a kernel can not run for rows of this shape (..., D), or None."""
    if not on_cuda():
        return "there is no CUDA device"
    if jax.sharding.get_abstract_mesh().size > 1:
        return "XLA does not see into a kernel, and would gather all rows on every device"
    if dtype not in (jnp.float32, jnp.bfloat16) or shape[-1] > _MOST_COLUMNS or math.prod(shape) >= 2**31:
        return f"it takes float32 and bfloat16, {_MOST_COLUMNS} columns and 2**31 numbers at most"
    return backend.obstacle()


def with_pullback(norm: nnx.LayerNorm | nnx.RMSNorm, x: Array, uses: int) -> tuple[Array, ...]:
    """x (..., D) as it is, and normalised, for each use once: the cotangents of all are added in one kernel."""
    scale, bias = norm.scale, norm.bias if isinstance(norm, nnx.LayerNorm) else None
    assert scale is not None
    y = jax.lax.stop_gradient(norm(x))
    return _normed(float(norm.epsilon), uses, x, scale[...], None if bias is None else bias[...], y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _normed(epsilon: float, uses: int, x: Array, scale: Array, bias: Array | None, y: Array) -> tuple[Array, ...]:
    """x, and y, which is the norm of it."""
    return x, *[y] * uses


def _normed_forward(epsilon: float, uses: int, x: Array, scale: Array, bias: Array | None, y: Array) -> Any:
    return (x, *[y] * uses), (x, scale, bias)


def _normed_backward(epsilon: float, uses: int, residuals: Any, cotangents: Sequence[Array]) -> Any:
    x, scale, bias = residuals
    of_x, of_scale, *of_bias = norm_pullback(x, scale, bias, *cotangents, epsilon=epsilon)
    return of_x, of_scale, of_bias[0] if of_bias else None, jnp.zeros_like(cotangents[1])


_normed.defvjp(_normed_forward, _normed_backward)


def norm_pullback(x: Array, scale: Array, bias: Array | None, kept: Array, *gs: Array, epsilon: float) -> list[Array]:
    """The cotangents of x (..., D), scale (D,) and, if there is one, bias.

    Args:
        x: What is normalised.
        scale: (D,).
        bias: (D,), or None for an RMS norm.
        kept: Cotangent of x as it is, (..., D).
        gs: Cotangents of x normalised, (..., D), which are added.
        epsilon: Added to the variance.
    """
    columns = x.shape[-1]

    def block(rows: list[Array], same: list[Array]) -> Any:
        (x, kept, *gs), (scale,) = rows, same
        g = functools.reduce(jnp.add, gs)
        exist = jnp.arange(x.shape[-1])[None] < columns

        def mean(numbers: Array) -> Array:
            return jnp.sum(numbers, 1, keepdims=True) / columns

        if bias is not None:
            x = jnp.where(exist, x - mean(x), 0)
        inverse = jax.lax.rsqrt(mean(x * x) + epsilon)
        x, scaled = x * inverse, g * scale
        through = scaled - x * mean(scaled * x)
        if bias is not None:
            through = through - mean(scaled)
        return [kept + inverse * through], [g * x, *([] if bias is None else [g])]

    (of_x,), sums = _in_blocks(block, [x, kept, *gs], [scale], [x], 1 if bias is None else 2)
    return [of_x, *sums]


@jax.custom_vjp
def gated(gate: Array, value: Array, gate_bias: Array, value_bias: Array) -> Array:
    """silu(gate + its bias) * (value + its bias), (..., H)."""
    return nnx.silu(gate + gate_bias.astype(gate.dtype)) * (value + value_bias.astype(value.dtype))


def gated_pullback(given: tuple[Array, Array, Array, Array], g: Array) -> tuple[Array, ...]:
    """The cotangents of gate, value and their biases, given that of the product."""

    def block(rows: list[Array], same: list[Array]) -> Any:
        gate, value, g = rows
        gate, value = gate + same[0], value + same[1]
        open_ = jax.nn.sigmoid(gate)
        bars = g * value * open_ * (1 + gate * (1 - open_)), g * gate * open_
        return bars, bars

    (gate, value), sums = _in_blocks(block, [*given[:2], g], [*given[2:]], [*given[:2]], 2)
    return gate, value, *sums


gated.defvjp(lambda *given: (gated(*given), given), gated_pullback)


def _in_blocks(
    block: Block, rows: list[Array], same: list[Array], results: list[Array], sums: int
) -> tuple[list[Array], list[Array]]:
    """What a function of blocks of rows results in, and sums over all rows, computed in float32.

    Args:
        block: The function. Rows and columns that it is given beyond the last are zero.
        rows: Arrays (..., D).
        same: Arrays (D,).
        results: What the results are like, (..., D).
        sums: How many there are, (D,) in the dtype of `same`.
    """
    shape, columns = rows[0].shape, rows[0].shape[-1]
    count, width = math.prod(shape[:-1]), pl.next_power_of_2(columns)
    height = max(1, _BLOCK // width)
    blocks = pl.cdiv(count, height)
    programs = min(_PROGRAMS, blocks)

    def kernel(*refs: Any) -> None:
        of_rows, of_same = refs[: len(rows)], refs[len(rows) : len(rows) + len(same)]
        of_results, of_sums = refs[-len(results) - sums : -sums], refs[-sums:]
        program, column = pl.program_id(0), jnp.arange(width)[None]
        exists = column < columns

        def read(ref: Any, at: Any, mask: Array) -> Array:
            return triton.load(ref.at[at], mask=mask, other=jnp.zeros((), ref.dtype)).astype(jnp.float32)

        for_all = [read(ref, column, exists) for ref in of_same]

        def step(i: Array, held: list[Array]) -> list[Array]:
            row = (program + i * programs) * height + jnp.arange(height)[:, None]
            at, mask = (row, column), (row < count) & exists
            found, addends = block([read(ref, at, mask) for ref in of_rows], for_all)
            for ref, x in zip(of_results, found, strict=True):
                triton.store(ref.at[at], x.astype(ref.dtype), mask=mask)
            return [total + jnp.where(mask, x, 0) for total, x in zip(held, addends, strict=True)]

        held = jax.lax.fori_loop(0, pl.cdiv(blocks, programs), step, [jnp.zeros((height, width), jnp.float32)] * sums)
        for ref, total in zip(of_sums, held, strict=True):
            triton.store(ref.at[program, column], jnp.sum(total, 0, keepdims=True), mask=exists)

    part = jax.ShapeDtypeStruct((programs, columns), jnp.float32)
    found = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct((count, columns), x.dtype) for x in results] + [part] * sums,
        grid=(programs,),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=not on_cuda(),
        name="mru_rows",
    )(*(x.reshape(count, columns) for x in rows), *same)
    totals = [x.sum(0).astype(same[0].dtype) for x in found[len(results) :]]
    return [x.reshape(shape) for x in found[: len(results)]], totals
