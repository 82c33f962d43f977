"""pLMU, the parallel Legendre memory unit."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from mru.cells._base import in_precision_of, named, resets
from mru.cells._legendre import LegendreCell
from mru.operators.base import State


class PLMU(LegendreCell, name="plmu"):
    """m_t = A_d m_{t-1} + B_d u_t of a signal u = f(W_u x + b_u), o = f(W_m m + W_x x + b): the last theta steps of u.

    A_d and B_d are the Legendre system of order d, theta m' = A m + B u, discretised with zero-order hold; m are the
    first d Legendre coefficients of u over a window of theta steps. They are not learned: the nonlinearity f stands
    before and after a linear, time-invariant memory, which a convolution computes for all steps at once.

        A_ij = (2i + 1) (-1 if i < j else (-1)^(i - j + 1)),  B_i = (2i + 1) (-1)^i

    A step costs O(d^2), a sequence of up to 4,096 steps O(d T log T) by FFT. Where a state is carried, into the call or
    from a block of 4,096 steps to the next, A_d^k m adds O(d^2 T) of matrix products. Packed sequences go in blocks of
    64 steps, O((64 d + d^2) T), as an FFT would read over resets. The impulse response, of at most 4,096 steps, is made
    in float64 when a call is traced. Without `reset`, a NaN reaches earlier steps too, of its own sequence and block:
    an FFT mixes all of them.

    Our reading: f is tanh, which bounds what is kept. The state has N = channels x d numbers, and `state_size` is N:
    with one channel it is the order. The memory starts from zero, as if nothing had been before.

    Source: Voelker, Kajic, Eliasmith 2019 (the memory); Chilkuri, Eliasmith 2021, arXiv 2102.11417 (in parallel).
    """

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """Zeros (*batch_shape, N)."""
        return jnp.zeros((*batch_shape, self.state_size), jnp.float32)

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
        state = None if state is None else self._carried(state, x.shape[:-2])
        m = self.legendre.states(state, self.kept(x), None if reset is None else resets(reset, x))
        if capture is not None:
            capture.update(named("state", m))
        return self.readout(m, x), m[..., -1, :]

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """See `Cell.step`."""
        x = self._checked(x, time=False)
        m = self.legendre.step(in_precision_of(x, self._carried(state, x.shape[:-1])), self.kept(x))
        return self.readout(m, x), m
