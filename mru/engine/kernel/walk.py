"""The kernel: programs that walk through steps with what they carry in registers.

One sequence of T steps and N channels, here with two blocks, two chunks and tiles of four steps:

                     channels ->
                     block 0         block 1
              +---------------+---------------+
     time  c  |  tile 0: steps 0 1 2 3        |   A program owns one block of one chunk of one sequence, and walks
      |    h  +---------------+---------------+   through its tiles: it loads all steps of a tile, then takes them
      v    u  |  tile 1: steps 4 5 6 7        |   one after the other. What it carries from one step to the next
           n  +===============+===============+   never leaves its registers.
           k  |  tile 2 ...                   |
           1  |                               |   In a reverse walk step 0 is the last one in time.
              +---------------+---------------+

A program that finds its start itself loads all tiles of its chunk, composes the maps of each, and takes them side by
side, once it knows what each starts from; see `mru.engine.kernel.look_back`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from mru.engine.kernel import complexes, look_back
from mru.engine.kernel.backend import triton
from mru.engine.kernel.complexes import split, unsplit
from mru.engine.kernel.plan import Grid, Plan, on_cuda
from mru.engine.kernel.program import Program, Reads, Step

# What a step reads, and what all read -> the maps of a step: they are constant where a new sequence starts.
Build = Callable[[Any, Any], Any]


def walk(
    step: Step,
    reads: Reads,
    start: Any,
    outs: Any,
    reverse: bool,
    plan: Plan,
    *,
    begin: Callable[[Any], tuple[Any, Any]] = lambda state: (state, ()),
    build: Build | None = None,
    reaches: Callable[[Any], Array] | None = None,
) -> tuple[Any, Any, Any]:
    """Go through the steps of every chunk.

    Args:
        step: (carry, what the step reads, what all read) -> (carry, results), on rows of channels. What is carried is a
            pair, of a state and of sums over the steps of a chunk.
        reads: What they read.
        start: Tree of (B, C, N), the states that the chunks start from; or of (B, N), that of the first, with `build`.
        outs: Shapes and dtypes of the results.
        reverse: Go from the last step to the first.
        plan: With C chunks, or one that looks back.
        begin: The state that a chunk starts from, rows -> its first carry.
        build: The maps of a step, with which each program of a plan that looks back finds what it starts from.
        reaches: If given, go through each chunk from its end to its start, and no further than to where this is false
            of the state in all channels.

    Returns:
        The state after each chunk, (B, C, N), or with `build` that after all, (B, N); the sums of chunks or parts of
        them, (B, C, N); and what each step results in, (B, T, N).
    """
    grid, batch = _grid(reads, plan)

    def written(rows: Any, chunks: int) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, chunks, grid.channels), x.dtype), unsplit(rows))

    def lay(x: Array) -> Array:
        if x.ndim == 3 and x.shape[-1] < grid.channels:
            return x[..., 0]
        return jnp.broadcast_to(x, x.shape or (grid.channels,))

    first = split(jax.tree.map(lambda x: jax.ShapeDtypeStruct((grid.lanes,), x.dtype), start))
    state, sums = jax.eval_shape(begin, first)
    board = None if build is None else look_back.Board(jax.eval_shape(build, *reads.of_a_step()), state, grid)
    blank = () if board is None else (board.blank(batch),)
    last = written(state, grid.chunks) if board is None else None  # else it is on the board

    def run(inputs: Any, results: Any) -> None:
        (moving, fixed, ahead, start), (last, all_sums, outs, published) = inputs, results
        program = Program(grid, reverse, step, Reads(moving, fixed, ahead), outs)
        place = program.chunk
        if board is None:
            carry = _through(program, begin(program.rows(start, program.sequence, place)), reaches)
            program.put(last, carry[0], place)
        else:
            place = grid.first_tile(program.chunk) + program.part
            steps = program.tile(place)
            maps = functools.partial(_maps_of_tiles, program, build, steps, board)
            (on_board,) = published
            found, zero = board.starts(program, on_board, maps, program.rows(start, program.sequence))
            carry = program.take(steps, begin(found), place + zero)
        program.put(all_sums, carry[1], place)

    inputs = jax.tree.map(lay, reads.moving), reads.fixed, reads.ahead, start
    results = last, written(sums, grid.chunks * plan.parts), outs
    last, sums, outs, published = _launch(run, grid, batch, inputs, results, blank)
    return last if board is None else board.last(*published), sums, outs


def _grid(reads: Reads, plan: Plan) -> tuple[Grid, int]:
    """The grid, and the number of sequences."""
    moving = [x for x in jax.tree.leaves((reads.moving, reads.ahead)) if x.ndim == 3]
    batch, time, channels = max((x.shape for x in moving), key=lambda shape: shape[-1])
    bytes_of_a_step = sum(x.dtype.itemsize for x in moving if x.shape[-1] == channels)
    return Grid.of(plan, time, channels, bytes_of_a_step), batch


def _launch(
    run: Callable[[Any, Any], None], grid: Grid, batch: int, inputs: Any, results: Any, blank: tuple[Array, ...]
) -> Any:
    """Start the programs.

    Args:
        run: One of them: (references to the inputs, references to the results and to what was blank) -> None.
        grid: Of how many there are.
        batch: Sequences.
        inputs: Tree of arrays.
        results: Tree of shapes and dtypes.
        blank: Arrays that are written over.

    Returns:
        The results, and with them what was blank.
    """
    arrays, tree = jax.tree.flatten(inputs)
    given = [*arrays, *blank]
    varies = jax.typeof(max(arrays, key=jnp.ndim)).manual_axis_type  # inside a `shard_map`; all do alike
    like, results_tree = jax.tree.flatten((*results, blank))
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=varies) for x in like]

    def kernel(*refs: Any) -> None:
        run(
            jax.tree.unflatten(tree, complexes.views(refs[: len(arrays)], arrays)),
            jax.tree.unflatten(results_tree, complexes.views(refs[len(given) :], like)),
        )

    call = pl.pallas_call(
        kernel,
        out_shape=list(map(complexes.pairs_like, like)),
        grid=(batch * grid.blocks, grid.chunks),
        input_output_aliases={len(arrays) + k: len(like) - len(blank) + k for k in range(len(blank))},
        compiler_params=triton.CompilerParams(num_warps=grid.plan.parts * grid.plan.warps, num_stages=1),
        interpret=not on_cuda(),
        name="mru_scan",
    )
    return jax.tree.unflatten(results_tree, complexes.call(call, given, like))


def _maps_of_tiles(program: Program, build: Any, steps: list[tuple[Array, Any]], board: look_back.Board) -> Any:
    """The maps of all steps of each tile as one."""
    maps = look_back.identity(board.maps, program.rows_shape)
    for number, now in steps:
        maps = program.if_it_exists(number, look_back.compose(build(now, program.fixed), maps), maps)
    return maps


def _through(program: Program, carry: Any, reaches: Callable[[Any], Array] | None) -> Any:
    """Go through a chunk, tile by tile."""
    begin, end = program.grid.first_tile(program.chunk), program.grid.first_tile(program.chunk + 1)
    if reaches is None and program.grid.chunks > 1:  # then there are enough other programs that read meanwhile
        return jax.lax.fori_loop(begin, end, lambda i, carry: program.take(program.tile(i), carry), carry)
    if reaches is None:

        def on(i: Array, held: Any) -> Any:
            loads, carry = held
            following = program.loads(jnp.minimum(i + 1, end - 1))  # while this one is taken
            return following, program.take(program.steps(i, loads), carry)

        return jax.lax.fori_loop(begin, end, on, (program.loads(begin), carry))[1]

    def goes_on(state: Any) -> Array:
        where = reaches(state[1][0]) if program.inside is None else reaches(state[1][0]) & program.inside
        return (state[0] >= begin) & (jnp.max(where.astype(jnp.int32)) > 0)

    def back(state: Any) -> Any:
        return state[0] - 1, program.take(program.tile(state[0])[::-1], state[1])

    return jax.lax.while_loop(goes_on, back, (end - 1, carry))[1]
