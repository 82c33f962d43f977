import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import cell_parameters, loop, patterns, shake
from scipy.linalg import block_diag, expm

from mru.cells import S5, StateParam
from mru.cells._hippo import hippo_normal

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 8, 30


def normal_part(size):
    """S = A + P P^T, element by element."""
    s = np.zeros((size, size))
    for n in range(size):
        for k in range(size):
            a = -np.sqrt((2 * n + 1) * (2 * k + 1)) if n > k else -(n + 1) if n == k else 0
            s[n, k] = a + np.sqrt(n + 0.5) * np.sqrt(k + 0.5)
    return s


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_eigenvalues_of_the_normal_part(size):
    values, vectors = hippo_normal(size)
    s = normal_part(size)
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(s).imag), values.imag, atol=1e-9)
    np.testing.assert_allclose(values.real, -0.5)
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.conj().T, s, atol=1e-9)


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_output_is_the_equation(discretization):
    cell = S5(D, N, discretization=discretization, learn_initial_state=True, blocks=2, rngs=nnx.Rngs(0))
    shake(cell, scale=0.05)
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    lam, dt = p["lambda_real"] + 1j * p["lambda_imag"], np.exp(p["log_step"])
    b, c = p["b"][:, 0] + 1j * p["b"][:, 1], p["c"][0] + 1j * p["c"][1]
    if discretization == "zoh":
        a, scale = np.exp(lam * dt), (np.exp(lam * dt) - 1) / lam
    else:
        a, scale = (1 + lam * dt / 2) / (1 - lam * dt / 2), dt / (1 - lam * dt / 2)
    u = scale * (x @ b)
    h = loop(lambda t, h: a * h + u[:, t], T, p["start"][:, 0] + 1j * p["start"][:, 1], reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, 2 * (h @ c).real + p["d"] * x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-4)


def pair(**kwargs):
    """The same layer with one eigenvalue of each conjugate pair, and with both."""
    half = S5(D, N, rngs=nnx.Rngs(0), **kwargs)
    full = S5(D, N, conjugate_symmetry=False, rngs=nnx.Rngs(1), **kwargs)
    full.lambda_real[...] = jnp.tile(half.lambda_real[...], 2)
    full.lambda_imag[...] = jnp.concatenate([half.lambda_imag[...], -half.lambda_imag[...]])
    full.log_step[...] = jnp.tile(half.log_step[...], 2)
    full.b[...] = jnp.concatenate([half.b[...], half.b[...] * jnp.array([1.0, -1.0])[:, None]], -1)
    full.c[...] = jnp.concatenate([half.c[...], half.c[...] * jnp.array([1.0, -1.0])[:, None, None]], 1)
    full.d[...] = half.d[...]
    return half, full


def test_conjugate_symmetry_halves_the_state_only():
    half, full = pair()
    assert half.initial_state().shape == (N // 2,)
    assert full.initial_state().shape == (N,)
    x = np.random.default_rng(0).normal(size=(T, D)).astype(np.float32)
    np.testing.assert_allclose(half(x)[0], full(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 2])
def test_zero_order_hold_is_the_matrix_exponential(blocks):
    """Against the dense system h' = S h + B' x, integrated exactly over steps of a constant input."""
    cell = S5(D, N, blocks=blocks, conjugate_symmetry=False, rngs=nnx.Rngs(0))
    cell.log_step[...] = jnp.full(N, np.log(0.05))
    p, x = cell_parameters(cell), np.random.default_rng(0).normal(size=(T, D)).astype(np.float32)
    s = block_diag(*[normal_part(N // blocks)] * blocks)
    v = block_diag(*[hippo_normal(N // blocks)[1]] * blocks)
    b = (v @ (p["b"][:, 0] + 1j * p["b"][:, 1]).T).real  # B = V^-1 B', so B' is real
    c = (v.conj() @ (p["c"][0] + 1j * p["c"][1])).T  # C = C' V
    a = expm(s * 0.05)
    h, y = np.zeros(N), []
    for u in x:
        h = a @ h + np.linalg.solve(s, (a - np.eye(N)) @ (b @ u))
        y.append((c @ h).real + p["d"] * u)
    np.testing.assert_allclose(cell(x)[0], y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(v @ (p["b"][:, 0] + 1j * p["b"][:, 1]).T, b, atol=1e-6)


def test_bilinear_is_the_tustin_rule():
    cell = S5(D, N, discretization="bilinear", conjugate_symmetry=False, rngs=nnx.Rngs(0))
    cell.log_step[...] = jnp.full(N, np.log(0.05))
    a, scale = cell.discretize()
    s, v = normal_part(N), hippo_normal(N)[1]
    left = np.linalg.inv(np.eye(N) - 0.025 * s)
    np.testing.assert_allclose(v @ np.diag(a) @ v.conj().T, left @ (np.eye(N) + 0.025 * s), atol=1e-5)
    np.testing.assert_allclose(v @ np.diag(scale) @ v.conj().T, 0.05 * left, atol=1e-6)


def test_initialisation():
    cell = S5(200, 64, blocks=4, rngs=nnx.Rngs(0))
    p = cell_parameters(cell)
    values = np.linalg.eigvals(normal_part(16))
    positive = np.sort(values.imag[values.imag > 0])
    np.testing.assert_allclose(p["lambda_imag"].reshape(4, 8), np.tile(positive, (4, 1)), rtol=1e-5)
    np.testing.assert_allclose(p["lambda_real"], -0.5, rtol=1e-6)
    assert np.log(0.001) <= p["log_step"].min()
    assert p["log_step"].max() <= np.log(0.1)
    assert np.ptp(p["log_step"]) > 2
    np.testing.assert_allclose((p["b"] ** 2).sum(1).mean(), 1 / 64, rtol=0.1)  # a unitary map keeps the variance
    np.testing.assert_allclose(p["d"].var(), 1, rtol=0.3)


@pytest.mark.parametrize(
    ("c_init", "variance"),
    [("trunc_standard_normal", 2 / 64), ("lecun_normal", 2 / (64 * 200)), ("complex_normal", 1)],
)
def test_initialisation_of_c(c_init, variance):
    p = cell_parameters(S5(200, 64, blocks=4, c_init=c_init, rngs=0))
    assert p["c"].shape == (2, 32, 200)
    np.testing.assert_allclose((p["c"] ** 2).sum(0).mean(), variance, rtol=0.1)
    np.testing.assert_allclose(p["c"].mean(), 0, atol=0.05 * np.sqrt(variance))


def test_initial_b_and_c_are_truncated_normals_in_the_basis_of_the_eigenvectors():
    """Mapped back by V, B' is real, and it and the parts of C' end at two standard deviations of the normal cut off."""
    size, width = 16, 300
    p, v = cell_parameters(S5(width, size, conjugate_symmetry=False, rngs=0)), hippo_normal(size)[1]
    b = v @ (p["b"][:, 0] + 1j * p["b"][:, 1]).T
    c = (p["c"][0] + 1j * p["c"][1]).T @ v.conj().T
    assert abs(b.imag).max() < 1e-6
    for part in (b.real, c.real, c.imag):
        np.testing.assert_allclose(part.var(), 1 / size, rtol=0.05)
        end = 2 / 0.8796 / np.sqrt(size)  # which has 0.8796 of the standard deviation left
        assert 0.95 * end < abs(part).max() < 1.001 * end


def test_step_rescale_is_a_factor_on_every_step():
    slow, fast = (S5(D, N, step_rescale=k, rngs=0) for k in (1.0, 2.0))
    slow.log_step[...] = slow.log_step[...] + np.log(2.0)
    x = np.random.default_rng(0).normal(size=(T, D)).astype(np.float32)
    np.testing.assert_allclose(fast(x)[0], slow(x)[0], rtol=1e-4, atol=1e-5)
    assert abs(np.asarray(S5(D, N, rngs=0)(x)[0] - fast(x)[0])).max() > 1e-3


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_samples_at_irregular_times(discretization):
    """Against a float64 loop that discretises anew at every sample, over a reset; and the loop of `step`."""
    cell = S5(D, N, discretization=discretization, rngs=0)
    rng = np.random.default_rng(0)
    x, p = rng.normal(size=(2, T, D)).astype(np.float32), cell_parameters(cell)
    steps = rng.uniform(0.2, 5, (2, T)).astype(np.float32)
    reset = np.tile(np.arange(T) == 11, (2, 1))
    lam = p["lambda_real"] + 1j * p["lambda_imag"]
    b, c = p["b"][:, 0] + 1j * p["b"][:, 1], p["c"][0] + 1j * p["c"][1]

    def step(t, h):
        dt = np.exp(p["log_step"]) * steps[:, t, None]
        if discretization == "zoh":
            return np.exp(lam * dt) * h + (np.exp(lam * dt) - 1) / lam * (x[:, t] @ b)
        return ((1 + lam * dt / 2) * h + dt * (x[:, t] @ b)) / (1 - lam * dt / 2)

    h = loop(step, T, np.zeros(N // 2), reset)
    y, state = jax.jit(lambda x, steps: cell(x, reset=reset, steps=steps))(x, steps)
    np.testing.assert_allclose(y, 2 * (h @ c).real + p["d"] * x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-4)
    streamed, one = None, jax.jit(lambda x, state, steps: cell.step(x, state, steps=steps))
    for t in range(11, T):
        last, streamed = one(x[:, t], cell.initial_state((2,)) if t == 11 else streamed, steps[:, t])
    np.testing.assert_allclose(last, y[:, -1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cell(x, steps=np.ones((2, T)))[0], cell(x)[0], rtol=1e-4, atol=1e-5)
    for wrong in (steps[:, 1:], steps[0], np.ones((2, T), int)):
        with pytest.raises(ValueError, match=r"steps must be floating point \(2, 30\), got"):
            cell(x, steps=wrong)


@pytest.mark.parametrize("options", [{}, {"discretization": "bilinear", "conjugate_symmetry": False, "blocks": 2}])
def test_both_directions_share_all_but_c(options):
    cell = shake(S5.bidirectional(D, N, learn_initial_state=True, rngs=0, **options), scale=0.05)
    extra = {"/".join(path) for path in nnx.to_flat_state(nnx.state(cell)).paths} - set(
        cell_parameters(S5(D, N, learn_initial_state=True, rngs=0))
    )
    assert extra == {"c_backward"}
    twin = S5(D, N, learn_initial_state=True, rngs=0, **options)  # the backward half, by itself
    nnx.update(twin, nnx.State({k: v for k, v in nnx.state(cell).items() if k != "c_backward"}))
    forward = nnx.clone(twin)
    twin.c[...], twin.d[...] = cell.c_backward[...], jnp.zeros(D)
    x = np.random.default_rng(0).normal(size=(2, T, D)).astype(np.float32)
    reset = np.tile(np.isin(np.arange(T), [0, 9, 10, 29]), (2, 1))
    last = np.tile(np.isin(np.arange(T), [8, 9, 28, 29]), (2, 1))
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    ahead, expected = forward(x, reset=reset)
    back = twin(x[:, ::-1], reset=last[:, ::-1])[0][:, ::-1]
    np.testing.assert_allclose(y, ahead + back, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-5)
    steps = np.random.default_rng(1).uniform(0.2, 5, (2, T)).astype(np.float32)
    gaps = steps.copy()  # backwards: the time to the sample after, within the sequence
    for t in range(T - 1):
        gaps[:, t] = np.where(last[:, t], steps[:, t], steps[:, t + 1])
    y, _ = jax.jit(lambda x: cell(x, reset=reset, steps=steps))(x)
    back = twin(x[:, ::-1], reset=last[:, ::-1], steps=gaps[:, ::-1])[0][:, ::-1]
    np.testing.assert_allclose(y, forward(x, reset=reset, steps=steps)[0] + back, rtol=1e-4, atol=1e-5)
    capture = {}
    cell(x, reset=reset, capture=capture)
    assert capture["forward/state"].shape == capture["backward/state"].shape
    with pytest.raises(ValueError, match="step by step"):
        cell.step(x[:, 0])
    different = S5.bidirectional(D, N, rngs=0)
    assert (different.c[...] != different.c_backward[...]).any()


def test_state_parameters_are_those_of_the_update():
    """Which the optimiser gives a learning rate of their own and no weight decay."""
    state = nnx.to_flat_state(nnx.state(S5(D, N, rngs=0)))
    special = {path[-1] for path, variable in state if isinstance(variable, StateParam)}
    assert special == {"lambda_real", "lambda_imag", "b", "log_step"}


def test_clipped_eigenvalues_stay_stable_whatever_is_learned():
    cell, free = (S5(D, N, clip_eigenvalues=clip, rngs=0) for clip in (True, False))
    cell.lambda_real[...] = free.lambda_real[...] = jnp.full(N // 2, 5.0)
    for cell.discretization in ("zoh", "bilinear"):
        assert (abs(np.asarray(cell.discretize()[0])) < 1).all()
    assert (abs(np.asarray(free.discretize()[0])) > 1).all()  # off by default, as in the authors' code


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"discretization": "euler"}, r"'zoh' or 'bilinear', got 'euler'"),
        ({"state_size": 7}, r"multiple of 2 x 1 blocks, got 7"),
        ({"blocks": 3}, r"multiple of 2 x 3 blocks, got 8"),
        ({"blocks": 0}, r"multiple of 2 x 0 blocks, got 8"),
        ({"blocks": 2.0}, r"multiple of 2 x 2.0 blocks, got 8"),
        ({"step_min": 0.0}, r"0 < step_min <= step_max, both finite, got step_min 0.0"),
        ({"step_max": 1e-4}, r"got step_min 0.001 and step_max 0.0001"),
        ({"step_max": float("inf")}, r"both finite, got step_min 0.001 and step_max inf"),
        ({"step_min": float("nan")}, r"got step_min nan"),
        ({"step_rescale": 0.0}, r"positive, finite step_rescale, got 0.0"),
        ({"step_rescale": float("inf")}, r"got inf"),
        ({"c_init": "normal"}, r"trunc_standard_normal, lecun_normal, complex_normal, got 'normal'"),
        ({"state_size": 8.0}, r"state_size must be an integer of at least 1, got 8.0"),
    ],
)
def test_arguments_are_checked(kwargs, message):
    with pytest.raises(ValueError, match=message):
        S5(**({"features": D, "state_size": N} | kwargs), rngs=nnx.Rngs(0))
