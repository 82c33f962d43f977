"""How a walk over the steps is divided among the programs of a GPU."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from mru.engine.kernel import backend
from mru.engine.kernel.complexes import is_complex
from mru.engine.steps import varies
from mru.operators import Operator

# Measured on an H200, like the numbers in `plan`: ...
_PROGRAMS = 132 * 12  # ... so many programs keep enough loads under way, the same number on each of its processors, ...
_OF_COMPLEX = 132 * 8  # ... as do so many of complex numbers, which are larger, ...
_ENOUGH = 512  # ... and so many of a single walk, whose programs read further ahead; chunks are read twice.
_ALMOST = 384  # Measured: in training steps 400 such programs are faster than chunks; 256 are slower.
_FEW = 64  # So few programs side by side leave room for many chunks at the same time.
_LINE = 128  # Bytes that memory reads at once.
_UNIT = 32  # Steps; chunks consist of whole units, and tiles of a power of two that divides one.
_LONGEST = 64  # Steps of a tile where programs look back.
_MOST = 65_535  # programs along any axis of a grid but the first


def obstacle(op: Operator) -> str | None:
    """Why the kernels can not run this operator, or None."""
    if (reason := backend.obstacle() or op.kernel_obstacle) is not None:
        return reason
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a walk is divided.

    Attributes:
        lanes: Channels of a program.
        ahead: Bytes a channel that are read before the first step of them is taken.
        chunks: Parts of the time axis, each of which is given what it starts from.
        group: If it is more than 1, a program finds what its chunk starts from by looking back at what earlier programs
            found, and this is how many chunks are a group; see `mru.engine.kernel.look_back`.
        era: Groups from one state that such programs publish to the next.
        parts: Tiles of a chunk of such a program, which takes them side by side, and no others.
        warps: Of a program, for each of its parts. They share the channels.
    """

    lanes: int
    ahead: int
    chunks: int = 1
    group: int = 1
    era: int = 1
    parts: int = 1
    warps: int = 1

    @property
    def looks_back(self) -> bool:
        """If programs find what they start from themselves."""
        return self.group > 1


def plan(start: Any, time: int, op: Operator) -> Plan:
    """The plan for a start (B, N) and T steps of an operator."""
    like = jax.tree.leaves(start)[0]
    batch, channels = like.shape

    def programs(lanes: int) -> int:
        return batch * pl.cdiv(channels, lanes)

    # Complex maps with a constant coefficient would take three times as long to compile, and go on below.
    words = all(map(_is_word, jax.tree.leaves((op, like)))) and (not is_complex(like) or all(varies(op)))
    if words and not op.overwrites and 2 * _UNIT <= time <= _MOST * _UNIT:
        if programs(32) >= _FEW:
            return Plan(32, 512, group=4)
        # Where few sequences and channels fill the chip with chunks, many of these wait for the state of an era. Then
        # long eras are faster, and of complex maps chunks that are read twice. All were measured with 8 programs side
        # by side; with 128 or more the plan above is faster.
        if not is_complex(like):
            return Plan(32, 512, group=8, era=4, parts=2)
        return Plan(32, 256, min(_OF_COMPLEX // programs(32), time // _UNIT))
    # Chunks of maps that are constant now and then are seldom read twice from end to end. With 400 programs they are
    # the faster ones too where a scan is all there is, but not in the training steps of BMRU and PMRU.
    in_chunks = op.overwrites and _ENOUGH <= programs(32) < 4 * _ENOUGH
    if programs(32) >= _ENOUGH and not in_chunks:
        return Plan(32 if programs(64) < _ENOUGH else 64, 192)
    line = _LINE // like.dtype.itemsize
    if programs(line) >= _ALMOST and not in_chunks:
        return Plan(line, 384)
    lanes = 32 if channels <= 32 or is_complex(like) else 64
    # Where gates take much computing, two warps that share it are faster; where codes of 8 bits are written, slower.
    warps = lanes // 32 if op.says("before_loop") else 1
    return Plan(lanes, 128, max(1, min(_PROGRAMS // programs(lanes), time // _UNIT)), warps=warps)


def _is_word(x: Array) -> bool:
    """If what becomes of these numbers in the kernel can be published; see `mru.engine.kernel.look_back`."""
    return x.dtype == jnp.bool_ or (jnp.issubdtype(x.dtype, jnp.inexact) and jnp.finfo(x.dtype).bits <= 32)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The steps and channels of a walk in numbers; see the picture in `walk`.

    Attributes:
        time: T.
        channels: N.
        chunks: Parts of the time axis, each of a program of its own.
        tile: Steps that are read together.
        plan: From which it was made.
    """

    time: int
    channels: int
    chunks: int
    tile: int
    plan: Plan

    @staticmethod
    def of(plan: Plan, time: int, channels: int, bytes_of_a_step: int) -> Grid:
        """The grid of a plan, given what a step of one channel reads."""
        # Of more steps in a row, interpreted, XLA takes minutes to compile the compositions of a latch (jax 0.12).
        most = 8 if not on_cuda() else _LONGEST if plan.looks_back else _UNIT
        tile = min(2 ** int(math.log2(max(1, plan.ahead // bytes_of_a_step))), most, pl.next_power_of_2(time))
        chunks = pl.cdiv(time, plan.parts * tile) if plan.looks_back else plan.chunks
        return Grid(time, channels, chunks, tile, plan)

    @property
    def lanes(self) -> int:
        """Channels of a block."""
        return self.plan.lanes

    @property
    def blocks(self) -> int:
        """Parts of the channels."""
        return pl.cdiv(self.channels, self.lanes)

    @property
    def tiles(self) -> int:
        """Tiles of the whole time axis; the last may be cut short by its end."""
        return pl.cdiv(self.time, self.tile)

    @property
    def whole(self) -> bool:
        """If no tile is cut short, and none lies behind the end."""
        tiles = self.chunks * self.plan.parts if self.plan.looks_back else self.tiles
        return tiles * self.tile == self.time

    def first_tile(self, chunk: Array | int) -> Array | int:
        """The tile that a chunk begins with: chunks differ by one unit of steps, so that none is padded."""
        if self.plan.looks_back:
            return chunk * self.plan.parts
        if self.chunks == 1:
            return chunk * self.tiles
        each, rest = divmod(pl.cdiv(self.time, _UNIT), self.chunks)  # the product itself may exceed 32 bits
        unit = chunk * each + chunk * rest // self.chunks
        return jnp.minimum(unit * (_UNIT // self.tile), self.tiles)
