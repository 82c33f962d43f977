"""Where a scan runs: the arrays lie over the devices of a mesh, the time axis over those of its axis `seq`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from mru.engine import kernel
from mru.engine.steps import time_axis, time_of, varies
from mru.engine.vjp import compiled_scan, differentiable
from mru.operators import Operator
from mru.operators.base import State

# Mesh axes, where the mesh has them: the time axis is sharded over one, and the leading axis may be over the other.
_AXIS = "seq"
_BATCH = "data"


def run(
    method: str, reverse: bool, op: Operator, h0: State, reset_state: State | None, reset: Array | None
) -> State:  # fmt: skip
    """Every state, of arguments that were checked, computed where the arrays lie."""
    if (one := _of_a_type((op, h0, reset_state, reset))) is not None:
        with _its_mesh(one):
            return run(method, reverse, op, h0, reset_state, reset)
    op, h0, reset_state, reset = _aligned(op, h0, reset_state, reset)
    mesh = jax.sharding.get_abstract_mesh()
    sizes = dict(mesh.shape)
    time, size = time_of(op), sizes.get(_AXIS, 1)
    if size > 1 and _AXIS in mesh.manual_axes:  # inside a shard_map: what we hold is one part
        return _on_a_device(method, reverse, _AXIS, op, h0, reset_state, reset)
    axis_name = _AXIS if size > 1 and time > 1 else None
    if axis_name and time % size:
        raise ValueError(
            f"the time axis must be divisible by the {size} devices of mesh axis {_AXIS!r}, got T = {time}"
        )
    explicit = {name for name in mesh.explicit_axes if sizes[name] > 1}
    over = {axis_name} - {None}
    in_kernel = time > 1 and (method == "pallas" or (method == "auto" and kernel.on_cuda()))
    if in_kernel:
        # XLA does not see into a kernel, and would gather all sequences on every device.
        over |= explicit
        if _BATCH in mesh.auto_axes and time_axis(op) > 0:
            leading, devices = jax.tree.leaves(h0)[0].shape[0], sizes[_BATCH]
            over |= {_BATCH} if devices > 1 and leading % devices == 0 else set()
    if not over:
        return _on_a_device(method, reverse, None, op, h0, reset_state, reset)
    typed = bool(over & explicit)  # then the types say how an array lies, along all axes; else XLA sees to the others
    if typed:
        over |= set(mesh.explicit_axes)
    args = op, h0, reset_state, reset
    specs, out = _specs(args, axis_name, _BATCH if _BATCH in over and not typed else None, typed)
    return jax.shard_map(
        functools.partial(_on_a_device, method, reverse, axis_name),
        in_specs=specs,
        out_specs=out,
        axis_names=over,
        check_vma=not in_kernel,  # which its interpreter fails
    )(*(jax.tree.map(jax.sharding.reshard, args, specs) if typed else args))


def _of_a_type(args: Any) -> Any:
    """An array whose type says how it lies over a mesh, where none is set (`jax.set_mesh`)."""
    if not jax.sharding.get_abstract_mesh().empty:
        return None
    return next((x for x in jax.tree.leaves(args) if jax.typeof(x).sharding.mesh.explicit_axes), None)


def _its_mesh(x: Any) -> Any:
    """Sets the mesh of an array for a while."""
    if isinstance(x, jax.core.Tracer):
        return jax.sharding.use_abstract_mesh(jax.typeof(x).sharding.mesh)
    return jax.set_mesh(x.sharding.mesh)


def _specs(args: Any, over_time: str | None, over_batch: str | None, typed: bool) -> Any:
    """How each argument lies over the mesh, and the states that come out."""
    op, h0, reset_state, reset = args
    axis = time_axis(op)

    def spec(x: Array, batched: bool, timed: bool) -> PartitionSpec:
        axes = [*jax.typeof(x).sharding.spec] if typed else [None] * x.ndim
        if over_batch and batched and axis > 0:
            axes[0] = over_batch
        if over_time and timed:
            axes[axis] = over_time
        return PartitionSpec(*axes)

    leaves, tree = jax.tree.flatten(op)
    of_op = [spec(x, moves, moves) for x, moves in zip(leaves, varies(op), strict=True)]
    of_states = jax.tree.map(lambda x: spec(x, True, False), (h0, reset_state))
    out = jax.tree.map(
        lambda x: PartitionSpec(*x[:axis], over_time, *x[axis:]),
        of_states[0],
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
    return (jax.tree.unflatten(tree, of_op), *of_states, jax.tree.map(lambda x: spec(x, True, True), reset)), out


def _aligned(op: Operator, h0: State, reset_state: State | None, reset: Array | None) -> Any:
    """The arguments laid out alike, where the mesh has axes that are part of the types of arrays."""
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return op, h0, reset_state, reset
    axis, moving = time_axis(op), [x for x, moves in zip(jax.tree.leaves(op), varies(op), strict=True) if moves]
    specs = [jax.typeof(x).sharding.spec for x in moving]
    *batch, time, channels = max(specs, key=lambda spec: sum(name is not None for name in spec))[: axis + 2]

    def lay(x: Array, *names: Any) -> Array:
        return jax.sharding.reshard(x, PartitionSpec(*names, *[None] * (x.ndim - len(names))))

    leaves, tree = jax.tree.flatten(op)
    laid = [
        lay(x, *batch, time, channels) if moves else lay(x, *[channels][: x.ndim])
        for x, moves in zip(leaves, varies(op), strict=True)
    ]
    states = jax.tree.map(lambda x: lay(x, *batch, channels), (h0, reset_state))
    return jax.tree.unflatten(tree, laid), *states, jax.tree.map(lambda x: lay(x, *batch, time), reset)


def _on_a_device(
    method: str,
    reverse: bool,
    axis_name: str | None,
    op: Operator,
    h0: State,
    reset_state: State | None,
    reset: Array | None,
) -> State:
    """The scan of arguments that, inside a `shard_map`, all differ between the same devices.

    JAX tracks in the types what differs between devices, and a loop must not change the type of what it carries. The
    values of `like` are selected by a mask that is constantly false.
    """
    if method == "pallas" and (reason := kernel.obstacle(op)):  # asked here, of what one device holds
        raise ValueError(f"method 'pallas' can not run this: {reason}; method 'auto' would take another")
    if jax.sharding.get_abstract_mesh().manual_axes:
        axis = time_axis(op)
        leaves, tree = jax.tree.flatten(op)
        moving = next(x for x, moves in zip(leaves, varies(op), strict=True) if moves)
        # One number a sequence. Of complex ones, XLA aborts on the derivative where channels lie over devices as well.
        like = jax.lax.stop_gradient(moving[(slice(None),) * axis + (0,) * (moving.ndim - axis)])

        def vary(x: Array, batched: bool) -> Array:
            of_x = like.reshape(*like.shape, *[1] * (x.ndim - axis)) if batched else like.reshape(-1)[0]
            return jnp.where(jnp.zeros_like(of_x, dtype=bool), of_x.astype(x.dtype), x)

        op = jax.tree.unflatten(
            tree, [x if moves else vary(x, False) for x, moves in zip(leaves, varies(op), strict=True)]
        )
        h0, reset_state = jax.tree.map(lambda x: vary(x, True), (h0, reset_state))
    if method == "autodiff":
        return differentiable(reverse, axis_name, op, h0, reset_state, reset)
    return compiled_scan(method, reverse, axis_name, False, op, h0, reset_state, reset)[0]
