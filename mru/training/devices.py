"""Processes, devices, the mesh over them, and how parameters lie on it."""

from __future__ import annotations

import os
import pathlib
import platform
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mru.training.messages import UserError
from mru.training.sections import DistributedConfig, MeshConfig


def start_processes(config: DistributedConfig) -> None:
    """Join JAX's distributed runtime where the config or a cluster's environment says that there are more processes."""
    if config.coordinator_address is not None:
        jax.distributed.initialize(config.coordinator_address, config.num_processes, config.process_id)
    elif any(int(os.environ.get(name, 1)) > 1 for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")) or (
        "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    ):
        jax.distributed.initialize()


def keep_programs() -> None:
    """Keep compiled programs between runs, unless JAX was told where to (`JAX_COMPILATION_CACHE_DIR`)."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        # Programs for CPU use the instructions of the machine that compiled them, so no two machines share a folder.
        jax.config.update("jax_compilation_cache_dir", str(cache / "mru" / platform.node()))


def make_mesh(config: MeshConfig, batch_size: int) -> Mesh:
    """The mesh (data, seq, model) over all devices.

    Raises:
        UserError: There is no such mesh of these devices, or the batch can not be split over it.
    """
    count, local, inner = jax.device_count(), jax.local_device_count(), config.seq * config.model
    data = count // inner if config.data == -1 else config.data
    if data * inner != count or local % inner:
        raise UserError(
            f"mesh = data {config.data} x seq {config.seq} x model {config.model}, allowed: a product of {count}, the "
            f"number of devices, and seq x model a divisor of the {local} of each process"
        )
    if batch_size % data:
        raise UserError(f"train.batch_size = {batch_size}, allowed: a multiple of the {data} devices on mesh axis data")
    shape = {"data": data, "seq": config.seq, "model": config.model}
    return jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=(jax.sharding.AxisType.Auto,) * 3)


def parameter_shardings(mesh: Mesh, tree: Any) -> Any:
    """Shardings of a tree of arrays: the last axis of every matrix over mesh axis `model` where it divides."""
    size = mesh.shape["model"]

    def sharding(x: Any) -> NamedSharding:
        split = size > 1 and x.ndim >= 2 and x.shape[-1] % size == 0
        return NamedSharding(mesh, P(*[None] * (x.ndim - 1), "model") if split else P())

    return jax.tree.map(sharding, tree)
