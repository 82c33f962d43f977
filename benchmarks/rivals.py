"""What ours are compared with: the same maps through what JAX and Flax offer, and another library where installed."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mru import Affine, Relay
from mru.operators import Operator, Selective
from mru.operators.surrogate import sign


def associative_scan(op: Operator, h0: Array | None = None, **_) -> Array:
    """`jax.lax.associative_scan` as anybody would write it, differentiated by JAX."""
    op = plain(op)
    op = from_zero(op) if h0 is None else from_state(op, h0)
    prefix = jax.lax.associative_scan(lambda f, g: g.compose(f), op, axis=op.constant().ndim - 2)
    return prefix.constant()


def selective(op: Selective) -> Array:
    """The outputs of a selective scan as anybody would write it: `jax.lax.associative_scan` over (T, D, N)."""
    a, b = jnp.exp(op.dt[..., None] * op.a), (op.dt * op.x)[..., None] * op.b[..., None, :]

    def compose(f: tuple[Array, Array], g: tuple[Array, Array]) -> tuple[Array, Array]:
        return g[0] * f[0], g[0] * f[1] + g[1]

    _, h = jax.lax.associative_scan(compose, (a, b), axis=op.x.ndim - 2)
    return op.readout(h)


def lax_scan(op: Operator) -> Array:
    """`jax.lax.scan` over the steps, differentiated by JAX."""
    op = plain(op)

    def step(h, maps):
        h = maps.apply(h)
        return h, h

    steps = jax.tree.map(lambda x: jnp.moveaxis(x, -2, 0), op)
    _, h = jax.lax.scan(step, jnp.zeros_like(steps.constant()[0]), steps)
    return jnp.moveaxis(h, 0, -2)


@functools.singledispatch
def plain(op: Operator) -> Operator:
    """The maps as one would write them without a custom derivative, every field given for every step."""
    return op.lower()


@plain.register
def _(op: Relay) -> Affine:
    """As an affine map, whose derivative in the gate is that of the equation."""
    z = op.write
    return Affine(1 - z + z * (0.0 if op.leak is None else op.leak), z * sign(op.candidate, op.width))


@plain.register
def _(op: Affine) -> Affine:
    return Affine(jnp.broadcast_to(op.a, op.b.shape), op.b)


def from_state(op: Operator, h0: Array) -> Operator:
    """The maps with the initial state in the first of them."""
    return op.fold(h0[..., None, :], (jnp.arange(op.constant().shape[-2]) == 0)[:, None])


@functools.singledispatch
def from_zero(op: Operator) -> Operator:
    """The same with zero as the initial state."""
    return from_state(op, jnp.zeros_like(op.constant()[..., 0, :]))


@from_zero.register
def _(op: Affine) -> Affine:
    """Its offset is the state after a start from zero."""
    return op


class GRU(nnx.Module):
    """Flax's own recurrent layer over its GRU: a nonlinear recurrence, which can not be scanned in parallel."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.features = features
        self.layer = nnx.RNN(nnx.GRUCell(features, features, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        """x (B, T, D) -> y (B, T, D)."""
        return self.layer(x, initial_carry=jnp.zeros((x.shape[0], self.features)))


def memax_lru(features: int):
    """The LRU layer of memax (PyPI): its parameters and (params, x (B, T, D)) -> y; ImportError if not installed."""
    from memax.linen.semigroups.lru import LRU

    algebra = LRU.default_algebra(recurrent_size=features)
    layer = LRU(algebra=algebra, scan=LRU.default_scan(), hidden_size=features, recurrent_size=features)
    state = layer.zero_carry()

    def one(params, x):
        return layer.apply(params, state, (x, jnp.zeros(x.shape[0], bool)))[1]

    x = jnp.zeros((4, features))
    params = layer.init(jax.random.key(0), state, (x, jnp.zeros(4, bool)))
    return params, lambda params, x: jax.vmap(one, (None, 0))(params, x)
