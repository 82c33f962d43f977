"""The front door `scan`, its checks, and the one custom VJP behind every method.

A method is a function `(op, cut, reverse) -> h`. Before it is called the initial state is folded into the first map
(so there are T elements, never T + 1) and the reset state into every map at a reset; `cut` (..., T), or None, marks the
maps into which nothing earlier is composed.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators import Affine, Clamp, Latch, Operator, Relay
from mru.scan.associative import associative
from mru.scan.sequential import sequential


def _auto(op, cut, reverse):
    return jax.lax.platform_dependent(
        cpu=lambda: sequential(op, cut, reverse), default=lambda: associative(op, cut, reverse)
    )


_METHODS = {"auto": _auto, "sequential": sequential, "associative": associative}


def scan(
    op: Operator,
    h0: Array | None = None,
    *,
    reset: Array | None = None,
    reset_state: Array | None = None,
    reverse: bool = False,
    method: str = "auto",
) -> Array:
    """Every state of h_t = f_t(h_{t-1}), for a batch of independent channels.

    Differentiable in `op`, `h0` and `reset_state`, to any order, by a custom VJP: the adjoint of every operator is one
    affine scan in the other direction, and only the states are stored for it.

    `method="auto"` picks by platform, at lowering: "sequential" on CPU, "associative" on GPU and TPU, where a loop of
    T tiny steps is bound by its launches. The rule for CPU is measured, on two cores, forward and backward: at (4,
    16384, 64) the sequential form took 76 to 124 ms by operator and the associative one 155 to 331 ms; at (16, 4000,
    32) 33 to 62 and 74 to 145 ms; at (64, 64, 64), where neither matters, 1 to 3 ms and 1 to 4 ms.

    Args:
        op: `Affine`, `Latch`, `Clamp` or `Relay` with fields (..., T, N), T >= 1; half-precision fields are accumulated
            in float32. An `Affine.a` of shape (N,) is constant in time.
        h0: State before the first step, (..., N); zeros if None.
        reset: Boolean (..., T): true where a new sequence starts. The state before that step is `reset_state`, and
            nothing of the steps before it, NaN and infinity included, reaches past it.
        reset_state: (..., N); `h0` if None.
        reverse: Run from the last step to the first. "Before" and "starts" are then meant in that direction.
        method: "auto", "sequential" or "associative".

    Returns:
        h: (..., T, N), every state, float32 or complex64 (wider only if the input is).

    Raises:
        ValueError: A shape, dtype or method does not fit; the message gives the expected and the given one.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {sorted(_METHODS)}, got {method!r}")
    if isinstance(op, Relay):
        relay = op
        run = functools.partial(scan, h0=h0, reset=reset, reset_state=reset_state, reverse=reverse, method=method)
        if relay.leak is None:
            return run(relay.latch())
        # Where the leak has fallen to zero the cell runs as an exact latch, although the leak is a traced value.
        return jax.lax.cond(relay.leak == 0, lambda: run(relay.latch()), lambda: run(relay.affine()))
    op = _canonical(op)
    *batch, time, channels = op.constant().shape
    dtype = op.constant().dtype

    def state(x, name):
        x = jnp.asarray(x)
        if x.ndim < 1 or x.shape[-1] != channels:
            raise ValueError(f"{name} must have shape {(*batch, channels)}, got {x.shape}")
        try:
            return jnp.broadcast_to(x, (*batch, channels)).astype(dtype)
        except ValueError:
            raise ValueError(f"{name} must have shape {(*batch, channels)}, got {x.shape}") from None

    h0 = jnp.zeros((*batch, channels), dtype) if h0 is None else state(h0, "h0")
    reset_state = h0 if reset_state is None else state(reset_state, "reset_state")
    if reset is not None:
        reset = jnp.asarray(reset)
        if reset.dtype != bool or reset.ndim < 1 or reset.shape[-1] != time:
            raise ValueError(f"reset must be bool {(*batch, time)}, got {reset.dtype} {reset.shape}")
        try:
            reset = jnp.broadcast_to(reset, (*batch, time))
        except ValueError:
            raise ValueError(f"reset must be bool {(*batch, time)}, got {reset.dtype} {reset.shape}") from None
    return _scan(method, reverse, op, h0, reset, reset_state)


def _canonical(op: Affine | Latch | Clamp) -> Affine | Latch | Clamp:
    """The operator with leaves of one shape (but a constant `a`), in at least single precision."""
    if not isinstance(op, Affine | Latch | Clamp):
        raise ValueError(f"op must be an Affine, Latch, Clamp or Relay, got {type(op).__name__}")
    fields = {name: jnp.asarray(x) for name, x in vars(op).items()}
    shapes = ", ".join(f"{name} {x.dtype} {x.shape}" for name, x in fields.items())
    constant = {"a"} if isinstance(op, Affine) and fields["a"].ndim == 1 and fields["b"].ndim > 1 else set()
    try:
        shape = jnp.broadcast_shapes(*(x.shape for x in fields.values()))
    except ValueError:
        raise ValueError(f"fields of {type(op).__name__} must broadcast to (..., T, N), got {shapes}") from None
    if len(shape) < 2 or shape[-2] < 1:
        raise ValueError(f"fields of {type(op).__name__} must have shape (..., T, N) with T >= 1, got {shapes}")
    floats = [x.dtype for name, x in fields.items() if not (name == "write" and x.dtype == bool)]
    if not all(jnp.issubdtype(d, jnp.inexact) for d in floats):
        raise ValueError(f"fields of {type(op).__name__} must be floating point, got {shapes}")
    dtype = jnp.result_type(*floats, jnp.float32)
    if isinstance(op, Clamp) and jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"the bounds of a Clamp must be real, got {shapes}")
    for name, x in fields.items():
        x = x if x.dtype == bool else x.astype(dtype)
        fields[name] = jnp.broadcast_to(x, shape[-1:] if name in constant else shape)
    return type(op)(**fields)


def _starts(op, h0, reset, reset_state, reverse):
    """Where a map is constant because a sequence begins there (T, 1) or (..., T, 1), and the state before it."""
    time = op.constant().shape[-2]
    first = (jnp.arange(time) == (time - 1 if reverse else 0))[:, None]
    if reset is None:
        return first, h0[..., None, :]
    flags = reset[..., None]
    return first | flags, jnp.where(flags, reset_state[..., None, :], h0[..., None, :])


def _previous(x, reverse):
    """`x` one step earlier in the direction of the scan; what comes in at its start is arbitrary (and finite)."""
    pad = jnp.zeros_like(x[..., :1, :])
    return jnp.concatenate([x[..., 1:, :], pad] if reverse else [pad, x[..., :-1, :]], -2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(method, reverse, op, h0, reset, reset_state):
    starts, state = _starts(op, h0, reset, reset_state, reverse)
    folded = op.fold(state, starts)
    if folded.constant().shape[-2] == 1:  # a single step, as in streaming: nothing to compose
        return folded.constant()
    return _METHODS[method](folded, reset, reverse)


def _scan_forward(method, reverse, op, h0, reset, reset_state):
    h = _scan(method, reverse, op, h0, reset, reset_state)
    return h, (op, h0, reset, reset_state, h)


def _scan_backward(method, reverse, residuals, g):
    op, h0, reset, reset_state, h = residuals
    starts, state = _starts(op, h0, reset, reset_state, reverse)
    before = jnp.where(starts, state, _previous(h, reverse))
    jacobian = op.jacobian(before)
    # g_t += J_{t+1} g_{t+1}, unless a sequence starts at t + 1: the same scan, in the other direction.
    ahead = jacobian if jacobian.ndim == 1 else _previous(jacobian, not reverse)
    cut = None if reset is None else _previous(reset[..., None], not reverse)[..., 0]
    if cut is not None and ahead.ndim > 1:
        # Folding the zero state in multiplies by it, and 0 * NaN of the sequence ahead would enter this one.
        ahead = jnp.where(cut[..., None], 0, ahead)
    zero = jnp.zeros_like(h0)
    g = _scan(method, not reverse, Affine(ahead, g), zero, cut, zero)
    first = -1 if reverse else 0
    h0_bar = (jacobian * g)[..., first, :]
    if reset is None:
        reset_bar = zero
    else:
        reset_bar = jnp.where(reset[..., None], jacobian * g, 0).sum(-2)
        h0_bar = jnp.where(reset[..., first, None], 0, h0_bar)
    return op.cotangent(before, g), h0_bar, None, reset_bar


_scan.defvjp(_scan_forward, _scan_backward)
