"""Forward-mode derivatives: those of "autodiff", and what the other methods say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mru
from mru.operators import surrogate

pytestmark = pytest.mark.usefixtures("quick_compile")
RNG = np.random.default_rng(0)
A, B, H0, DA, DB = (RNG.normal(size=s).astype(np.float32) for s in ((5, 2), (5, 2), (2,), (5, 2), (5, 2)))
RESET = np.arange(5) == 3


def states(a, b, method):
    return mru.scan(mru.Affine(a, b), H0, reset=RESET, reset_state=jnp.ones(2), method=method)


def by_hand(a, da, b, db):
    """The states and their derivative along (da, db), by a loop in float64."""
    h, dh, found = np.asarray(H0, float), np.zeros(2), []
    for t in range(5):
        if RESET[t]:
            h, dh = np.ones(2), np.zeros(2)
        h, dh = a[t] * h + b[t], da[t] * h + a[t] * dh + db[t]
        found.append((h, dh))
    return map(np.stack, zip(*found, strict=True))


def test_jvp_and_linearize():
    f = functools.partial(states, method="autodiff")
    h, dh = by_hand(A, DA, B, DB)
    np.testing.assert_allclose(jax.jit(lambda: jax.jvp(f, (A, B), (DA, DB)))(), (h, dh), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.linearize(f, A, B)[1](DA, DB), dh, rtol=1e-5, atol=1e-5)


def test_hessian_by_forward_over_reverse():
    """Against second differences of the loop."""

    def loss(a, method):
        return (states(a, B, method) ** 2).sum()

    def plain(a):
        return (next(iter(by_hand(a, 0 * A, B, 0 * B))) ** 2).sum()

    hessian = jax.jit(jax.hessian(functools.partial(loss, method="autodiff")))(A).reshape(10, 10)
    by_reverse = jax.jacrev(jax.grad(functools.partial(loss, method="sequential")))(A).reshape(10, 10)
    np.testing.assert_allclose(hessian, by_reverse, rtol=1e-3, atol=1e-3)
    eye, eps, a = np.eye(10).reshape(10, 5, 2), 1e-4, A.astype(float)
    for i in range(10):
        for j in (0, i):
            corners = [s * r * plain(a + eps * (s * eye[i] + r * eye[j])) for s in (1, -1) for r in (1, -1)]
            np.testing.assert_allclose(hessian[i, j], sum(corners) / 4 / eps**2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gate", ["relay", "latch"])
def test_gates_have_their_surrogate_derivative(gate):
    """A gate selects what goes on, and a selection by itself has no derivative in what it asks."""

    def by_gate(c, beta):
        op = mru.Relay(c, beta)
        op = op if gate == "relay" else mru.Latch(op.write, surrogate.sign(c))
        return mru.scan(op, H0, reset=RESET, reset_state=jnp.ones(2), method="autodiff")

    h, dh, found = np.asarray(H0, float), np.zeros(2), []
    slope = lambda u: 1 / (1 + (np.pi * u) ** 2)  # noqa: E731
    for t, (c, dc, beta, db) in enumerate(zip(*(x.astype(float) for x in (A, DA, B, DB)), strict=True)):
        if RESET[t]:
            h, dh = np.ones(2), np.zeros(2)
        z, sign = abs(c) >= abs(beta), np.sign(c)
        dz = slope(abs(c) - abs(beta)) * (sign * dc - np.sign(beta) * db)
        h, dh = np.where(z, sign, h), dz * (sign - h) + np.where(z, 2 * slope(c) * dc, dh)
        found.append((h, dh))
    expected = tuple(map(np.stack, zip(*found, strict=True)))
    np.testing.assert_allclose(jax.jvp(by_gate, (A, B), (DA, DB)), expected, rtol=1e-5, atol=1e-5)
    written = mru.Latch(jnp.array([[0.0], [1.0], [0.0]]), jnp.array([[jnp.nan], [2.0], [3.0]]))
    np.testing.assert_array_equal(mru.scan(written, jnp.full(1, jnp.nan), method="autodiff")[:, 0], [np.nan, 2, 2])


def loss(a):
    return states(a, B, "auto").sum()


DERIVATIVES = {
    "jvp": lambda a: jax.jvp(loss, (a,), (a,)),
    "jvp of jit": lambda a: jax.jvp(jax.jit(loss), (a,), (a,)),
    "linearize": lambda a: jax.linearize(loss, a)[1](a),
    "jacfwd": lambda a: jax.jacfwd(loss)(a),
    "hessian": lambda a: jax.hessian(loss)(a),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_the_other_methods_say_which_one_has_it(name, compiled):
    if compiled and name in ("jacfwd", "hessian"):
        pytest.skip("these are mapped over the tangents, which JAX refuses of any custom VJP before we are asked")
    f = DERIVATIVES[name]
    with pytest.raises(TypeError, match=r"mru\.scan: forward-mode derivatives .* need method='autodiff'"):
        (jax.jit(f) if compiled else f)(A)


@pytest.mark.parametrize(("cell", "message"), [
    (lambda: mru.cells.BRC(2, 2, method="newton", rngs=0), r"BRC with method='newton': .* need method='sequential'"),
    (lambda: mru.cells.Attention(2, 4, rngs=0), r"Attention: .* need another cell; .* but for its `step`"),
    (lambda: mru.cells.S6(2, 2, rngs=0), r"selective_scan: .* need mru.scan with method='autodiff', which returns"),
])  # fmt: skip
def test_cells_of_another_scan_say_it_too(cell, message):
    cell, x = cell(), jnp.ones((3, 2))
    with pytest.raises(TypeError, match=message):
        jax.jvp(lambda x: cell(x)[0], (x,), (x,))


def test_reverse_mode_goes_through_every_transformation():
    expected = jax.grad(lambda a: states(a, B, "autodiff").sum())(A)
    for f in (
        jax.jit(jax.grad(loss)),
        jax.grad(jax.jit(loss)),
        jax.grad(jax.checkpoint(loss)),
        lambda a: jax.vmap(jax.grad(loss))(a[None])[0],
        lambda a: jax.grad(lambda a: jax.vmap(loss)(a[None])[0])(a),
        lambda a: jax.grad(lambda a: jax.lax.scan(lambda c, x: (c + loss(x), None), 0.0, a[None])[0])(a),
        jax.jacrev(loss),
    ):
        np.testing.assert_allclose(f(A), expected, rtol=1e-5, atol=1e-5)
