"""A cell where Flax expects one of its own recurrent cells."""

from __future__ import annotations

from typing import Any

from flax import nnx
from jax import Array

from mru.cells._base import Cell
from mru.operators.base import State


class RNNCell(nnx.RNNCellBase):
    """A cell as an `nnx.RNNCellBase`, so that `nnx.RNN(RNNCell(cell))` runs it over (..., T, D).

    It steps through the sequence where `cell(x)` scans. Flax asks for the initial state without saying the input's
    dtype: for float64 give `nnx.RNN` an `initial_carry` of float64 arrays.
    """

    def __init__(self, cell: Cell):
        self.cell = cell

    def initialize_carry(self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None) -> State:
        """The cell's initial state for inputs of a shape (..., D); neither `rngs` nor `carry_init` is used."""
        return self.cell.initial_state(tuple(input_shape[:-1]))

    def __call__(self, carry: State, inputs: Array) -> tuple[State, Array]:
        """One step: the state and the inputs (..., D) to the new state and the outputs (..., D)."""
        y, state = self.cell.step(inputs, carry)
        return state, y

    @property
    def num_feature_axes(self) -> int:
        """Axes of the input that are not batch or time."""
        return 1
