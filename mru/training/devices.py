"""Processes, devices, the mesh over them, and how parameters lie on it."""

from __future__ import annotations

import os
import pathlib
import platform
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mru.training import keeper, meeting, peers
from mru.training.messages import UserError
from mru.training.sections import DistributedConfig, MeshConfig

# What a launcher sets to the number of processes, and the launcher.
LAUNCHERS = {"SLURM_NTASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun"}


def start_processes(config: DistributedConfig) -> None:
    """Join the other processes where the config or a cluster's environment says that there are more.

    Raises:
        UserError: They did not meet, or the environment does not say where; the message says what to do.
    """
    if config.coordinator_address is not None:
        assert config.num_processes is not None
        assert config.process_id is not None
        address, count, number, local = config.coordinator_address, config.num_processes, config.process_id, None
    elif (variable := _launched()) is not None:
        address, count, number, local = _found(variable)
    else:
        return
    if count == 1:
        return  # JAX's runtime would be of no use, and take SIGTERM for itself
    peers.join(address, count, number)
    port = int(address.rpartition(":")[2])
    earlier = keeper.connections(port)  # those of our own, whose end is to be seen
    # JAX's heartbeat ends in a stack trace, after half of this at the earliest: ours comes first.
    heartbeat = round(4 * peers.HEARTBEAT)
    jax.distributed.initialize(address, count, number, local, heartbeat_timeout_seconds=heartbeat)
    if number == 0:
        keeper.keep(keeper.connections(port) - earlier)


def _launched() -> str | None:
    """The variable of the environment that says that there are more processes, if one does."""
    for variable, launcher in LAUNCHERS.items():
        value = os.environ.get(variable, "1")
        if not value.isdecimal():
            raise UserError(
                f"{variable} = {value[:50]!r}, allowed: an integer, as {launcher} sets it; unset it for one process"
            )
        if int(value) > 1:
            return variable
    return "TPU_WORKER_HOSTNAMES" if "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") else None


def _found(variable: str) -> tuple[str, int, int, Any]:
    """Address of process 0, number of processes, number of this one and its devices, None for all, on a cluster."""
    # JAX has no public name for this: `jax.distributed.initialize` tells nobody what it has found.
    from jax._src.clusters import ClusterEnv

    try:
        address, count, number, local = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, round(meeting.START)
        )
    except (KeyError, RuntimeError, ValueError):
        address = count = number = None
    if address is None or count is None or number is None:
        start = f"start it with {LAUNCHERS[variable]}, " if variable in LAUNCHERS else ""
        raise UserError(
            f"{variable} = {os.environ[variable][:50]}, but nothing says which process this is and where the others "
            f"are: {start}give it the fields of distributed, or unset {variable} for one process"
        )
    return address, count, number, local


def make_deterministic() -> None:
    """Let XLA choose only programs on a GPU that give the same bits each time; before JAX first asks for a device."""
    # It also keeps XLA from choosing by time which of several programs to take, which is seldom the same twice.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


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


def compiled(lowered: jax.stages.Lowered, mesh: Mesh) -> jax.stages.Compiled:
    """A program of many train steps, compiled: on one NVIDIA GPU it is one CUDA graph.

    Steps have hundreds of small kernels, such as those of the optimiser. In the graph they run side by side where none
    needs another's results, and none waits to be launched. What runs side by side does not share memory: where this
    takes more than half of a GPU's, the program is compiled without. Several devices communicate, which is left as XLA
    has it, as is what XLA_FLAGS say of command buffers, XLA's name for such graphs.
    """
    device = mesh.devices.flat[0]
    if mesh.size > 1 or device.platform != "gpu" or "command_buffer" in os.environ.get("XLA_FLAGS", ""):
        return lowered.compile()
    try:
        program = lowered.compile(
            compiler_options={
                "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
                "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE",
            }
        )
    except jax.errors.JaxRuntimeError as error:
        if "xla_gpu" in str(error):  # an XLA that has one of these options no more
            return lowered.compile()
        raise
    temporary, memory = program.memory_analysis(), device.memory_stats()
    if temporary and memory and temporary.temp_size_in_bytes > memory["bytes_limit"] / 2:
        return lowered.compile()
    return program
