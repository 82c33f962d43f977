import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mru
from mru.cells import StateParam
from mru.training import optimizer


@pytest.mark.parametrize("in_flax", [False, True], ids=["of a state", "in nnx.Optimizer"])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("schedule", [False, True], ids=["constant", "schedule"])
def test_adamw_by_hand(clip, schedule, in_flax):
    class Module(nnx.Module):
        def __init__(self):
            draw = np.random.default_rng(0).standard_normal
            self.matrix = nnx.Param(jnp.asarray(draw((3, 4)), jnp.float32))
            self.vector = nnx.Param(jnp.asarray(draw(4), jnp.float32))
            self.state_matrix = StateParam(jnp.asarray(draw((2, 3)), jnp.float32))
            self.state_vector = StateParam(jnp.asarray(draw(3), jnp.float32))

    lr, decay, factor, b1, b2 = 0.1, 0.2, 0.3, 0.8, 0.9
    rate = (lambda count: lr / (1 + count)) if schedule else lr
    module = Module()
    params = nnx.state(module, nnx.Param)
    transform = mru.adamw(rate, weight_decay=decay, state_lr_factor=factor, clip=clip, b1=b1, b2=b2)
    moments_of = transform.init(params)
    held = nnx.Optimizer(module, transform, wrt=nnx.Param)
    expected = {path[-1]: np.asarray(leaf[...], np.float64) for path, leaf in nnx.to_flat_state(params)}
    moments = {name: (np.zeros_like(x), np.zeros_like(x)) for name, x in expected.items()}
    rng = np.random.default_rng(1)
    for step in (1, 2, 3):
        gradient = {name: rng.standard_normal(x.shape) for name, x in expected.items()}
        flat = [(path, leaf.replace(jnp.float32(gradient[path[-1]]))) for path, leaf in nnx.to_flat_state(params)]
        if in_flax:
            held.update(module, nnx.from_flat_state(flat))
            params = nnx.state(module, nnx.Param)
        else:
            updates, moments_of = transform.update(nnx.from_flat_state(flat), moments_of, params)
            params = optax.apply_updates(params, updates)
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        for name, g in gradient.items():
            g = g * min(1, clip / norm) if clip else g
            m, v = moments[name]
            m, v = moments[name] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            update = m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + 1e-8)
            update = update + decay * expected[name] if name == "matrix" else update
            at = lr / step if schedule else lr
            expected[name] = expected[name] - at * (factor if name.startswith("state") else 1) * update
    for path, leaf in nnx.to_flat_state(params):
        np.testing.assert_allclose(leaf[...], expected[path[-1]], rtol=2e-4, atol=1e-6, err_msg=path[-1])


@pytest.mark.parametrize(
    ("keep", "size", "kept"), [(0.43, 100, 43), (0.43, 7, 3), (0.01, 5, 1), (0.5, 1, 1), (1, 6, 6)]
)
def test_the_largest_share_of_a_gradient_is_kept(keep, size, kept):
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    x[: size // 2] = np.sign(x[: size // 2])  # several of one size
    transform = optimizer.sparsified(keep)
    gradient = {"vector": jnp.asarray(x), "matrix": jnp.asarray(x.reshape(1, -1)), "complex": jnp.asarray(1j * x)}
    found, _ = transform.update(gradient, transform.init(gradient))
    order = np.argsort(-np.abs(x), kind="stable")
    expected = np.zeros_like(x)
    expected[order[:kept]] = x[order[:kept]]
    np.testing.assert_array_equal(found["vector"], expected)
    np.testing.assert_array_equal(found["matrix"], expected.reshape(1, -1))
    np.testing.assert_array_equal(found["complex"], 1j * expected)


def test_a_gradient_is_sparse_before_it_is_clipped():
    params = nnx.State({"w": nnx.Param(jnp.zeros(4))})
    gradient = nnx.State({"w": nnx.Param(jnp.asarray([3.0, 0.0, -4.0, 1.0]))})
    transform = mru.adamw(0.1, keep=0.5, clip=1.0, b1=0.0, b2=0.0)
    updates, _ = transform.update(gradient, transform.init(params), params)
    np.testing.assert_allclose(updates["w"][...], [-0.1, 0, 0.1, 0], atol=1e-6)
    # The norm that is clipped is that of what is left, 5: in the second moment of Adam it shows.
    _, state = mru.adamw(0.1, keep=0.5, clip=1.0, b1=0.0, b2=0.5).update(gradient, transform.init(params), params)
    second = [np.asarray(x) for x in jax.tree.leaves(state) if np.shape(x) == (4,)]
    assert any(np.allclose(v, [0.5 * 0.36, 0, 0.5 * 0.64, 0], atol=1e-6) for v in second)


@pytest.mark.parametrize("keep", [0.0, 1.5, float("nan")])
@pytest.mark.parametrize("make", [optimizer.sparsified, lambda keep: mru.adamw(0.1, keep=keep)])
def test_a_share_out_of_range(make, keep):
    with pytest.raises(ValueError, match=f"keep must be above 0 and at most 1, got {keep}"):
        make(keep)
