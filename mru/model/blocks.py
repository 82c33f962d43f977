"""What a model is stacked from: residual blocks of cells and a gated MLP."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells import Cell, State
from mru.cells._base import as_rngs


class GatedMLP(nnx.Module):
    """W_o (silu(W_g x) * W_v x)."""

    def __init__(self, width: int, hidden: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.gate = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Map (..., D) to (..., D)."""
        return self.out(nnx.silu(self.gate(x)) * self.value(x))


class SequenceBlock(nnx.Module):
    """Pre-norm residual block: the summed outputs of its cells, then a gated MLP.

    x += dropout(sum of cells(norm(x))); x += dropout(mlp(norm(x))).
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        expansion: float,
        dropout: float,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            cells: Cells that stand side by side, all with the same `features`.
            expansion: Hidden width of the MLP as a multiple of D, rounded to the nearest; 0 for none.
            dropout: Rate, applied to both residual branches.
            dtype: Dtype of the computation.
            rngs: Source of the initial parameters, or a seed.

        Raises:
            ValueError: There is no cell, their features differ, or a number is out of its range.
        """
        if len({cell.features for cell in cells}) != 1:
            given = ", ".join(f"{type(cell).__name__} of {cell.features}" for cell in cells) or "none"
            raise ValueError(f"a block needs cells, all of the same features, got {given}")
        if not 0 <= expansion < math.inf:
            raise ValueError(f"expansion must be at least 0 and finite, got {expansion}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        rngs = as_rngs(rngs)
        width = cells[0].features
        self.cells = nnx.List(cells)
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        hidden = round(expansion * width)
        norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs) if hidden else None
        mlp = GatedMLP(width, hidden, dtype=dtype, rngs=rngs) if hidden else None
        self.mlp_norm, self.mlp = nnx.data(norm), nnx.data(mlp)
        self.dropout = nnx.Dropout(dropout)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> tuple[State, ...]:
        """The states of the cells before the first step of a batch of sequences."""
        return tuple(cell.initial_state(batch_shape) for cell in self.cells)

    def __call__(
        self,
        x: Array,
        states: tuple[State | None, ...],
        reset: Array | None = None,
        rngs: nnx.Rngs | None = None,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, tuple[State, ...]]:
        """Run over a whole sequence, or the next chunk of one.

        Args:
            x: (..., T, D).
            states: The states of the cells, any pytrees, one a cell; None for a cell's initial state.
            reset: Boolean (..., T), true where a new sequence starts.
            rngs: Stream "dropout"; dropout is applied only where this is given.
            capture: If given, it is filled with the input and the intermediates of the cells, by name such as
                "0/BMRU/write".

        Returns:
            (..., T, D) and the states of the cells after the last step.
        """
        normed = self.norm(x)
        outs, new_states = [], []
        for number, (cell, state) in enumerate(zip(self.cells, states, strict=True)):
            inner: dict[str, Array] | None = None if capture is None else {}
            out, state = cell(normed, state, reset, capture=inner)
            outs.append(out)
            new_states.append(state)
            if capture is not None and inner is not None:
                found = {"input": normed, **inner}
                capture.update({f"{number}/{type(cell).__name__}/{name}": value for name, value in found.items()})
        return self._residual(x, _sum(outs), rngs), tuple(new_states)

    def step(self, x: Array, states: tuple[State, ...]) -> tuple[Array, tuple[State, ...]]:
        """One step: (..., D) -> (..., D) and the states of the cells."""
        normed = self.norm(x)
        outs, new_states = zip(*(c.step(normed, s) for c, s in zip(self.cells, states, strict=True)), strict=True)
        return self._residual(x, _sum(outs), None), new_states

    def _residual(self, x: Array, mixed: Array, rngs: nnx.Rngs | None) -> Array:
        x = x + self.dropout(mixed, deterministic=rngs is None, rngs=rngs)
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self.dropout(self.mlp(self.mlp_norm(x)), deterministic=rngs is None, rngs=rngs)


def rematerialised(
    block: SequenceBlock, x: Array, states: tuple[State | None, ...], reset: Array | None, rngs: nnx.Rngs | None
) -> tuple[Array, tuple[State, ...]]:
    """`block(x, states, reset, rngs)`, computed again in the backward pass instead of stored."""
    graphdef, variables = nnx.split(block)

    # `jax.checkpoint` wants a pure function: the block's variables and a key go in.
    def run(
        variables: Any, x: Array, states: tuple[State | None, ...], reset: Array | None, key: Array | None
    ) -> tuple[Array, tuple[State, ...]]:
        rngs = None if key is None else nnx.Rngs(dropout=key)
        return nnx.merge(graphdef, variables)(x, states, reset, rngs)

    key = None if rngs is None else rngs.dropout()
    x, states = jax.checkpoint(run)(variables, x, states, reset, key)
    return x, states


def _sum(outs: Sequence[Array]) -> Array:
    return functools.reduce(operator.add, outs)
