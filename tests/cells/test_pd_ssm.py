import jax
import numpy as np
import pytest
from flax import nnx
from reference import affine, cell_parameters, loop, patterns, shake, sigmoid

from mru.cells import PDSSM

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def gelu(u):
    return 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))


def test_output_is_the_equation():
    cell = shake(PDSSM(D, N, transitions=3, hidden=4, learn_initial_state=True, rngs=nnx.Rngs(0)))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    mix = np.exp(affine(p, "mix", x))
    scores = np.einsum("btk,kij->btij", mix / mix.sum(-1, keepdims=True), p["transitions"])
    u = gelu(affine(p, "hidden", x))
    diagonal = sigmoid(affine(p, "magnitude", u)) * np.exp(2j * np.pi * sigmoid(affine(p, "phase", u)))
    matrix = np.swapaxes(np.eye(N)[scores.argmax(-2)], -1, -2)
    start, b, c = p["start"] @ [1, 1j], p["b"][:, 0] + 1j * p["b"][:, 1], p["c"][0] + 1j * p["c"][1]

    def step(t, h):
        return np.einsum("bij,bj->bi", matrix[:, t], diagonal[:, t] * h) + x[:, t] @ b

    h = loop(step, T, start, reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, (h @ c).real + p["d"] * x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", ["transitions", "hidden"])
def test_sizes_are_checked(option):
    with pytest.raises(ValueError, match=rf"PDSSM {option} must be an integer of at least 1, got 0"):
        PDSSM(D, N, **{option: 0}, rngs=0)


def test_magnitude_is_that_of_the_diagonal_at_the_start():
    cell = PDSSM(D, N, magnitude=0.9, rngs=0)
    assert cell.magnitude.bias[...].tolist() == pytest.approx(N * [np.log(9)], rel=1e-5)
    with pytest.raises(ValueError, match=r"PDSSM magnitude must be in \(0, 1\), got 1"):
        PDSSM(D, N, magnitude=1, rngs=0)
