"""The sequence mixers of discretax: S5, LRU, S4D and LinOSS. Its matrices are (outputs, inputs)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beside import assert_same, inputs, outputs, with_arrays
from reference import cell_parameters, shake

from mru import cells

REASON = "needs discretax, which is for Python 3.12 alone: pip install discretax"
mixers = pytest.importorskip("discretax.sequence_mixers", reason=REASON)
pytestmark = pytest.mark.usefixtures("quick_compile")
D, N = 3, 6
KEY = jax.random.key(0)  # has to be given; nothing is drawn with it


def mixed(mixer, x):
    return jax.jit(jax.vmap(lambda x: mixer(x, KEY)))(x)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"discretization": "bilinear"}, {"discretization": "bilinear"}),
        ({"conjugate_symmetry": False}, {"conj_sym": False}),
        ({"clip_eigenvalues": True}, {"clip_eigs": True}),
        ({"step_rescale": 2.0}, {"step_rescale": 2.0}),
    ],
)
def test_s5(options, theirs):
    cell, x = shake(cells.S5(D, N, **options, rngs=0), scale=0.1), inputs(D)
    if cell.clip_eigenvalues:
        cell.lambda_real[...] = jnp.linspace(-1, 1, cell.channels)  # about half of which are clipped
    p = cell_parameters(cell)
    given = {
        "Lambda_re": p["lambda_real"],
        "Lambda_im": p["lambda_imag"],
        "B": p["b"].transpose(2, 0, 1),
        "C": p["c"].transpose(2, 1, 0),
        "D": p["d"],
        "log_step": p["log_step"][:, None],
    }
    kind = functools.partial(mixers.S5SequenceMixer, D, KEY, state_dim=N, **{"clip_eigs": False} | theirs)
    assert_same(outputs(cell, x), mixed(with_arrays(kind, given), x))


def test_lru():
    cell, x = shake(cells.LRU(D, N, rngs=0), scale=0.05), inputs(D)
    p = cell_parameters(cell)
    given = {"nu_log": p["nu"], "theta_log": p["theta"], "gamma_log": p["log_gamma"], "D": p["d"]}
    given |= dict(zip(("B_re", "B_im"), p["b"].transpose(1, 2, 0))) | dict(zip(("C_re", "C_im"), p["c"].swapaxes(1, 2)))
    mixer = with_arrays(lambda: mixers.LRUSequenceMixer(D, KEY, state_dim=N), given)
    assert_same(outputs(cell, x), mixed(mixer, x))


def test_s4d():
    """Theirs is a convolution by FFT. Its `state_dim` counts both modes of a conjugate pair, and it has no term d x."""
    cell, x = shake(cells.S4D(D, N, rngs=0)), inputs(D)
    cell.d[...] *= 0
    p = cell_parameters(cell)
    given = {"A_imag": p["frequency"], "log_a_real": p["log_decay"], "log_dt": p["log_step"]}
    given = {f"kernel.{name}": value for name, value in given.items()} | {"kernel.C": p["c"][0] + 1j * p["c"][1]}
    mixer = with_arrays(lambda: mixers.S4DSequenceMixer(D, KEY, state_dim=2 * N), given)
    assert_same(outputs(cell, x), mixed(mixer, x))


@pytest.mark.parametrize(
    ("discretization", "damping", "theirs"), [("im", False, "IM"), ("imex", False, "IMEX"), ("imex", True, "IMEX")]
)
def test_linoss(discretization, damping, theirs):
    """Their B and C are complex, and so is the state of an oscillator: it is two of ours with the same A, dt and G.

    The first is driven by Re(B) and read by Re(C), the second by Im(B) and -Im(C).
    """
    cell = shake(cells.LinOSS(D, 2 * N, discretization=discretization, damping=damping, rngs=0))
    # With damping they move an A whose channel does not oscillate to the nearest that does; each of these does.
    cell.stiffness[...] = jnp.linspace(0.5, 2, 2 * N)
    names = {"stiffness": "A_diag", "step_logit": "steps"} | ({"drag": "G_diag"} if damping else {})
    for name in names:
        variable = getattr(cell, name)
        variable[...] = jnp.tile(variable[...][:N], 2)
    x, p = inputs(D), cell_parameters(cell)
    b, c = p["force/kernel"].T, p["out/kernel"].T
    given = {theirs: p[ours][:N] for ours, theirs in names.items()} | {"D": p["d"]}
    given |= {"B": np.stack([b[:N], b[N:]], -1), "C": np.stack([c[:, :N], -c[:, N:]], -1)}
    kind = functools.partial(mixers.LinOSSSequenceMixer, D, KEY, state_dim=N, discretization=theirs, damping=damping)
    assert_same(outputs(cell, x), mixed(with_arrays(kind, given), x))
