"""What works with the base dependencies alone, outside of the checkout: cells, scans, models, and a run's model.

`.ci/run` runs it in an environment that has no others, `tests/test_packaging.py` with the others hidden. Its argument
is the workdir of a run.
"""

import sys

import jax
import jax.numpy as jnp

import mru

x = jnp.ones((2, 5, 3))
for name in mru.cells.names():
    # Traced alone: what is imported shows, and nothing is compiled.
    y = jax.eval_shape(lambda x, name=name: mru.cells.get(name)(3, 4, rngs=0)(x)[0], x)
    assert y.shape == x.shape, name
h = mru.scan(mru.Affine(jnp.full((5, 4), 0.5), jnp.ones((5, 4))))
assert abs(h[-1, 0] - 1.9375) < 1e-6, h
logits, _ = mru.SequenceModel(3, 2, cells="lru,bmru", width=8, state_size=8, rngs=0)(x)
assert logits.shape == (2, 2)
model = mru.load(sys.argv[1])
logits, _ = model(jnp.ones((1, 5, model.inputs)))
assert logits.shape == (1, model.outputs)
assert jnp.isfinite(logits).all()
print(f"mru {mru.__version__} of {mru.__file__}: {len(mru.cells.names())} cells")
