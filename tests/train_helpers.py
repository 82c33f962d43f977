"""What the tests of the command line share: tiny configs, runs in this process and in others, what they leave."""

import contextlib
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.compilation_cache import compilation_cache

import mru.training.checkpoint
import train

# Most of the time of a tiny run is compiling: keep what is compiled, and let XLA try less hard.
COMPILING = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_disable_most_optimizations": True,
}
ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = """\
task: {name: copy_first, length: 20, retention: [], held_out: 20}
model: {cells: [pmru], width: 8, state_size: 4, expansion: 0}
optimizer: {lr: 1.0e-2}
train: {steps: 20, batch_size: 8, eval_every: 10, log_every: 5}
"""


def main(*argv):
    """`train.main` in this process: the exit code and what it wrote to stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    text = io.StringIO()
    try:
        with contextlib.redirect_stderr(text):
            code = train.main([str(a) for a in argv])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, text.getvalue()


def config_file(folder, text=TINY):
    path = pathlib.Path(folder) / "tiny.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@contextlib.contextmanager
def compiled_in(folder):
    """Keep the programs that this process compiles in a folder, for itself and for others."""
    defaults = dict(zip(COMPILING, (os.environ["JAX_COMPILATION_CACHE_DIR"], 1.0, 0, False)))  # not all can be read
    try:
        for name, value in COMPILING.items():
            jax.config.update(name, str(folder) if value is None else value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in defaults.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def spawn(*argv, cache=None, devices=None, script=(str(ROOT / "train.py"),), cwd=None):
    """`train.py` in a process group of its own, stdout and stderr in one pipe."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))} | {"JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = str(ROOT)
    if cache is not None:
        env |= {name.upper(): str(cache if value is None else value) for name, value in COMPILING.items()}
    if devices is not None:
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *script, *map(str, argv)],
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(*processes, timeout=600):
    """Exit codes and outputs of processes that should end by themselves; none of them outlives this."""
    until = time.monotonic() + timeout
    try:
        outputs = [p.communicate(timeout=max(1, until - time.monotonic()))[0] for p in processes]
    finally:
        kill(*processes)
    return [(p.returncode, output) for p, output in zip(processes, outputs)]


def kill(*processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def wait_for(condition, *processes, timeout=600):
    """Wait until `condition()` holds; False if a process ended before it did."""
    until = time.monotonic() + timeout
    while not condition():
        if any(p.poll() is not None for p in processes):
            return False
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)
    return True


def steps(workdir):
    """Steps of the checkpoints that are whole."""
    with mru.training.checkpoint.manager(workdir) as checkpoints:
        return sorted(checkpoints.all_steps())


def arrays(workdir, step):
    """All arrays of a checkpoint by name: of the model, the optimiser and the step."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with mru.training.checkpoint.manager(workdir) as checkpoints:
        # Without a target, Orbax asks for the devices that it was saved from.
        like = {}
        for item in ("model", "train"):
            held = ocp.StandardCheckpointer().metadata(checkpoints.directory / str(step) / item).item_metadata
            like[item] = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for n, x in held.tree.items()}
        found, _ = mru.training.checkpoint.restore(checkpoints, step, **like)
    return {name: np.asarray(x) for item in ("model", "train") for name, x in found[item].items()}


def assert_same_arrays(a, b):
    """Bit for bit."""
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].tobytes() == b[name].tobytes(), name


def without(text, key):
    """JSON text without the value of a key, such as one that holds seconds."""
    return re.sub(rf'"{key}": (\{{[^}}]*\}}|[^,\n]*),?', "", text)
