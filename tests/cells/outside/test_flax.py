"""Flax's recurrent cells, run by `nnx.RNN`, with a linear layer as readout."""

import numpy as np
import pytest
from beside import assert_same, diagonals, inputs, outputs, with_params
from flax import nnx
from reference import cell_parameters, shake

from mru import cells

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N = 3, 5


def by_flax(kind, p, params, x):
    """The outputs of `nnx.RNN` over a cell of a kind with `params`, read by our readout."""
    layer = nnx.RNN(with_params(kind(D, N, rngs=nnx.Rngs(0)), params))
    return layer(x, rngs=nnx.Rngs(0)) @ p["out/kernel"] + p["out/bias"]


@pytest.mark.parametrize(
    ("name", "kind"), [("rnn", nnx.SimpleCell), ("gru", nnx.GRUCell), ("lstm", nnx.OptimizedLSTMCell)]
)
def test_the_cell_that_ours_is_built_on(name, kind):
    cell, x = shake(cells.get(name)(D, N, rngs=0)), inputs(D)
    p = cell_parameters(cell)
    params = {path.removeprefix("cell/"): w for path, w in p.items() if path.startswith("cell/")}
    assert_same(outputs(cell, x), by_flax(kind, p, params, x))


def test_an_lstm_with_matrices_for_each_gate():
    cell, x = shake(cells.LSTM(D, N, rngs=0)), inputs(D)
    p, params = cell_parameters(cell), {}
    for layer, part, names in (
        ("dense_i", "kernel", ("ii", "if_", "ig", "io")),
        ("dense_h", "kernel", ("hi", "hf", "hg", "ho")),
        ("dense_h", "bias", ("hi", "hf", "hg", "ho")),
    ):
        split = np.split(p[f"cell/{layer}/{part}"], 4, -1)
        params |= {f"{name}/{part}": w for name, w in zip(names, split, strict=True)}
    assert_same(outputs(cell, x), by_flax(nnx.LSTMCell, p, params, x))


@pytest.mark.parametrize("method", ["sequential", "newton"])
@pytest.mark.parametrize(
    ("name", "kind", "bias"),
    [("diagonal_gru", nnx.GRUCell, "dense_i/bias"), ("diagonal_lstm", nnx.OptimizedLSTMCell, "dense_h/bias")],
)
def test_a_diagonal_cell_is_one_of_diagonal_matrices(name, kind, bias, method):
    cell, x = shake(cells.get(name)(D, N, method=method, rngs=0)), inputs(D)
    p = cell_parameters(cell)
    params = {"dense_i/kernel": p["input/kernel"], "dense_h/kernel": diagonals(p), bias: p["input/bias"]}
    assert_same(outputs(cell, x), by_flax(kind, p, params, x))
