"""S6, the selective state-space cell, in the block that it came with (Mamba)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import Cell, StateParam, as_rngs, at_least_one, in_precision_of, named, resets
from mru.cells._convolution import check_steps_seen, convolved, last_of, recent, recent_of_step, uniform_taps
from mru.cells._linear import linear
from mru.engine.front import scan
from mru.engine.selective import METHODS, selective_scan
from mru.operators import Selective
from mru.operators.base import State

_SHORTEST, _LONGEST = 1e-3, 1e-1  # time steps dt at the start
# Steps of a piece. Longer sequences are run piece by piece, and the backward pass computes again what is inside of one:
# of the block's intermediates, together 40 times its input, only those of a piece exist at a time.
_PIECE = 2048


class S6(Cell, name="s6"):
    """v = W_u x; u = silu(conv(v)); h_t = exp(dt A) h_{t-1} + dt B u; y = W_o ((C h + d u) silu(W_z x)).

    E = expand * D channels with N states each, E N in all; `state_size` is N. The convolution is causal, over the
    last `conv` steps of each channel by itself. What makes it selective: dt = softplus(W_dt s + b_dt), B and C are
    linear in u, (s, B, C) = W_s u, where s has ceil(D / 16) channels. A = -exp(log_a).

    The states of all steps are never stored, unless `capture` asks for them; see `mru.engine.selective`. The state that
    is carried is (h, the last conv - 1 values of v), and starts as zeros; the convolution does not reach over a reset.

    At the start A = -1, ..., -N in each channel, dt without its input is log-uniform in [0.001, 0.1], d = 1. Where the
    source is silent, our reading: W_dt is uniform in +-1 / sqrt(ceil(D / 16)), the taps of the convolution in
    +-1 / sqrt(conv), its bias is 0, and the other matrices are LeCun normal. A and b_dt count as parameters of the
    state update.

    Source: Gu and Dao 2023, arXiv 2312.00752.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        expand: int = 2,
        conv: int = 4,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N, states of each of the `expand * features` channels.
            expand: E / D.
            conv: Steps that the convolution sees, the present one included.
            method: Method of `mru.engine.selective.selective_scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.

        Raises:
            ValueError: A size is not an integer of at least 1, or `conv` of at least 2, or the method is unknown.
        """
        self._set_sizes(features, state_size)
        self._set_method(method, METHODS)
        at_least_one("expand", expand)
        check_steps_seen(conv)
        rngs = as_rngs(rngs)
        matrix = functools.partial(linear, use_bias=False, dtype=dtype, rngs=rngs)

        def uniform(shape: tuple[int, ...], low: float, high: float) -> Array:
            return jax.random.uniform(rngs.params(), shape, jnp.float32, low, high)

        self.channels, self.conv, self.rank = expand * features, conv, -(-features // 16)
        self.up, self.gate = matrix(features, self.channels), matrix(features, self.channels)
        self.taps = nnx.Param(uniform_taps(conv, self.channels, rngs))
        self.taps_bias = nnx.Param(jnp.zeros(self.channels, jnp.float32))
        self.select = matrix(self.channels, self.rank + 2 * state_size)
        self.dt = matrix(self.rank, self.channels)
        self.dt.kernel[...] = uniform((self.rank, self.channels), -(self.rank**-0.5), self.rank**-0.5)
        dt = jnp.exp(uniform((self.channels,), math.log(_SHORTEST), math.log(_LONGEST)))
        self.dt_bias = StateParam(dt + jnp.log(-jnp.expm1(-dt)))  # of which the softplus is dt
        rates = jnp.arange(1, state_size + 1, dtype=jnp.float32)
        self.log_a = StateParam(jnp.log(jnp.broadcast_to(rates, (self.channels, state_size))))
        self.skip = nnx.Param(jnp.ones(self.channels, jnp.float32))
        self.out = matrix(self.channels, features)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """Zeros: the states (*batch_shape, E, N), and what the convolution saw, (*batch_shape, conv - 1, E)."""
        return (
            jnp.zeros((*batch_shape, self.channels, self.state_size), jnp.float32),
            jnp.zeros((*batch_shape, self.conv - 1, self.channels), jnp.float32),
        )

    def operator(self, u: Array) -> Selective:
        """The maps, given what enters the states, (..., E)."""
        s, b, c = jnp.split(self.select(u), [self.rank, self.rank + self.state_size], -1)
        dt = jax.nn.softplus(self.dt(s) + self.dt_bias[...])
        return Selective(dt, -jnp.exp(self.log_a[...].astype(dt.dtype)), b, c, u)

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        reset: Array | None = None,
        *,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, State]:
        """See `Cell.__call__`."""
        x = self._checked(x, time=True)
        h, seen = in_precision_of(x, self._carried(state, x.shape[:-2]))
        reset = None if reset is None else resets(reset, x)
        if x.shape[-2] > _PIECE and capture is None:
            return _piece_by_piece(self._run, x, (h, seen), reset)
        return self._run(x, (h, seen), reset, capture)

    def _run(
        self, x: Array, state: State, reset: Array | None, capture: dict[str, Array] | None = None
    ) -> tuple[Array, State]:
        h, seen = state
        found = recent(self.up(x), seen, reset)
        seen, op = last_of(found), self.operator(self._convolved(found))
        start = jnp.zeros(h.shape[-2:], h.dtype)
        y, last = selective_scan(op, h, reset=reset, reset_state=start, method=self.method)
        if capture is not None:
            states = scan(op, h, reset=reset, reset_state=start), jnp.stack(found[1:], -2)
            capture.update(named("state", states) | {k: v for k, v in op.gates().items() if k != "a"})
        return self._readout(y, op.x, x), (last, seen)

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """See `Cell.step`."""
        x = self._checked(x, time=False)
        h, seen = in_precision_of(x, self._carried(state, x.shape[:-1]))
        found, seen = recent_of_step(self.up(x), seen)
        op = self.operator(self._convolved(found))
        h = op.apply(h)
        return self._readout(op.readout(h), op.x, x), (h, seen)

    def _convolved(self, found: list[Array]) -> Array:
        """What enters the states, given the values that the convolution sees, the oldest first."""
        return nnx.silu(convolved(found, self.taps[...], self.taps_bias[...]))

    def _readout(self, y: Array, u: Array, x: Array) -> Array:
        return self.out((y + self.skip[...] * u) * nnx.silu(self.gate(x))).astype(x.dtype)


def _piece_by_piece(run: Callable[..., tuple[Array, State]], x: Array, state: State, reset: Array | None) -> Any:
    """`run(x, state, reset)` over pieces of the time axis, each from the state after the one before.

    Args:
        run: What gives outputs and the last state.
        x: (..., T, D).
        state: The state before the first step.
        reset: (..., T), or None.
    """
    axis = x.ndim - 2
    count = x.shape[axis] // _PIECE

    def cut(x: Array) -> Array:
        whole = jax.lax.slice_in_dim(x, 0, count * _PIECE, axis=axis)
        return jnp.moveaxis(whole.reshape(*x.shape[:axis], count, _PIECE, *x.shape[axis + 1 :]), axis, 0)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # `lax.scan` lets nothing be shared between the passes
    def piece(state: State, now: tuple[Array, Array | None]) -> tuple[State, Array]:
        y, state = run(now[0], state, now[1])
        return state, y

    state, y = jax.lax.scan(piece, state, jax.tree.map(cut, (x, reset)))
    y = jnp.moveaxis(y, 0, axis).reshape(*x.shape[:axis], count * _PIECE, x.shape[-1])
    if count * _PIECE == x.shape[axis]:
        return y, state
    rest = jax.tree.map(lambda x: jax.lax.slice_in_dim(x, count * _PIECE, None, axis=axis), (x, reset))
    last, state = run(rest[0], state, rest[1])
    return jnp.concatenate([y, last], axis), state
