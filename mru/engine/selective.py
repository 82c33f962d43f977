"""The scan of S6: outputs without states, which are N times as large and are kept nowhere but at the start of chunks.

A method is two functions, with one batch axis B and the channels D innermost:

    forward(given, reset, keep) -> outputs (B, T, D), the last state (B, N, D), and, if asked to keep it, the state
                                   before each chunk of steps, (B, T / chunk, N, D)
    pullback(given, reset, kept, g, g_last) -> the cotangents of `given`, from those of the outputs and the last state
"""

from __future__ import annotations

import functools
import logging
import math
import types
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from mru.engine import checks, selective_loop
from mru.engine.forward_mode import reverse_only
from mru.engine.kernel import on_cuda
from mru.engine.kernel import selective as selective_kernel
from mru.engine.selective_steps import Arguments, Maps
from mru.operators import Selective

_log = logging.getLogger(__name__)


def selective_scan(
    op: Selective,
    h0: Array | None = None,
    *,
    reset: Array | None = None,
    reset_state: Array | None = None,
    method: str = "auto",
) -> tuple[Array, Array]:
    """The outputs y_t = sum_n c_n h_n of h_t = exp(dt a) h_{t-1} + dt b x, and the last state.

    Nothing of the size of all states, (T, D, N), is stored in either pass: the coefficients are computed where they are
    used, and the backward pass computes the states again from those before each chunk of 16 steps, which take
    N / 16 times as much memory as `x`. Differentiable in reverse mode, once, in `op`, `h0` and `reset_state`.

    Args:
        op: The maps of all steps.
        h0: State before the first step, (..., D, N); zeros if None.
        reset: Boolean (..., T): true where a new sequence starts. The state before that step is `reset_state`, and
            nothing of the steps before it, NaN and infinity included, reaches past it.
        reset_state: (..., D, N); `h0` if None.
        method: "sequential" step by step, "pallas" one kernel on NVIDIA GPUs (interpreted without one, for tests), or
            "auto": the kernel on NVIDIA GPUs and step by step elsewhere, chosen at lowering.

    Returns:
        Outputs (..., T, D) and the state after the last step, (..., D, N), float32 (wider only if the input is).

    Raises:
        ValueError: A shape, dtype or method does not fit, or "pallas" is asked for what it can not run; the message
            gives the expected and the given one.
        TypeError: Forward-mode derivatives.

    Source: Gu and Dao 2023, arXiv 2312.00752.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, got {method!r}")
    if not isinstance(op, Selective):
        raise ValueError(f"op must be a Selective, got {type(op).__name__}")
    _check(op)
    op = cast(Selective, checks.operator(op))
    like = checks.zero_state(op)
    start = checks.state(h0, like, "h0")
    reset = None if reset is None else checks.reset(reset, op)
    reset_state = start if reset_state is None else checks.state(reset_state, like, "reset_state")
    if like.size == 0 or op.x.size == 0:
        return jnp.zeros(op.x.shape, like.dtype), start
    instead = "mru.scan with method='autodiff', which returns the states, and stores them; here is reverse mode only"
    op, start, reset_state = reverse_only((op, start, reset_state), "selective_scan", instead)
    given, reset = _flat(op, start, None if reset is None else reset_state, reset)
    y, last = _placed(method, given, reset)
    return y.reshape(op.x.shape), jnp.swapaxes(last, -1, -2).reshape(like.shape)


def _check(op: Selective) -> None:
    """Refuse fields whose channels or states do not fit each other."""
    if op.missing():
        return  # which is refused elsewhere
    shapes = {name: jnp.shape(value) for name, value in vars(op).items()}
    dt, a, b, c, x = shapes.values()
    if not (len(a) == 2 and dt[-1:] == x[-1:] == a[:1] and b[-1:] == c[-1:] == a[1:]):
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        expected = "dt and x (..., T, D), a (D, N), b and c (..., T, N)"
        raise ValueError(f"fields of a Selective must be {expected}, got {given}")


def _flat(op: Selective, h0: Array, reset_state: Array | None, reset: Array | None) -> tuple[Arguments, Array | None]:
    """What a method is given: one batch axis, and the channels innermost."""
    batch = math.prod(op.x.shape[:-2])

    def steps(x: Array) -> Array:
        return x.reshape(batch, *x.shape[-2:])

    maps = Maps(steps(op.dt), op.a.T, steps(op.b), steps(op.c), steps(op.x))
    h0, reset_state = jax.tree.map(lambda h: jnp.swapaxes(steps(h), 1, 2), (h0, reset_state))
    return Arguments(maps, h0, reset_state), None if reset is None else reset.reshape(batch, -1)


def _placed(method: str, given: Arguments, reset: Array | None) -> tuple[Array, Array]:
    """Outputs and the last state, each device scanning the sequences that it has."""
    mesh = jax.sharding.get_abstract_mesh()
    sizes = dict(mesh.shape)
    if "seq" in mesh.manual_axes and sizes["seq"] > 1:
        raise ValueError("selective_scan can not run on parts of the time axis, inside of a shard_map over 'seq'")
    in_kernel = method == "pallas" or (method == "auto" and on_cuda())
    devices = sizes["data"] if "data" in mesh.auto_axes else 1
    if not in_kernel or devices == 1 or len(given.h0) % devices:
        return _on_a_device(method, given, reset)
    # XLA does not see into a kernel, and would gather all sequences on every device.
    over, whole = PartitionSpec("data"), PartitionSpec()
    of_given, of_reset = jax.tree.map(lambda _: over, (given, reset))
    return jax.shard_map(
        functools.partial(_on_a_device, method),
        in_specs=(of_given._replace(maps=of_given.maps._replace(a=whole)), of_reset),
        out_specs=(over, over),
        axis_names={"data"},
        check_vma=False,  # which the kernel's interpreter fails
    )(given, reset)


def _on_a_device(method: str, given: Arguments, reset: Array | None) -> tuple[Array, Array]:
    if method == "pallas" and (reason := selective_kernel.obstacle(given)):
        raise ValueError(f"method 'pallas' can not run this: {reason}; method 'auto' would take another")
    return _scan(method, given, reset)


def _by_platform(name: str) -> Callable[..., Any]:
    def choose(given: Arguments, *args: Any) -> Any:
        methods: dict[str, Any] = {"default": selective_loop}
        if on_cuda():
            reason = selective_kernel.obstacle(given)
            if reason is None:
                methods["cuda"] = selective_kernel
            else:
                _fall_back(reason)
        # `platform_dependent` takes arrays only, so all arguments are bound before.
        return jax.lax.platform_dependent(
            **{on: functools.partial(getattr(m, name), given, *args) for on, m in methods.items()}
        )

    return choose


@functools.cache  # once a reason
def _fall_back(reason: str) -> None:
    _log.warning("selective_scan falls back from its kernel to its loop on GPU: %s", reason)


METHODS: dict[str, Any] = {
    "auto": types.SimpleNamespace(forward=_by_platform("forward"), pullback=_by_platform("pullback")),
    "sequential": selective_loop,
    "pallas": selective_kernel,
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(method: str, given: Arguments, reset: Array | None) -> tuple[Array, Array]:
    y, last, _ = METHODS[method].forward(given, reset, False)
    return y, last


def _scan_forward(method: str, given: Arguments, reset: Array | None) -> Any:
    y, last, kept = METHODS[method].forward(given, reset, True)
    return (y, last), (given, reset, kept)


def _scan_backward(method: str, residuals: Any, cotangents: tuple[Array, Array]) -> tuple[Arguments, None]:
    given, reset, kept = residuals
    bars = METHODS[method].pullback(given, reset, kept, *cotangents)
    return jax.tree.map(lambda bar, x: bar.astype(x.dtype), bars, given), None


_scan.defvjp(_scan_forward, _scan_backward)
