"""torch.nn.RNN, GRU and LSTM, with a linear layer as readout. Their matrices are (outputs, inputs), ours transposed."""

import jax
import numpy as np
import pytest
from beside import assert_same, diagonals, inputs, with_tensors
from reference import cell_parameters, shake

from mru import cells

torch = pytest.importorskip("torch", reason="needs torch: pip install torch")
pytestmark = pytest.mark.usefixtures("quick_compile")
D, N = 3, 5
KEPT, RESET = 0.2, 0.9


def of_flax(p):
    """Flax's gates are in the order of torch's: r, z, n and i, f, g, o. It has one bias, at either of two products."""
    bias = p.get("cell/dense_i/bias", p.get("cell/dense_h/bias"))
    return p["cell/dense_i/kernel"], p["cell/dense_h/kernel"], bias


def of_diagonal(p):
    """A layer whose recurrent matrices are diagonal."""
    return p["input/kernel"], diagonals(p), p["input/bias"]


def of_miru2(p):
    """A GRU whose gates r and z are given nothing but a bias."""
    bias = [np.full(N, np.log(gate / (1 - gate))) for gate in (RESET, KEPT)]
    kernel, recurrent = p["input/kernel"], p["recurrent/kernel"]
    kernel, recurrent = (np.concatenate([np.zeros((len(w), 2 * N)), w], -1) for w in (kernel, recurrent))
    return kernel, recurrent, np.concatenate([*bias, p["input/bias"]])


CASES = {
    "rnn": ("RNN", of_flax, {}),
    "gru": ("GRU", of_flax, {}),
    "lstm": ("LSTM", of_flax, {}),
    "diagonal_gru": ("GRU", of_diagonal, {}),
    "diagonal_lstm": ("LSTM", of_diagonal, {}),
    "miru2": ("GRU", of_miru2, {"update_coefficient": KEPT, "reset_coefficient": RESET}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_recurrent_layer(name):
    kind, weights, options = CASES[name]
    cell, x = shake(cells.get(name)(D, N, **options, rngs=0)), inputs(D)
    p = cell_parameters(cell)
    kernel, recurrent, bias = weights(p)
    # Torch adds a second bias to the product of the state; of a GRU's n it would stand inside of r * (...): zero.
    biases = {"bias_ih_l0": bias, "bias_hh_l0": np.zeros_like(bias)}
    layer = getattr(torch.nn, kind)(D, N, batch_first=True)
    layer = with_tensors(layer, {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T} | biases)
    out = with_tensors(torch.nn.Linear(N, D), {"weight": p["out/kernel"].T, "bias": p["out/bias"]})
    h, last = layer(torch.tensor(x))
    y, state = jax.jit(lambda x: cell(x))(x)
    assert_same(y, out(h))
    pairs = zip(state, reversed(last), strict=True) if kind == "LSTM" else [(state, last)]  # ours is (c, h)
    for mine, theirs in pairs:
        assert_same(mine, theirs[0])
