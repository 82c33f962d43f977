"""The same run on one device, on several, and in several processes: the same losses and parameters up to rounding."""

import json
import signal
import socket
import time

import numpy as np
import pytest
from train_helpers import arrays, compiled_in, config_file, end, kill, main, spawn, steps, wait_for

pytestmark = pytest.mark.slow

# float32 sums in another order; Adam divides by a root of them, so small gradients show it first.
LOSS = {"rtol": 1e-4, "atol": 1e-5}
PARAMETERS = {"rtol": 1e-3, "atol": 1e-4}

TEXT = """\
task: {name: copy_first, length: 20, retention: [30], held_out: 20}
model: {cells: [lru+bmru], width: 8, state_size: 4, expansion: 0, dropout: 0.1}
optimizer: {lr: 3.0e-3}
train: {steps: 30, batch_size: 16, eval_every: 10, log_every: 5, steps_per_dispatch: 5,
        schedules: {epsilon: {begin: 0.0, finish: 0.3}}}
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """(config, cache of compiled programs, workdir) of the run in one process on one device."""
    folder = tmp_path_factory.mktemp("one")
    config = config_file(folder, TEXT)
    with compiled_in(folder / "cache"):
        code, said = main("--config", config, "--workdir", folder / "run", "--mesh.data", "1")
    assert code == 0, said
    return config, folder / "cache", folder / "run"


def read(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_close(workdir, reference):
    ours, theirs = read(workdir), read(reference)
    assert [(a["step"], a["split"]) for a in ours] == [(b["step"], b["split"]) for b in theirs]
    for a, b in zip(ours, theirs):
        if a["split"] == "inside":  # a rounding may take a candidate over its threshold
            numbers = [{k: v for k, v in line.items() if k != "time" and k != "split"} for line in (a, b)]
            assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.02)
            continue
        for name in ("loss", "mse"):
            np.testing.assert_allclose(a[name], b[name], err_msg=f"{name} at {a['step']}", **LOSS)
    assert steps(workdir) == steps(reference)
    for step in steps(reference):
        a, b = arrays(workdir, step), arrays(reference, step)
        assert a.keys() == b.keys()
        for name in b:
            np.testing.assert_allclose(a[name], b[name], err_msg=f"{name} at {step}", **PARAMETERS)
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (workdir, reference))
    for name in ("parameters", "steps", "best_step", "cells", "seed"):
        assert a[name] == b[name]
    for name in ("validation", "test", "retention"):
        assert a[name].keys() == b[name].keys()
        np.testing.assert_allclose(list(a[name].values()), list(b[name].values()), err_msg=name, **LOSS)


SHARDED = """
import sys
import jax
import train
from jax.sharding import PartitionSpec as P

config, folder = sys.argv[1:]
seen = {}
real = train.Trainer.initial


def initial(self):
    state = real(self)
    leaves = jax.tree.leaves(state.params)
    seen["sharded"] = sum(not x.sharding.is_fully_replicated for x in leaves)
    seen["seq"] = self.mesh.shape["seq"]
    seen["shapes"] = sorted({(x.shape, x.addressable_shards[0].data.shape) for x in leaves if x.ndim == 2})
    return state


train.Trainer.initial = initial
for name, axes in {"data": {"data": 8}, "model": {"data": 4, "model": 2}, "seq": {"data": 2, "seq": 4}}.items():
    mesh = [x for axis, size in axes.items() for x in (f"--mesh.{axis}", str(size))]
    assert train.main(["--config", config, "--workdir", f"{folder}/{name}", *mesh]) == 0
    assert seen["seq"] == axes.get("seq", 1)
    print(name, seen["sharded"], ((8, 4), (8, 2 if name == "model" else 4)) in seen["shapes"], flush=True)
"""


def test_eight_devices_train_like_one(one, tmp_path):
    """The batch over all eight, over four with the last axis of the matrices over two, over two with time over four."""
    config, cache, reference = one
    ((code, said),) = end(spawn(config, tmp_path, script=("-c", SHARDED), devices=8, cache=cache))
    assert code == 0, said
    assert "data 0 True" in said
    sharded, fits = said.partition("\nmodel ")[2].split()[:2]
    assert int(sharded) >= 6
    assert fits == "True"
    assert "Traceback" not in said
    for name in ("data", "model", "seq"):
        assert json.loads((tmp_path / name / "summary.json").read_text())["device"] == "8 x cpu"
        assert_close(tmp_path / name, reference)


def pair(*argv, cache, **spawning):
    """Two processes of one run, that talk over a port that was free just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ["--distributed.coordinator_address", f"127.0.0.1:{port}", "--distributed.num_processes", "2"]
    return [spawn(*argv, *together, "--distributed.process_id", i, cache=cache, **spawning) for i in (0, 1)]


def test_two_processes_train_like_one_and_resume_after_a_kill_and_a_stop(one, tmp_path):
    config, cache, reference = one
    workdir = tmp_path / "run"
    argv = ["--config", config, "--workdir", workdir]

    def saved(step):
        return lambda: (workdir / f"checkpoints/{step}").exists()

    both = pair(*argv, cache=cache)  # killed once a checkpoint is there
    try:
        assert wait_for(saved(10), *both), end(*both)
    finally:
        kill(*both)
    assert not (workdir / "summary.json").exists()

    results = end(*pair(*argv, cache=cache))
    for number, (code, said) in enumerate(results):
        assert code == 0, said
        assert "Traceback" not in said
        assert ("resumed at step" in said) == (number == 0)
        assert ("best step" in said) == (number == 0)
    assert_close(workdir, reference)
    assert json.loads((workdir / "summary.json").read_text())["device"] == "2 x cpu"
    assert len(list(workdir.glob("events*"))) <= 2  # those of process 0, before the kill and after

    results = end(*pair(*argv, cache=cache))
    assert [code for code, _ in results] == [0, 0]
    assert "is complete" in results[0][1]


def test_two_processes_stop_together(one, tmp_path):
    """One of them is told to; both save, after the same call of several steps, and end."""
    config, cache, _ = one
    workdir = tmp_path / "run"
    # So many steps that they are not done before the signal.
    argv = ["--config", config, "--workdir", workdir, "--train.steps", "5000", "--train.eval_every", "5000"]
    both = pair(*argv, cache=cache)
    try:
        assert wait_for(lambda: (workdir / "metrics.jsonl").is_file() and len(read(workdir)) > 1, *both), end(*both)
        both[1].terminate()
    finally:
        results = end(*both)
    for number, (code, said) in enumerate(results):
        assert code == 0, said
        assert "Traceback" not in said
        assert ("and saved; the same command goes on from here" in said) == (number == 0)
    (stopped,) = steps(workdir)
    assert 5 <= stopped < 5000
    assert stopped % 5 == 0
    before = read(workdir)
    assert stopped - 5 < before[-1]["step"] <= stopped
    assert not (workdir / "summary.json").exists()


IMPATIENT = """
import sys
import train
from mru.training import peers

peers.HEARTBEAT = 4
sys.exit(train.main())
"""


@pytest.mark.parametrize(
    ("number", "sign", "why"),
    [
        (1, signal.SIGKILL, "died without a word (killed, or out of memory?)"),
        (0, signal.SIGKILL, "died without a word (killed, or out of memory?)"),
        (1, signal.SIGSTOP, "has been silent for 4 s"),
    ],
)
def test_when_one_is_lost_the_other_says_so_and_ends(one, tmp_path, number, sign, why):
    """Though JAX would abort it with a stack trace, or let it wait in a collective operation."""
    config, cache, _ = one
    argv = ["--config", config, "--workdir", tmp_path / "run", "--train.steps", "5000", "--train.eval_every", "5000"]
    both = pair(*argv, cache=cache, script=("-c", IMPATIENT))
    log = tmp_path / "run/metrics.jsonl"
    try:
        assert wait_for(lambda: log.is_file() and log.stat().st_size, *both), end(*both)
        began = time.monotonic()
        both[number].send_signal(sign)
        ((code, said),) = end(both[1 - number], timeout=60)
        assert time.monotonic() - began < 15
    finally:
        kill(*both)
    assert code == 1
    (line,) = (line for line in said.splitlines() if "error" in line)
    who = f"process {number} ({socket.gethostname()}, pid {both[number].pid})"
    assert line == f"error: {who} {why}; all end, and the same command goes on from the last checkpoint"
    assert "Traceback" not in said
    assert "stack trace" not in said


ERRORS = """
import sys
import train


def mistake(*_):
    raise train.UserError("no room")


def surprise(*_):
    raise KeyError("no such thing")


if sys.argv[-1] == "1":
    match sys.argv.pop(1):
        case "mistake":
            train.workdir.prepare = mistake
        case "surprise":
            train.Trainer = surprise
else:
    del sys.argv[1]
sys.exit(train.main())
"""


@pytest.mark.parametrize("kind", ["mistake", "surprise"])
def test_when_one_has_an_error_the_other_says_so_and_ends(one, tmp_path, kind):
    config, cache, _ = one
    both = pair(kind, "--config", config, "--workdir", tmp_path / "run", cache=cache, script=("-c", ERRORS))
    zero, first = end(*both, timeout=60)
    name = f"process 1 ({socket.gethostname()}, pid {both[1].pid})"
    if kind == "mistake":
        for code, said in (zero, first):
            assert code == 2
            assert said.splitlines()[-1] == f"error: {name}: no room"
            assert "Traceback" not in said
    else:
        assert zero[0] == first[0] == 1
        assert f"error: {name} ended with: KeyError 'no such thing'; all end, " in zero[1]
        assert "Traceback" not in zero[1]
        assert first[1].splitlines()[-1] == "KeyError: 'no such thing'"
