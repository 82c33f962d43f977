"""A walk as a kernel of Pallas on TPUs; `benchmarks.backends` times it there.

Nobody has: `mru.scan` takes its associative form on a TPU, and will until somebody does. A program of the grid has
eight sequences and 128 channels; the grid goes through tiles of time in order, and what is carried from one to the next
stays in the chip's own memory.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

SEQUENCES, LANES = 8, 128  # of a program: the rows and columns of a TPU's registers


def states(op: Any, h0: Array, tile: int, interpret: Any = False) -> Array:
    """The states of an operator whose fields have a number for each step and channel.

    Args:
        op: Fields (B, T, N), B a multiple of 8 and N of 128.
        h0: The states before, (B, N).
        tile: Steps of a tile, a multiple of 8 which divides T.
        interpret: As `pallas_call` has it.

    Returns:
        (B, T, N).
    """
    fields, tree = jax.tree.flatten(op)
    batch, time, channels = fields[0].shape

    def program(*refs: Any) -> None:
        *tiles, before, out, held = refs

        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            held[...] = before[...]

        def take(i: Array, h: Array) -> Array:
            h = jax.tree.unflatten(tree, [x[:, i, :] for x in tiles]).apply(h)
            out[:, i, :] = h
            return h

        held[...] = jax.lax.fori_loop(0, tile, take, held[...])

    steps = pl.BlockSpec((SEQUENCES, tile, LANES), lambda b, n, t: (b, t, n))
    return pl.pallas_call(
        program,
        out_shape=jax.ShapeDtypeStruct(fields[0].shape, h0.dtype),
        grid=(batch // SEQUENCES, channels // LANES, time // tile),
        in_specs=[*[steps] * len(fields), pl.BlockSpec((SEQUENCES, LANES), lambda b, n, t: (b, n))],
        out_specs=steps,
        scratch_shapes=[tpu.VMEM((SEQUENCES, LANES), h0.dtype)],
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
    )(*fields, h0)
