"""PDMU, the parallel delayed memory unit."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs, in_precision_of, named, resets
from mru.cells._legendre import LegendreCell
from mru.cells._linear import linear
from mru.operators.base import State


class PDMU(LegendreCell, name="pdmu"):
    """A pLMU whose delay gate sends its memory ahead: a step reads m_t and what the last n steps have sent to it.

        m_t = A_d m_{t-1} + B_d u_t, u = f(W_u x + b_u)        (see pLMU)
        g_t = softmax(W_g x_t + b_g)                           (n slots)
        m^_t = m_t + sum_{j < n} g_{t-j}[j] m_{t-j}
        o_t = f(W_m m^_t + W_x x_t + b)

    Slot j of the gate of a step is how much of its memory arrives j steps later. Cost, as of a pLMU, and O(n N) a step
    for the delay line. The state is the delay line, the last n - 1 memories (..., n - 1, N) and gates (..., n - 1, n),
    newest first; a new sequence starts with an empty one.

    The equation of the gate is not published in what we could read: the one above is our reading, as is f = tanh and
    that of the pLMU of what `state_size` means.

    Source: Sun et al. 2025, arXiv 2512.01626.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        slots: int = 8,
        channels: int = 1,
        theta: float = 128.0,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N = channels x order.
            slots: n, delays from 0 to n - 1; at least 2.
            channels: Signals that are kept, each in a memory of its own; the order is N / channels.
            theta: Steps that are kept, positive.
            method: Ignored: a dense matrix is no operator of a scan.
            dtype: Dtype of the matrix products, without those of the memory; that of the inputs and parameters,
                promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        rngs = as_rngs(rngs)
        super().__init__(features, state_size, channels=channels, theta=theta, dtype=dtype, rngs=rngs)
        if not isinstance(slots, SupportsIndex) or operator.index(slots) < 2:
            raise ValueError(f"PDMU needs at least 2 slots, an integer, got {slots!r}")
        self.slots = operator.index(slots)
        self.gate = linear(features, slots, dtype=dtype, rngs=rngs)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """An empty delay line: memories (*batch_shape, n - 1, N) and gates (*batch_shape, n - 1, n)."""
        return tuple(
            jnp.zeros((*batch_shape, self.slots - 1, size), jnp.float32) for size in (self.state_size, self.slots)
        )

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
        reset = None if reset is None else resets(reset, x)
        memories, gates = self._carried(state, x.shape[:-2])
        m = self.legendre.states(None if state is None else memories[..., 0, :], self.kept(x), reset)
        lines = _line(memories, m), _line(gates, self._gates(x))
        since = _since(reset, x, self.slots)
        delayed = m
        for j in range(self.slots):
            memory, gate = (self._ago(line, j) for line in lines)
            delayed = delayed + jnp.where((since >= j)[..., None], gate[..., j, None] * memory, 0)
        last = [x.shape[-2] - 1]
        if capture is not None:
            capture.update(named("state", self._states(lines, since, range(x.shape[-2]))))
        state = jax.tree.map(lambda leaf: leaf[..., 0, :, :], self._states(lines, since, last))
        return self.readout(delayed, x), state

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """See `Cell.step`."""
        x = self._checked(x, time=False)
        memories, gates = in_precision_of(x, self._carried(state, x.shape[:-1]))
        m = self.legendre.step(memories[..., 0, :], self.kept(x))
        memories = jnp.concatenate([m[..., None, :], memories], -2)
        gates = jnp.concatenate([self._gates(x)[..., None, :], gates], -2)
        arrived = jnp.diagonal(gates, axis1=-2, axis2=-1)
        delayed = m + jnp.einsum("...j,...jn->...n", arrived, memories, precision="highest")
        return self.readout(delayed, x), (memories[..., :-1, :], gates[..., :-1, :])

    def _gates(self, x: Array) -> Array:
        """g (..., n), at least float32."""
        scores = self.gate(x)
        return nnx.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), -1)

    def _ago(self, line: Array, steps: int) -> Array:
        """What stood on a line some steps before each step, (..., T, P)."""
        first = self.slots - 1 - steps
        return line[..., first : line.shape[-2] - steps, :]

    def _states(self, lines: tuple[Array, Array], since: Array, steps: list[int] | range) -> State:
        """The delay lines after some steps, (..., steps, n - 1, P)."""
        ago = jnp.arange(self.slots - 1)
        chosen = jnp.asarray(list(steps))
        places = chosen[:, None] + self.slots - 1 - ago
        there = (since[..., chosen, None] >= ago)[..., None]
        return tuple(jnp.where(there, line[..., places, :], 0) for line in lines)


def _line(before: Array, new: Array) -> Array:
    """The carried delay line, oldest first, and the new steps: (..., n - 1 + T, P)."""
    return jnp.concatenate([jnp.flip(before, -2).astype(new.dtype), new], -2)


def _since(reset: Array | None, x: Array, slots: int) -> Array:
    """Steps since the sequence of each step started, (..., T); `slots`, more than a line holds, if before these."""
    if reset is None:
        return jnp.full(x.shape[:-1], slots)
    t = jnp.arange(x.shape[-2])
    latest = jax.lax.cummax(jnp.where(reset, t, -1), axis=reset.ndim - 1)
    return jnp.where(latest < 0, slots, t - latest)
