"""The front door `scan`, its checks, and the one custom VJP behind every method.

A method is three functions:

    states(op, h0, reset, reset_state, reverse, keep) -> h, and, if asked to keep them as `encoded`, what is kept
    pullback(op, h0, reset, reset_state, reverse, h, g) -> the cotangents of (op, h0, reset_state)
    composed(build, arrays, cut, reverse) -> the composition of all maps `build(arrays)`, and if one was at a cut

`reset` and `reset_state` may be None; the fields of `op` may be of lower precision than the states. `h` is what was
kept of the states: themselves, or their int8 code.
"""

from __future__ import annotations

import functools
import logging
import types
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine import associative, kernels, sequential, sharded
from mru.engine.adjoint import cotangents, decoded, states_before, time_of, widen
from mru.operators import Affine, Latch, Operator, Relay

_log = logging.getLogger(__name__)

# Mesh axes, where the mesh has them: the time axis is sharded over one, and the leading axis may be over the other.
_AXIS = "seq"
_BATCH = "data"


def _by_platform(name):
    def choose(*args):
        methods = {"cpu": sequential, "default": associative}
        if kernels.on_cuda():
            reason = kernels.obstacle(args[0]) if isinstance(args[0], Operator) else None
            if reason is None:
                methods["cuda"] = kernels
            else:
                _fall_back(reason)
        # Only arrays may be operands of the choice, and nothing here depends on which they are.
        return jax.lax.platform_dependent(
            **{on: functools.partial(getattr(m, name), *args) for on, m in methods.items()}
        )

    return choose


@functools.cache  # once a reason
def _fall_back(reason):
    _log.warning("mru.scan falls back from its kernel to jax.lax.associative_scan on GPU: %s", reason)


_AUTO = types.SimpleNamespace(**{name: _by_platform(name) for name in ("states", "pullback", "composed")})
_METHODS = {"auto": _AUTO, "sequential": sequential, "associative": associative, "pallas": kernels}


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

    Differentiable in `op`, `h0` and `reset_state`, in reverse mode and to any order, by a custom VJP: the adjoint of
    every operator is one affine scan in the other direction, and only the states are stored for it; those of a `Relay`
    without a leak as int8, so that its second derivatives do not go through them.

    `method="auto"` picks by platform, at lowering: "sequential" on CPU, "pallas" (one kernel) on NVIDIA GPUs and
    "associative" elsewhere. The rule is measured, in results/benchmarks/scan-cpu.json and scan-gpu.json. Where the
    kernel can not run an operator, "associative" takes its place and the logger `mru.engine.front` says why.

    Over a mesh with an axis `seq` (`jax.set_mesh`, or inside a `shard_map` over it) the time axis lies spread over its
    devices: each composes its own maps, all gather these, and each scans its part. What is communicated does not grow
    with T. Inside a `shard_map` the arguments are this device's parts, but `h0`, which is before the whole sequence.

    Args:
        op: `Affine`, `Latch`, `Clamp`, `Relay` or `Play` with fields (..., T, N), T >= 1; half-precision fields are
            accumulated in float32. An `Affine.a` of shape (N,) is constant in time.
        h0: State before the first step, (..., N); zeros if None.
        reset: Boolean (..., T): true where a new sequence starts. The state before that step is `reset_state`, and
            nothing of the steps before it, NaN and infinity included, reaches past it.
        reset_state: (..., N); `h0` if None.
        reverse: Run from the last step to the first. "Before" and "starts" are then meant in that direction.
        method: "auto", "sequential", "associative" or "pallas". Without a GPU the last is interpreted, for tests.

    Returns:
        h: (..., T, N), every state, float32 or complex64 (wider only if the input is).

    Raises:
        ValueError: A shape, dtype or method does not fit, T is not divisible by the devices of `seq`, or "pallas" is
            asked for what it can not run; the message gives the expected and the given one.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {sorted(_METHODS)}, got {method!r}")
    op, dtype = _canonical(op)
    *batch, time, channels = max((x.shape for x in jax.tree.leaves(op)), key=len)

    def state(x, name):
        x = jnp.asarray(x)
        if x.ndim < 1 or x.shape[-1] != channels:
            raise ValueError(f"{name} must have shape {(*batch, channels)}, got {x.shape}")
        if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise ValueError(f"{name} must be real, as the fields are, got {x.dtype}")
        try:
            return jnp.broadcast_to(x, (*batch, channels)).astype(dtype)
        except ValueError:
            raise ValueError(f"{name} must have shape {(*batch, channels)}, got {x.shape}") from None

    h0 = state(jnp.zeros(channels) if h0 is None else h0, "h0")
    reset_state = h0 if reset_state is None else state(reset_state, "reset_state")
    if reset is None:
        reset_state = None
    else:
        reset = jnp.asarray(reset)
        if reset.dtype != bool or reset.ndim < 1 or reset.shape[-1] != time:
            raise ValueError(f"reset must be bool {(*batch, time)}, got {reset.dtype} {reset.shape}")
        try:
            reset = jnp.broadcast_to(reset, (*batch, time))
        except ValueError:
            raise ValueError(f"reset must be bool {(*batch, time)}, got {reset.dtype} {reset.shape}") from None
    if h0.size == 0:
        return jnp.zeros((*batch, time, channels), dtype)
    return _place(method, reverse, *_aligned(op, h0, reset_state, reset))


def _canonical(op: Any) -> tuple[Any, jnp.dtype]:
    """The operator with leaves of one shape (but those constant in time), and the dtype of its states."""
    if not isinstance(op, Operator):
        raise ValueError(f"op must be an Affine, Latch, Clamp, Relay or Play, got {type(op).__name__}")
    if missing := [name for name, x in vars(op).items() if x is None and name != "leak"]:
        raise ValueError(f"fields of {type(op).__name__} must be arrays, got None as {', '.join(missing)}")
    fields = {name: jnp.asarray(x) for name, x in vars(op).items() if x is not None}
    scalars = {"leak", "width"} & fields.keys() if isinstance(op, Relay) else set()
    shapes = ", ".join(f"{name} {x.dtype} {x.shape}" for name, x in fields.items() if name not in scalars)
    for name in scalars:
        if fields[name].ndim:
            raise ValueError(f"{name} of a Relay must be a scalar, got shape {fields[name].shape}")
    constant = {"a"} if isinstance(op, Affine) and fields["a"].ndim == 1 and fields["b"].ndim > 1 else set()
    try:
        shape = jnp.broadcast_shapes(*(x.shape for x in fields.values()))
    except ValueError:
        raise ValueError(f"fields of {type(op).__name__} must broadcast to (..., T, N), got {shapes}") from None
    if len(shape) < 2 or shape[-2] < 1:
        raise ValueError(f"fields of {type(op).__name__} must have shape (..., T, N) with T >= 1, got {shapes}")
    floats = [x for name, x in fields.items() if name not in scalars and not (name == "write" and x.dtype == bool)]
    if not all(jnp.issubdtype(x.dtype, jnp.inexact) for x in floats):
        raise ValueError(f"fields of {type(op).__name__} must be floating point, got {shapes}")
    dtype = jnp.result_type(*floats, jnp.float32)
    if not isinstance(op, Affine | Latch) and jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"fields of {type(op).__name__} must be real, got {shapes}")
    for name, x in fields.items():
        if name in scalars:
            fields[name] = x.astype(dtype)
        else:
            if isinstance(op, Affine) and jnp.issubdtype(dtype, jnp.complexfloating):
                x = x.astype(dtype)  # a real field beside a complex one
            fields[name] = jnp.broadcast_to(x, shape[-1:] if name in constant else shape)
    return type(op)(**fields), dtype


def _aligned(op, h0, reset_state, reset):
    """The arguments laid out alike, where the mesh has axes that are part of the types of arrays."""
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return op, h0, reset_state, reset
    spread = [jax.typeof(x).sharding.spec for x in jax.tree.leaves(op) if x.ndim >= 2]
    *batch, time, channels = max(spread, key=lambda spec: sum(axis is not None for axis in spec))

    def lay(x, *axes):
        return jax.sharding.reshard(x, jax.sharding.PartitionSpec(*axes[len(axes) - x.ndim :]))

    return (
        jax.tree.map(lambda x: lay(x, *batch, time, channels), op),
        *jax.tree.map(lambda x: lay(x, *batch, channels), (h0, reset_state)),
        jax.tree.map(lambda x: lay(x, *batch, time), reset),
    )


def _place(method, reverse, op, h0, reset_state, reset):
    """Run where the arrays lie: over the devices of the mesh axis `seq`, where there are several."""
    mesh = jax.sharding.get_abstract_mesh()
    sizes = dict(mesh.shape)
    time, size = time_of(op), sizes.get(_AXIS, 1)
    if size > 1 and _AXIS in mesh.manual_axes:  # inside a shard_map: what we hold is one part
        return _varied(method, reverse, _AXIS, op, h0, reset_state, reset)
    axis = _AXIS if size > 1 and time > 1 else None
    if axis and time % size:
        raise ValueError(
            f"the time axis must be divisible by the {size} devices of mesh axis {_AXIS!r}, got T = {time}"
        )
    explicit = {name for name in mesh.explicit_axes if sizes[name] > 1}
    over = {axis} - {None}
    kernel = time > 1 and (method == "pallas" or (method == "auto" and kernels.on_cuda()))
    if kernel:
        # XLA does not see into a kernel, and would gather all sequences on every device.
        over |= explicit
        if _BATCH in mesh.auto_axes and h0.ndim > 1 and len(h0) % sizes[_BATCH] == 0 and sizes[_BATCH] > 1:
            over.add(_BATCH)
    if not over:
        return _varied(method, reverse, None, op, h0, reset_state, reset)
    typed = bool(over & explicit)  # then the types say how an array lies, along all axes; else XLA sees to the others
    if typed:
        over |= set(mesh.explicit_axes)

    def spec(x, time_axis):
        axes = [*jax.typeof(x).sharding.spec] if typed else [None] * x.ndim
        if _BATCH in over and not typed and x.ndim > 1:
            axes[0] = _BATCH
        if axis and time_axis is not None:
            axes[time_axis] = axis
        return jax.sharding.PartitionSpec(*axes)

    args = op, h0, reset_state, reset
    specs = (
        jax.tree.map(lambda x: spec(x, -2 if x.ndim >= 2 else None), op),
        *jax.tree.map(lambda x: spec(x, None), (h0, reset_state)),
        jax.tree.map(lambda x: spec(x, -1), reset),
    )
    return jax.shard_map(
        functools.partial(_varied, method, reverse, axis),
        in_specs=specs,
        out_specs=max(jax.tree.leaves(specs[0]), key=len),
        axis_names=over,
        check_vma=not kernel,  # which its interpreter fails
    )(*(jax.tree.map(jax.sharding.reshard, args, specs) if typed else args))


def _varied(method, reverse, axis, op, h0, reset_state, reset):
    """`_scan` of arguments that, inside a `shard_map`, all differ between the same devices.

    JAX tracks in the types what differs between devices, and a loop must not change the type of what it carries. The
    values of `like` are selected by a mask that is constantly false.
    """
    if method == "pallas" and (reason := kernels.obstacle(op)):  # asked here, of what one device holds
        raise ValueError(f"method 'pallas' can not run this: {reason}; method 'auto' would take another")
    if jax.sharding.get_abstract_mesh().manual_axes:
        like = max(jax.tree.leaves(op), key=jnp.ndim)[..., 0, :]

        def vary(x):
            like_x = like.reshape(-1, like.shape[-1])[0] if x.ndim == 1 else like
            return jnp.where(jnp.zeros_like(like_x, dtype=bool), like_x.astype(x.dtype), x)

        op = jax.tree.map(lambda x: vary(x) if x.ndim == 1 else x, op)
        h0, reset_state = jax.tree.map(vary, (h0, reset_state))
    return _compiled(method, reverse, axis, False, op, h0, reset_state, reset)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _scan(method, reverse, axis, keep, op, h0, reset_state, reset):
    h0 = _first(method, reverse, axis, op, h0, reset_state, reset)
    if time_of(op) == 1:  # a single step, as in streaming: nothing to compose
        before = states_before(h0[..., None, :], h0, reset, reset_state, reverse)
        return widen(op, h0.dtype).apply(before), None
    return _METHODS[method].states(op, h0, reset, reset_state, reverse, keep)


def _first(method, reverse, axis, op, h0, reset_state, reset):
    """The state that what this device holds starts from."""
    if axis is None:
        return h0
    return sharded.first_state(_METHODS[method].composed, op, h0, reset, reset_state, reverse, axis)


def _scan_forward(method, reverse, axis, keep, op, h0, reset_state, reset):
    h0 = _first(method, reverse, axis, op, h0, reset_state, reset)
    # By its own VJP again, for derivatives of higher order.
    h, code = _scan(method, reverse, None, True, op, h0, reset_state, reset)
    return (h, code if keep else None), (op, h0, reset_state, reset, h if code is None else code)


def _scan_backward(method, reverse, axis, keep, residuals, cotangent):
    op, h0, reset_state, reset, h = residuals
    g, last = cotangent[0], 0 if reverse else -1
    if axis is not None:
        composed = _METHODS[method].composed
        states = decoded(h, h0, reset_state)
        later = sharded.first_cotangent(composed, op, h0, reset, reset_state, reverse, states, g, axis)
        g = g.at[..., last, :].add(later)
    op_bar, h0_bar, reset_bar = _compiled_pullback(method, reverse, op, h0, reset_state, reset, h, g)
    if axis is not None:
        # Only the first device starts from h0; the others passed theirs on above.
        index, size = jax.lax.axis_index(axis), jax.lax.axis_size(axis)
        h0_bar = jnp.where(index == (size - 1 if reverse else 0), h0_bar, 0)
    return op_bar, h0_bar, reset_bar, None


_scan.defvjp(_scan_forward, _scan_backward)
# Outside of any `jit`, a loop would be compiled again in every call.
_compiled = jax.jit(_scan, static_argnums=(0, 1, 2, 3), inline=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pullback(method, reverse, op, h0, reset_state, reset, h, g):
    if time_of(op) == 1:
        return cotangents(op, states_before(h, h0, reset, reset_state, reverse), g, reset, reverse)
    return _METHODS[method].pullback(op, h0, reset, reset_state, reverse, h, g)


def _pullback_forward(method, reverse, *args):
    return _pullback(method, reverse, *args), args


def _pullback_backward(method, reverse, args, g):
    """Derivatives of the second order and above: those of the associative form, which JAX can differentiate itself."""
    op, h0, reset_state, reset, h, h_bar = args

    def plain(op, h0, reset_state, h, h_bar):
        return associative.pullback(op, h0, reset, reset_state, reverse, h, h_bar)

    *bars, h_bar, g_bar = jax.vjp(plain, op, h0, reset_state, h, h_bar)[1](g)
    return *bars, None, h_bar, g_bar


_pullback.defvjp(_pullback_forward, _pullback_backward)
_compiled_pullback = jax.jit(_pullback, static_argnums=(0, 1), inline=True)
