"""Cells whose dynamics have closed forms, and the library's own with parameters set by hand."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

import mru
from mru.cells import RecurrentCell, ScanCell


class Leak(ScanCell):
    """h -> a h + x, with `a` given for each channel."""

    def __init__(self, a):
        a = jnp.asarray(a)
        super().__init__(len(a), len(a), state_dtype=jnp.complex64 if jnp.iscomplexobj(a) else jnp.float32)
        self.a = nnx.Variable(a)

    def operator(self, x):
        return mru.Affine(self.a[...], x.astype(self.a[...].dtype))

    def readout(self, h, x):
        return h.real


class Gate(ScanCell):
    """h -> |x| h + 1: a coefficient that is the input."""

    def __init__(self):
        super().__init__(1, 1)

    def operator(self, x):
        return mru.Affine(jnp.abs(x), jnp.ones_like(x))

    def readout(self, h, x):
        return h


class Logistic(RecurrentCell):
    """h -> r h (1 - h), whatever the input."""

    def __init__(self, r, start):
        super().__init__(1, 1)
        self.r, self.start = r, start

    def initial_state(self, batch_shape=()):
        return jnp.full((*batch_shape, 1), self.start)

    def update(self, x, h):
        return self.r * h * (1 - h)

    def readout(self, h, x):
        return h


class Bistable(RecurrentCell):
    """h -> (1 - c) h + c tanh(x + g h): bistable where the gain g is above 1, and slow where c is small."""

    def __init__(self, gain, rate):
        super().__init__(1, 1)
        self.gain, self.rate = gain, rate

    def update(self, x, h):
        return (1 - self.rate) * h + self.rate * jnp.tanh(x + self.gain * h)

    def readout(self, h, x):
        return h


class Pair(RecurrentCell):
    """Two arrays as the state: a sum that leaks, and the last input, held in another shape."""

    def __init__(self):
        super().__init__(2, 2)

    def initial_state(self, batch_shape=()):
        return {"sum": jnp.zeros((*batch_shape, 2)), "last": jnp.zeros((*batch_shape, 2, 1))}

    def update(self, x, h):
        return {"sum": 0.5 * h["sum"] + x, "last": x[..., None]}

    def readout(self, h, x):
        return h["sum"]


class Silent(mru.cells.Cell):
    """A cell that captures nothing."""

    def __init__(self):
        self._set_sizes(1, 1)

    def initial_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, 1))

    def __call__(self, x, state=None, reset=None, *, capture=None):
        return x, self.initial_state(x.shape[:-2])

    def step(self, x, state=None):
        return x, self.initial_state(x.shape[:-1])


def bmru(threshold=(1.0, 2.0)):
    """One input, c = x in every channel, thresholds given."""
    cell = mru.cells.BMRU(1, len(threshold), learn_initial_state=False, rngs=nnx.Rngs(0))
    _linear(cell.candidate, 1.0, 0.0)
    _linear(cell.threshold, 0.0, jnp.asarray(threshold))
    return cell


def pmru(radius=(1.0, 2.0)):
    """One input, c = x in every channel, radii given."""
    cell = mru.cells.PMRU(1, len(radius), rngs=nnx.Rngs(0))
    _linear(cell.centre, 1.0, 0.0)
    _linear(cell.radius, 0.0, jnp.log(jnp.expm1(jnp.asarray(radius))))  # before the softplus
    return cell


def fq_bmru(lower=0.5, gap=1.0, alpha=2.0):
    """One input, c = relu(x), one channel."""
    cell = mru.cells.FQBMRU(1, 1, rngs=nnx.Rngs(0))
    _linear(cell.candidate, 1.0, 0.0)
    cell.lower_threshold[...] = jnp.full(1, lower)
    cell.gap[...] = jnp.full(1, gap)
    cell.alpha[...] = jnp.full(1, alpha)
    return cell


def _linear(layer, kernel, bias):
    layer.kernel[...] = jnp.full_like(layer.kernel[...], kernel)
    layer.bias[...] = jnp.broadcast_to(jnp.asarray(bias, jnp.float32), layer.bias[...].shape)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
