"""A walk on Mosaic GPU, the other backend of Pallas for GPUs; `benchmarks.backends` times it.

Our kernels are lowered by way of Triton, which JAX has deprecated. This is what one of them would be on Mosaic: a
program is four warps over 128 channels of a sequence, tiles of time are copied to shared memory by the chip's copy
engine, several ahead, and the steps of a tile are taken one after the other. It needs an H100 or later and jax 0.11 or
later. Time is not divided: a walk with few sequences and channels leaves most of the chip without work.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

LANES = 128  # channels of a program, one for each of its threads


def states(op: Any, h0: Array, tile: int, under_way: int) -> Array:
    """The states of an operator whose fields have a number for each step and channel.

    Args:
        op: Fields (B, T, N), N a multiple of 128.
        h0: The states before, (B, N).
        tile: Steps of a tile, which divide T.
        under_way: Tiles that are copied while one is taken, that one included.

    Returns:
        (B, T, N).
    """
    fields, tree = jax.tree.flatten(op)
    batch, time, channels = fields[0].shape
    block = mosaic_gpu.BlockSpec((tile, LANES), lambda i: (i, 0))

    def take(_: Any, *held: Any) -> Array:
        *tiles, results, h = held
        for i in range(tile):
            h = jax.tree.unflatten(tree, [x[i] for x in tiles]).apply(h)
            results[i] = h
        return h

    def program(*refs: Any) -> None:
        *given, before, out = refs
        sequence, columns = jax.lax.axis_index("sequence"), pl.ds(jax.lax.axis_index("block") * LANES, LANES)
        layout = mosaic_gpu.Layout.WG_STRIDED((LANES,), 1)
        first = mosaic_gpu.load(before.at[sequence, columns], layout=layout)
        walk = mosaic_gpu.emit_pipeline(
            take, grid=(time // tile,), in_specs=[block] * len(given), out_specs=[block],
            max_concurrent_steps=under_way, init_carry=first,
        )  # fmt: skip
        walk(*(x.at[sequence, :, columns] for x in given), out.at[sequence, :, columns])

    return mosaic_gpu.kernel(
        program,
        out_type=jax.ShapeDtypeStruct(fields[0].shape, h0.dtype),
        grid=(batch, channels // LANES),
        grid_names=("sequence", "block"),
    )(*fields, h0)
