"""What the tests of whole models share: their inputs, how results are compared, and a model compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

INPUTS, OUTPUTS = 3, 4
close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)


def trees_close(mine, theirs):
    jax.tree.map(close, mine, theirs)


def features(*shape, seed=0):
    """Inputs (..., INPUTS)."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, INPUTS)), jnp.float32)


def compiled_ways(model):
    """(model, its call, its step), both compiled."""
    graphdef, variables = nnx.split(model)
    call = jax.jit(lambda v, x, state=None, **kw: nnx.merge(graphdef, v)(x, state, **kw))
    step = jax.jit(lambda v, x, state: nnx.merge(graphdef, v).step(x, state))
    return model, functools.partial(call, variables), functools.partial(step, variables)
