import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mru
from mru.cells import StateParam


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("schedule", [False, True], ids=["constant", "schedule"])
def test_adamw_by_hand(clip, schedule):
    class Module(nnx.Module):
        def __init__(self):
            draw = np.random.default_rng(0).standard_normal
            self.matrix = nnx.Param(jnp.asarray(draw((3, 4)), jnp.float32))
            self.vector = nnx.Param(jnp.asarray(draw(4), jnp.float32))
            self.state_matrix = StateParam(jnp.asarray(draw((2, 3)), jnp.float32))
            self.state_vector = StateParam(jnp.asarray(draw(3), jnp.float32))

    lr, decay, factor, b1, b2 = 0.1, 0.2, 0.3, 0.8, 0.9
    rate = (lambda count: lr / (1 + count)) if schedule else lr
    params = nnx.state(Module(), nnx.Param)
    transform = mru.adamw(rate, weight_decay=decay, state_lr_factor=factor, clip=clip, b1=b1, b2=b2)
    optimizer = transform.init(params)
    expected = {path[-1]: np.asarray(leaf[...], np.float64) for path, leaf in nnx.to_flat_state(params)}
    moments = {name: (np.zeros_like(x), np.zeros_like(x)) for name, x in expected.items()}
    rng = np.random.default_rng(1)
    for step in (1, 2, 3):
        gradient = {name: rng.standard_normal(x.shape) for name, x in expected.items()}
        flat = [(path, leaf.replace(jnp.float32(gradient[path[-1]]))) for path, leaf in nnx.to_flat_state(params)]
        updates, optimizer = transform.update(nnx.from_flat_state(flat), optimizer, params)
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
