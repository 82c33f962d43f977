"""What the tests of the command line share: tiny configs, runs in this process and in others, what they leave."""

import atexit
import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
from compiling import XLA_FLAGS
from jax.experimental.compilation_cache import compilation_cache

import mru.training.checkpoint
import tasks
import train
from mru.training import command_line, devices, resume
from mru.training import trainer as trainers
from mru.training.batches import train_batches

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


def parse(argv):
    """The config of a command line."""
    return command_line.parse([str(a) for a in argv], tasks.REGISTRY)


def head_of(path):
    """What the comments of a config say, in one line."""
    return " ".join(line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))


def config_file(folder, text=TINY):
    path = pathlib.Path(folder) / "tiny.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def assert_refused(code, text, parts):
    lines = text.splitlines()
    assert code == 2, text
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 300, text
    assert lines[0].isprintable(), text
    for part in parts:
        assert part in lines[0]
    for noise in ("Traceback", "jsonargparse", "Parser key", "<class", "Union", "typing."):
        assert noise not in lines[0]


# One run that most tests below read: three cells, a ramp from step 10 to 20, and lengths to be streamed.
FULL = """\
task: {name: copy_first, length: 20, retention: [20, 1300], held_out: 20}
model: {cells: [bmru+lru+pmru], width: 8, state_size: 4, expansion: 1, positions: 2}
optimizer: {lr: 2.0e-2}
train:
  {steps: 40, batch_size: 8, eval_every: 5, log_every: 5, steps_per_dispatch: 5,
   schedules: {epsilon: {begin: 0.25, finish: 0.5}}}
"""


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(workdir):
    """metrics.jsonl without the times, which no two runs share."""
    return [{name: x for name, x in line.items() if name != "time"} for line in read(workdir / "metrics.jsonl")]


def scalars(workdir):
    """((step, tag), value) of each scalar in the TensorBoard events of a run."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in workdir.glob("events*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [((event.step, value.tag), value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def expected_scalars(workdir):
    """Those of the log, by step and tag."""
    lines = logged(workdir)
    return {(line["step"], f"{line['split']}/{k}"): line[k] for line in lines for k in line.keys() - {"step", "split"}}


def validations(log):
    return [line for line in log if line["split"] == "validation"]


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


def spawn(*argv, cache=None, devices=None, script=(str(ROOT / "train.py"),), cwd=None, modules=None):
    """`train.py` in a process group of its own, stdout and stderr in one pipe; `modules` come before installed ones."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))} | {"JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, modules) if modules else (ROOT,)))
    if cache is not None:
        env |= {name.upper(): str(cache if value is None else value) for name, value in COMPILING.items()}
    forced = "" if devices is None else f"--xla_force_host_platform_device_count={devices}"
    env["XLA_FLAGS"] = f"{XLA_FLAGS} {forced}".strip()
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
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


def arrays(workdir, step):
    """All arrays of a checkpoint by name: of the model, the optimiser and the step."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    folder, found = (workdir / "checkpoints" / str(step)).absolute(), {}
    with ocp.StandardCheckpointer() as reader:
        for item in ("model", "train"):
            # Without a target, Orbax asks for the devices that it was saved from.
            held = reader.metadata(folder / item).item_metadata.tree
            like = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for name, x in held.items()}
            found |= {name: np.asarray(x) for name, x in reader.restore(folder / item, like).items()}
    return found


def assert_same_arrays(a, b):
    """Bit for bit."""
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].tobytes() == b[name].tobytes(), name


def without(text, key):
    """JSON text without the value of a key, such as one that holds seconds."""
    return re.sub(rf'"{key}": (\{{[^}}]*\}}|[^,\n]*),?', "", text)


def finished_run():
    """(workdir, argv, epsilon at each save, what was said) of the finished run of `FULL`, which many tests read."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mru-finished-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    argv = ["--config", str(config_file(folder, FULL)), "--workdir", str(folder / "run")]
    epsilon = {}

    def save(writer, config, state, progress):
        epsilon[int(state.step)] = float(mru.training.checkpoint.flatten(state.rest)["blocks.0.cells.0.epsilon"])
        return real(writer, config, state, progress)

    real, resume.save = resume.save, save
    try:
        with compiled_in(folder / "cache"):
            code, said = main(*argv)
    finally:
        resume.save = real
    assert code == 0, said
    return folder / "run", argv, epsilon, said


def make_trainer(tmp_path, *argv, text=TINY):
    config = parse(["--config", str(config_file(tmp_path, text)), "--workdir", str(tmp_path / "w"), *argv])
    return trainers.Trainer(config, devices.make_mesh(config.mesh, config.train.batch_size))


def run_steps(trainer, number, dispatch=1):
    """The train state after so many steps, and the loss of each."""
    config, state, compiled, losses = trainer.config.train, trainer.initial(), None, []
    batches = train_batches(trainer.task, batch_size=config.batch_size, seed=config.seed, steps_per_batch=dispatch)
    with contextlib.closing(batches):
        for _ in range(number // dispatch):
            batch = trainer.place(next(batches), 1)
            compiled = compiled or trainer.compile(state, batch)
            state, metrics = compiled(state, batch)
            losses += np.asarray(metrics["loss"]).tolist()
    return state, losses


def spoil(folder, how):
    (values,) = (folder / "model/d").iterdir()  # so small a model fits into one file
    match how:
        case "array cut short":
            values.write_bytes(values.read_bytes()[: values.stat().st_size // 2])
        case "array overwritten":
            values.write_bytes(bytes(values.stat().st_size))
        case "array changed":
            data = bytearray(values.read_bytes())
            data[len(data) // 2] ^= 0xFF
            values.write_bytes(data)
        case "array missing":
            values.unlink()
        case "optimiser missing":
            shutil.rmtree(folder / "train")
        case "manifest overwritten":
            (folder / "model/manifest.ocdbt").write_bytes(bytes(40))
        case "progress cut short":
            path = folder / "about/metadata"
            path.write_text(path.read_text()[:20])
        case "progress missing":
            shutil.rmtree(folder / "about")
        case "everything missing":
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
