"""What tests beside other implementations share: the input, the tolerance, and ways to put our parameters into theirs.

Our parameters are shaken and copied over. Every parameter of theirs must be given, so that none is left at its start.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def inputs(features, time=40):
    """Normal (2, time, features), float32."""
    return np.random.default_rng(0).normal(size=(2, time, features)).astype(np.float32)


def outputs(cell, x, reset=None):
    return jax.jit(lambda x: cell(x, reset=reset)[0])(x)


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def diagonals(p):
    """The recurrent weights of a diagonal cell as matrices side by side, (N, gates x N)."""
    return np.concatenate([np.diag(u) for u in p["recurrent"]], -1)


def with_params(module, params):
    """A module of Flax with all of its parameters replaced, by paths such as "dense_i/kernel"."""
    given = {tuple(path.split("/")): jnp.asarray(x, jnp.float32) for path, x in params.items()}
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    assert {path: v[...].shape for path, v in flat} == {path: x.shape for path, x in given.items()}
    for path, x in given.items():
        operator.attrgetter(".".join(path))(module)[...] = x
    return module


def with_arrays(build, arrays):
    """The module of Equinox that `build()` makes, with arrays by paths such as "W_h.weight" in place of its own."""
    import equinox

    module = equinox.filter_eval_shape(build)  # shapes in place of arrays: nothing is drawn or compiled

    def find(module):
        return [operator.attrgetter(path)(module) for path in arrays]

    own = [x for x in jax.tree.leaves(module) if hasattr(x, "shape")]
    assert {id(x) for x in own} == {id(x) for x in find(module)}
    assert [x.shape for x in find(module)] == [np.shape(x) for x in arrays.values()]
    return equinox.tree_at(find, module, [jnp.asarray(x, old.dtype) for old, x in zip(find(module), arrays.values())])


def with_tensors(module, tensors):
    """A module of PyTorch with all of its tensors replaced, by paths such as "conv1d.weight"."""
    import torch

    module.load_state_dict({path: torch.tensor(x, dtype=torch.float32) for path, x in tensors.items()})
    return module.eval().requires_grad_(False)
