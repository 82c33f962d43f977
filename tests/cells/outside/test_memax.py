"""The layers of memax in Equinox, over packed sequences: their start flags are our resets.

Their matrices are (outputs, inputs).
"""

import jax
import numpy as np
import pytest
from beside import assert_same, diagonals, inputs, outputs, with_arrays
from reference import cell_parameters, shake

from mru import cells

REASON = "needs memax with Equinox: pip install 'memax[equinox]'"
pytest.importorskip("memax", reason=REASON)
pytest.importorskip("equinox", reason=REASON)
pytestmark = pytest.mark.usefixtures("quick_compile")
D, N = 3, 6
KEY = jax.random.key(0)  # has to be given; nothing is drawn with it
RESET = np.isin(np.arange(40), [0, 7, 8, 30]) & np.array([[True], [False]])  # of the first sequence of two


def by_memax(layer, x):
    return jax.jit(jax.vmap(lambda x, start: layer(layer.initialize_carry(), (x, start))[1]))(x, RESET)


def test_lru():
    from memax.equinox.semigroups.lru import LRU

    cell, x = shake(cells.LRU(N, N, rngs=0), scale=0.05), inputs(N)  # they check that the two sizes are one
    p = cell_parameters(cell)
    given = {"nu_log": p["nu"], "theta_log": p["theta"], "gamma_log": p["log_gamma"], "D": p["d"]}
    given |= dict(zip(("B_re", "B_im"), p["b"].transpose(1, 2, 0))) | dict(zip(("C_re", "C_im"), p["c"].swapaxes(1, 2)))
    layer = with_arrays(lambda: LRU(recurrent_size=N, hidden_size=N, key=KEY), given)
    assert_same(outputs(cell, x, RESET), by_memax(layer, x))


def test_rnn():
    """Their bias is that of the product of the state."""
    from memax.equinox.set_actions.elman import Elman

    cell, x = shake(cells.RNN(D, N, rngs=0)), inputs(D)
    p = cell_parameters(cell)
    given = {
        "W_h.weight": p["cell/dense_i/kernel"].T,
        "algebra.algebra.U_h.weight": p["cell/dense_h/kernel"].T,
        "algebra.algebra.U_h.bias": p["cell/dense_i/bias"],
        "W_y.weight": p["out/kernel"].T,
        "W_y.bias": p["out/bias"],
    }
    layer = with_arrays(lambda: Elman(recurrent_size=N, hidden_size=D, key=KEY), given)
    assert_same(outputs(cell, x, RESET), by_memax(layer, x))


def gru(p, x, kernels, recurrents, biases):
    """Outputs of memax's GRU, given what of z, r and h takes the input and the state, and of our readout.

    h_t = (1 - z) h_{t-1} + z tanh(W_h x + b_h + U_h (r h_{t-1})): z is what Flax calls 1 - z, and r is before U_h.
    """
    from memax.equinox.set_actions.gru import GRU

    given = {}
    for name, kernel, recurrent, bias in zip("zrh", kernels, recurrents, biases, strict=True):
        given |= {f"W_{name}.weight": kernel.T, f"W_{name}.bias": bias, f"U_{name}.weight": recurrent.T}
    layer = with_arrays(lambda: GRU(recurrent_size=N, key=KEY), {f"algebra.algebra.{k}": v for k, v in given.items()})
    return by_memax(layer, x) @ p["out/kernel"] + p["out/bias"]


def test_diagonal_gru():
    """Of diagonal matrices it does not matter whether r is before or after U_h."""
    cell, x = shake(cells.DiagonalGRU(N, N, rngs=0)), inputs(N)
    p = cell_parameters(cell)
    parts = []
    for weight in (p["input/kernel"], diagonals(p), p["input/bias"]):
        r, z, n = np.split(weight, 3, -1)
        parts.append((-z, r, n))
    assert_same(outputs(cell, x, RESET), gru(p, x, *parts))


def test_miru1():
    """A GRU whose z is given nothing but a bias."""
    kept = 0.2
    cell, x = shake(cells.MiRU1(N, N, update_coefficient=kept, rngs=0)), inputs(N)
    p = cell_parameters(cell)
    zeros, z = np.zeros((N, N)), np.full(N, np.log((1 - kept) / kept))
    (w_n, w_r), (b_n, b_r) = (np.split(p[f"input/{part}"], 2, -1) for part in ("kernel", "bias"))
    recurrents = (zeros, p["gate/kernel"], p["recurrent/kernel"])
    assert_same(outputs(cell, x, RESET), gru(p, x, (zeros, w_r, w_n), recurrents, (z, b_r, b_n)))


def test_attention():
    """One head with a window, whose values have a bias and no readout: W_o is multiplied into W_v, b_o is that bias.

    They turn the pairs of channels (0, 1), (2, 3), ..., where we turn (0, 3), (1, 4), ...
    """
    from memax.equinox.semigroups.attn import Attention

    window = 8
    cell, x = shake(cells.Attention(N, N, heads=1, max_length=window, rngs=0)), inputs(N)
    p = cell_parameters(cell)
    order = np.arange(N).reshape(2, -1).T.ravel()
    given = {
        "Q.weight": p["query/kernel"].T[order],
        "K.weight": p["key/kernel"].T[order],
        "V.weight": (p["value/kernel"] @ p["out/kernel"]).T,
        "V.bias": p["out/bias"],
    }
    layer = with_arrays(lambda: Attention(N, window_size=window, positional_embedding="rope", key=KEY), given)
    assert_same(outputs(cell, x, RESET), by_memax(layer, x))
