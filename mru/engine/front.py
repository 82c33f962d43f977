"""The front door: `scan`, and the choice of a method.

A method is four functions, of arguments that were checked:

    states(op, h0, reset, reset_state, reverse, keep) -> h, and, if asked to keep them in the operator's code, that
    pullback(op, h0, reset, reset_state, reverse, h, g) -> the cotangents of (op, h0, reset_state)
    composed(build, op, others, reset, reset_state, reverse) -> the maps `build(op, others)` of all steps as one

`reset` and `reset_state` may be None; the fields of `op` may be of lower precision than the states. `h` is what was
kept of the states: themselves, or the operator's code.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine import checks, placement
from mru.engine.forward_mode import reverse_only
from mru.engine.methods import METHODS
from mru.engine.steps import time_axis, time_of
from mru.operators import Operator
from mru.operators.base import State


def scan(
    op: Operator,
    h0: State | None = None,
    *,
    reset: Array | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    method: str = "auto",
) -> State:
    """Every state of h_t = f_t(h_{t-1}), for a batch of sequences.

    Differentiable in `op`, `h0` and `reset_state`, in reverse mode and to any order, by a custom VJP: where an operator
    says its Jacobian, as all of ours do, the adjoint is one affine scan in the other direction, and only the states are
    stored for it; those of a `Relay` without a leak as int8, so that its second derivatives do not go through them. For
    forward mode (`jax.jvp`, `jax.linearize`, forward-over-reverse) use `method="autodiff"`.

    `method="auto"` picks by platform, at lowering: "sequential" on CPU, "pallas" (one kernel) on NVIDIA GPUs and
    "associative" elsewhere. The rule is measured, in results/benchmarks/scan-cpu.json and scan-gpu-h200.json. Where the
    kernel can not run an operator, "associative" takes its place and the logger `mru.engine.methods` says why.
    Under `jax.vmap` it is the same method, and the kernel is one call for all.

    Over a mesh with an axis `seq` (`jax.set_mesh`, or inside a `shard_map` over it) the time axis lies spread over its
    devices: each composes its own maps, all gather these, and each scans its part. What is communicated does not grow
    with T. Inside a `shard_map` the arguments are this device's parts, but `h0`, which is before the whole sequence.

    Args:
        op: `Affine`, `Latch`, `Clamp`, `Relay`, `Play` or an `Operator` of your own, fields (..., T, N) with T >= 1;
            half-precision fields are accumulated in float32. An `Affine.a` of shape (N,) is constant in time.
        h0: State before the first step, (..., N), or what the operator's own states are; its zero if None.
        reset: Boolean (..., T): true where a new sequence starts. The state before that step is `reset_state`, and
            nothing of the steps before it, NaN and infinity included, reaches past it.
        reset_state: (..., N); `h0` if None.
        reverse: Run from the last step to the first. "Before" and "starts" are then meant in that direction.
        method: "auto", "sequential", "associative", "pallas", or "autodiff": the associative form, differentiated by
            JAX in any mode, for which it stores what is inside. Without a GPU "pallas" is interpreted, for tests.

    Returns:
        h: (..., T, N), every state, float32 or complex64 (wider only if the input is).

    Raises:
        ValueError: A shape, dtype or method does not fit, T is not divisible by the devices of `seq`, or "pallas" is
            asked for what it can not run; the message gives the expected and the given one.
        TypeError: Forward-mode derivatives of another method than "autodiff".

    Example:
        h_t = 2 h_{t-1} + b_t, and a second sequence that starts at the third step:

        >>> import jax.numpy as jnp, mru
        >>> double = mru.Affine(a=jnp.full((4, 1), 2.0), b=jnp.array([[1.0], [0.0], [5.0], [0.0]]))
        >>> print(mru.scan(double)[:, 0])
        [ 1.  2.  9. 18.]
        >>> print(mru.scan(double, reset=jnp.array([False, False, True, False]))[:, 0])
        [ 1.  2.  5. 10.]
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, got {method!r}")
    op = checks.operator(op)
    like = checks.zero_state(op)
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like) if h0 is None else checks.state(h0, like, "h0")
    reset = None if reset is None else checks.reset(reset, op)
    reset_state = start if reset_state is None else checks.state(reset_state, like, "reset_state")
    if reset is None:
        reset_state = None  # which no step takes
    if any(s.size == 0 for s in jax.tree.leaves(like)):
        axis, time = time_axis(op), time_of(op)
        return jax.tree.map(lambda s: jnp.zeros((*s.shape[:axis], time, *s.shape[axis:]), s.dtype), like)
    if method != "autodiff":
        instead = "method='autodiff'; the other methods have reverse mode only"
        op, start, reset_state = reverse_only((op, start, reset_state), "mru.scan", instead)
    return placement.run(method, reverse, op, start, reset_state, reset)
