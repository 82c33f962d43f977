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
        return np.einsum("bij,bj->bi", matrix[:, t], diagonal[:, t] * h) + np.exp(p["log_gamma"]) * (x[:, t] @ b)

    h = loop(step, T, start, reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, (h @ c).real + p["d"] * x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-5)


def test_an_exact_one_moves_its_initial_state_about():
    cell = shake(PDSSM(D, N, transitions=3, exact=True, learn_initial_state=True, rngs=nnx.Rngs(0)))
    x, p = np.random.default_rng(0).normal(size=(1, 400, D)).astype(np.float32), cell_parameters(cell)
    assert set(p) == {"start", "transitions", "c", "d", "mix/kernel", "mix/bias"}
    mix = np.exp(affine(p, "mix", x[0]))
    to = np.einsum("tk,kij->tij", mix / mix.sum(-1, keepdims=True), p["transitions"]).argmax(-2)
    h = p["start"] @ [1, 1j]
    for t in range(400):
        moved = np.zeros(N, complex)
        np.add.at(moved, to[t], h)
        h = moved
    _, state = jax.jit(cell)(x)
    np.testing.assert_allclose(state[0], h, rtol=1e-6)
    with pytest.raises(ValueError, match="exact needs learn_initial_state"):
        PDSSM(D, N, exact=True, rngs=0)


@pytest.mark.parametrize("option", ["transitions", "hidden"])
def test_sizes_are_checked(option):
    with pytest.raises(ValueError, match=rf"PDSSM {option} must be an integer of at least 1, got 0"):
        PDSSM(D, N, **{option: 0}, rngs=0)
    PDSSM(D, N, **{option: np.int64(2)}, rngs=0)


def test_the_diagonal_starts_on_a_ring_and_the_maps_as_permutations():
    cell = PDSSM(1, 400, r_min=0.5, r_max=0.8, max_phase=3.0, transitions=1, hidden=1, rngs=0)
    size, turns = sigmoid(np.float64(cell.magnitude.bias[...])), sigmoid(np.float64(cell.phase.bias[...]))
    assert 0.5 <= size.min() < 0.52 < 0.78 < size.max() <= 0.8
    assert (size**2).mean() == pytest.approx((0.5**2 + 0.8**2) / 2, abs=0.02)  # uniform in area
    assert 0 <= turns.min() < 0.01 < 2.95 / (2 * np.pi) < turns.max() < 3 / (2 * np.pi)
    assert turns.mean() == pytest.approx(1.5 / (2 * np.pi), abs=0.02)
    np.testing.assert_allclose(np.exp(2 * np.float64(cell.log_gamma[...])), 1 - size**2, rtol=1e-4)
    maps = PDSSM(1, 6, rngs=0).transitions[...].argmax(1)
    assert {tuple(sorted(p)) for p in maps.tolist()} == {(0, 1, 2, 3, 4, 5)}
    assert len({tuple(p) for p in maps.tolist()}) > 10
    for wrong in [{"r_min": 0}, {"r_min": 0.6, "r_max": 0.5}, {"r_max": 1}]:
        with pytest.raises(ValueError, match=r"0 < r_min < r_max < 1, got r_min .* and r_max"):
            PDSSM(D, N, **wrong, rngs=0)
    with pytest.raises(ValueError, match=r"0 < max_phase < 2 pi, got 7"):
        PDSSM(D, N, max_phase=7, rngs=0)
