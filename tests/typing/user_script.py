"""A user's script with three mistakes: a type checker must find these and no other. It is not run."""

import jax.numpy as jnp
from flax import nnx

import mru

x = jnp.ones((8, 100, 16))
cell = mru.cells.PMRU(features=16, state_size=32, rngs=nnx.Rngs(0))
y, state = cell(x)
y_t, state = cell.step(x[:, 0], state)
mean = y.mean(-2) + y_t
hybrid = mru.SequenceModel(16, 2, cells=["lru+pmru", mru.cells.BMRU], dtype="bfloat16", rngs=0)
logits, carried = hybrid(x, lengths=jnp.full(8, 100))
logits, carried = hybrid.step(x[:, 0], carried)
steps = carried.position + 1
probability = nnx.softmax(logits)
h = mru.scan(mru.Clamp(lo=-jnp.ones((100, 4)), hi=jnp.ones((100, 4))), h0=jnp.full(4, 0.5))
parameters = nnx.state(mru.load("runs/quickstart"), nnx.Param)

unknown_keyword = mru.cells.PMRU(16, 32, width=3, rngs=nnx.Rngs(0))  # wrong: there is no width
text_for_number = mru.cells.PMRU("16", 32, rngs=nnx.Rngs(0))  # wrong: features is an int
unknown_method = y.transposed()  # wrong: an array has no such method
