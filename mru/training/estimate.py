"""What a run needs of memory for sure, and what there is, before anything is compiled or allocated.

All needs are lower bounds: a run that is refused could not have been. A step keeps, on each device,

    the parameters and the two moments of AdamW, and all gradients at once where they are clipped by their common norm;
    for the backward pass, of each block one array (batch, time, width) at least, also where it is computed again;
    two elements of the stream of batches, one in use and one made ahead;

and on the host each process makes one of these. A point of the retention curve takes all inputs of its first examples.
What else XLA and the cells keep, nothing here knows.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

import mru.cells
from mru.training.devices import parameter_shardings
from mru.training.messages import UserError
from mru.training.task import Task

if TYPE_CHECKING:
    from mru.training.config import Config

# Examples of a point of the retention curve that are made at a time.
RETENTION_ROWS = 16
PARAMETERS, ACTIVATIONS, BATCHES = "parameters, gradients and moments", "activations", "batches"
# By what is needed: the settings that make it smaller.
SMALLER = {
    PARAMETERS: "model.width, model.state_size or model.expansion",
    ACTIVATIONS: "train.batch_size, model.width or the length of the task",
    BATCHES: "train.batch_size, train.steps_per_dispatch or the length of the task",
}


def check_cells(config: Config) -> None:
    """Whether the host can make the cells of a config; no device is asked for.

    Raises:
        UserError: It can not, as a constructor needs more memory beside the parameters.
    """
    model, limit = config.model, host_memory()
    for name in dict.fromkeys(model.names):
        options = model.options.get(name, {})
        kind = mru.cells.get(name)
        # What else a package may have given the name to is refused, with a reason, as the model is made.
        needed = kind.host_bytes(model.width, model.state_size, **options) if issubclass(kind, mru.cells.Cell) else 0
        if limit is not None and needed > limit:
            raise UserError(
                f"model.state_size = {model.state_size}: to make {name}, at least {size(needed)} of host memory are "
                f"needed, of which there are {size(limit)}; lower it, or see the options of {name} in --help"
            )


def check(config: Config, mesh: Mesh) -> None:
    """Whether this process and its devices have the memory that a run takes for sure.

    Raises:
        UserError: They do not; the message says what is needed, what there is, and which settings to lower.
        MissingData: The data set of the task has not been prepared.
    """
    element = config.train.batch_size * config.train.dispatch() * example(config.task)
    on_device = {
        PARAMETERS: parameters(config, mesh), ACTIVATIONS: activations(config, mesh), BATCHES: 2 * element // mesh.size,
    }  # fmt: skip
    devices, host = jax.local_devices(), host_memory()
    if devices[0].platform == "cpu":
        here = mesh.size // jax.process_count()
        on_host = {name: here * needed for name, needed in on_device.items()}
    else:
        on_host = {BATCHES: element // jax.process_count()}
        stats = [device.memory_stats() or {} for device in devices]
        limits = [held["bytes_limit"] for held in stats if "bytes_limit" in held]
        _require("each device", on_device, min(limits, default=None))
    _require("the host", on_host, host)
    for length in config.task.retention:
        needed = RETENTION_ROWS * example(config.task.at(length))
        if host is not None and needed > host:
            raise UserError(
                f"task.retention has {length:,}: its first {RETENTION_ROWS} examples need {size(needed)} of host "
                f"memory, of which there are {size(host)}; leave it out"
            )


def _require(where: str, needs: dict[str, int], limit: int | None) -> None:
    total, largest = sum(needs.values()), max(needs, key=needs.__getitem__)
    if limit is not None and total > limit:
        parts = ", ".join(f"{size(needed)} for {name}" for name, needed in needs.items())
        raise UserError(
            f"a train step needs at least {size(total)} of memory on {where}, which has {size(limit)}: {parts}; "
            f"lower {SMALLER[largest]}"
        )


def parameters(config: Config, mesh: Mesh) -> int:
    """Bytes of parameters, moments and gradients on one device."""
    _, params, _ = nnx.split(nnx.eval_shape(lambda: config.make_model(nnx.Rngs(0))), nnx.Param, ...)  # type: ignore[misc]
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(parameter_shardings(mesh, params)), strict=True)
    held = sum(math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize for x, sharding in pairs)
    return held * (3 if config.optimizer.clip is None else 4)


def activations(config: Config, mesh: Mesh) -> int:
    """Bytes of one array (batch, time, width) a block, on one device."""
    values = len(config.model.blocks) * config.train.batch_size * config.task.length * config.model.width
    return values * (2 if config.model.dtype == "bfloat16" else 4) // math.prod(mesh.shape.values())


def example(task: Task) -> int:
    """Bytes of an example on the host; none is made."""
    arrays = task.examples("train", np.zeros(0, np.int64)).values()
    return sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in arrays)


def host_memory() -> int | None:
    """Bytes that this process may take, in memory and in swap; None if that is not known."""
    limits, swap = group_limits(pathlib.Path("/")), 0
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        found = pathlib.Path("/proc/meminfo").read_text().split()
        swap = 1024 * int(found[found.index("SwapTotal:") + 1])
    except (AttributeError, OSError, ValueError):  # not on Linux
        pass
    return min(limits) + swap if limits else None


def group_limits(root: pathlib.Path) -> list[int]:
    """Bytes that the control groups of this process (version 2 or 1), and those around them, leave it.

    Args:
        root: Root of the file system.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        unified = kinds == ""
        if not unified and "memory" not in kinds.split(","):
            continue
        # Inside of a container the path may be that of the host, and the container's own group is at the top.
        group = pathlib.PurePosixPath(path.lstrip("/"))
        for folder in (group, *group.parents):
            place = root / "sys/fs/cgroup" / ("" if unified else "memory") / folder
            with contextlib.suppress(OSError):
                text = (place / ("memory.max" if unified else "memory.limit_in_bytes")).read_text().strip()
                limits += [int(text)] if text != "max" else []
    return limits


def size(count: int) -> str:
    """A number of bytes in words, such as 1.5 GiB."""
    power = min(max(count.bit_length() - 1, 0) // 10, 6)
    return f"{count / 2 ** (10 * power):.4g} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power]}"
