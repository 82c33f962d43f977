import contextlib
import functools
import json
import os
import platform
import random
import shutil
import signal
import struct
import time
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import yaml
from flax import nnx
from train_helpers import (
    TINY,
    arrays,
    assert_same_arrays,
    compiled_in,
    config_file,
    end,
    kill,
    main,
    spawn,
    steps,
    wait_for,
)

import mru
import mru.training.checkpoint
import tasks
import train
from mru.cells import StateParam
from mru.training.batches import train_batches
from mru.training.config import parse
from tasks.base import Task

# Orbax reads the arrays of a checkpoint at once; where one can not be read, it leaves the others to an event loop that
# is closed already.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")

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


def validations(log):
    return [line for line in log if line["split"] == "validation"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Where compiled programs are kept: most runs below are of a few programs."""
    folder = tmp_path_factory.mktemp("cache")
    with compiled_in(folder):
        yield folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, argv, epsilon at each save, what was said) of the finished run of `FULL`."""
    folder = tmp_path_factory.mktemp("finished")
    argv = ["--config", str(config_file(folder, FULL)), "--workdir", str(folder / "run")]
    epsilon = {}

    def save(checkpoints, config, state, *rest):
        epsilon[int(state.step)] = float(mru.training.checkpoint.flatten(state.rest)["blocks.0.cells.0.epsilon"])
        return real(checkpoints, config, state, *rest)

    real, train.save = train.save, save
    try:
        code, said = main(*argv)
    finally:
        train.save = real
    assert code == 0, said
    return folder / "run", argv, epsilon, said


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of that run to spoil, and the command that goes on with it."""
    workdir, argv, *_ = finished
    shutil.copytree(workdir, tmp_path / "run")
    return tmp_path / "run", [*argv[:2], "--workdir", str(tmp_path / "run")]


@pytest.fixture
def registry(monkeypatch):
    """Tasks defined in a test are known in that test alone."""
    monkeypatch.setattr(Task, "registry", dict(Task.registry))


def make_trainer(tmp_path, *argv, text=TINY):
    config = parse(["--config", str(config_file(tmp_path, text)), "--workdir", str(tmp_path / "w"), *argv])
    return train.Trainer(config, train.make_mesh(config.mesh, config.train.batch_size))


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


# --------------------------------------------------------------------------------------------- what a run leaves behind


def test_what_a_run_leaves(finished):
    workdir, argv, *_ = finished
    names = {path.name.split(".")[0] for path in workdir.iterdir()}
    assert names == {"config", "metrics", "events", "summary", "checkpoints", "plots"}
    assert {path.name for path in (workdir / "plots").iterdir()} == {"learning.png", "retention.png"}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in (workdir / "plots").iterdir())
    assert yaml.safe_load((workdir / "config.yaml").read_text()) == parse(argv).resolved


def test_the_summary(finished):
    workdir, argv, *_ = finished
    summary = json.loads((workdir / "summary.json").read_text())
    promised = "task cells parameters steps seed validation test retention seconds steps_per_second device versions"
    assert {*promised.split(), "command", "commit", "best_step", "metric", "chance"} <= set(summary)
    assert summary["task"] == {"name": "copy_first", "seed": 0, "retention": [20, 1300], "held_out": 20, "length": 20}
    assert summary["cells"] == ["bmru+lru+pmru"]
    assert (summary["steps"], summary["seed"], summary["metric"], summary["chance"]) == (40, 0, "mse", 1.0)
    model = mru.load(workdir)
    assert summary["parameters"] == sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert list(summary["retention"]) == ["20", "1300"]
    assert set(summary["seconds"]) == {"wall", "compile"}
    assert 0 < summary["seconds"]["compile"] < summary["seconds"]["wall"]
    assert summary["steps_per_second"] > 0
    assert summary["device"] == "1 x cpu"
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["command"] == " ".join(["python", "train.py", *argv])


def test_the_loss_falls(finished):
    log = [line for line in read(finished[0] / "metrics.jsonl") if line["split"] == "train"]
    assert [line["step"] for line in log] == list(range(5, 41, 5))
    assert all(set(line) == {"step", "split", "loss", "mse", "gradient_norm"} for line in log)
    assert all(line["mse"] == line["loss"] for line in log)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_events_are_those_of_the_log(finished):
    from tensorboardX.proto.event_pb2 import Event

    (path,) = finished[0].glob("events*")
    data, found = path.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    log = read(finished[0] / "metrics.jsonl")
    expected = {
        (line["step"], f"{line['split']}/{k}"): line[k] for line in log for k in line.keys() - {"step", "split"}
    }
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_leak_goes_from_one_to_exactly_zero(finished):
    workdir, _, epsilon, _ = finished
    assert list(epsilon) == list(range(5, 41, 5))
    assert [epsilon[step] for step in (5, 10)] == [1.0, 1.0]
    assert epsilon[15] == pytest.approx(0.5)
    assert [epsilon[step] for step in (20, 25, 30, 35, 40)] == [0.0] * 5
    assert float(mru.load(workdir, 40).blocks[0].cells[0].epsilon[...]) == 0.0
    assert float(mru.load(workdir, 40).blocks[0].cells[0].width[...]) == 1.0  # no schedule moves it


def test_the_leak_is_that_of_the_step(tmp_path, monkeypatch):
    """Each step trains with the value of its own number, counted from 0."""
    seen = []
    real = train.mru.SequenceModel.__call__

    def call(model, *args, **kwargs):
        jax.debug.callback(lambda x: seen.append(float(x)), model.blocks[0].cells[0].epsilon[...])
        return real(model, *args, **kwargs)

    monkeypatch.setattr(train.mru.SequenceModel, "__call__", call)
    ramp = ["--train.schedules.epsilon", "{begin: 0.1, finish: 0.3}"]
    state, _ = run_steps(make_trainer(tmp_path, "--model.cells", "bmru", *ramp), 8)
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert seen == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25, 0, 0])


def test_nothing_is_selected_before_the_leak_has_gone(finished):
    log = validations(read(finished[0] / "metrics.jsonl"))
    assert [line["step"] for line in log] == [20, 25, 30, 35, 40]


def test_the_best_validation_is_selected(finished):
    workdir, *_ = finished
    log = validations(read(workdir / "metrics.jsonl"))
    summary = json.loads((workdir / "summary.json").read_text())
    best = min(line["mse"] for line in log)
    chosen = [line for line in log if line["mse"] == best][-1]
    assert summary["best_step"] == chosen["step"]
    for name in ("loss", "mse"):
        assert summary["validation"][name] == pytest.approx(chosen[name], rel=1e-6)
        assert summary["last_validation"][name] == log[-1][name]
    assert steps(workdir) == sorted({35, 40, chosen["step"]})


def test_the_test_metric_is_that_of_the_loaded_model(finished):
    workdir, argv, *_ = finished
    summary, task, model = json.loads((workdir / "summary.json").read_text()), parse(argv).task, mru.load(workdir)
    for split in ("validation", "test"):
        examples = task.examples(split, np.arange(20))
        outputs, _ = model(jnp.asarray(examples["inputs"]))
        expected = np.mean((np.asarray(outputs, np.float64) - examples["targets"]) ** 2)
        assert summary[split]["mse"] == pytest.approx(expected, rel=1e-5)


def test_retention_is_what_one_call_over_the_whole_sequence_gives(finished):
    workdir, argv, *_ = finished
    summary, model = json.loads((workdir / "summary.json").read_text()), mru.load(workdir)
    for length in (20, 1300):  # the longer one was streamed in chunks of 300 and 1000
        examples = parse(argv).task.at(length).examples("test", np.arange(20))
        outputs, _ = model(jnp.asarray(examples["inputs"]))
        expected = np.mean((np.asarray(outputs, np.float64) - examples["targets"]) ** 2)
        assert summary["retention"][str(length)] == pytest.approx(expected, rel=1e-4)


def test_what_is_said(finished):
    said = finished[3]
    assert "copy_first with bmru+lru+pmru: " in said
    assert "sequence length T     1,300: test mse" in said
    assert "summary.json" in said
    assert "Traceback" not in said
    assert "warning" not in said


def test_the_same_command_again_says_that_it_is_complete(finished):
    workdir, argv, *_ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    code, said = main(*argv)
    assert code == 0
    assert said.count("\n") == 1
    assert "is complete" in said
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


# -------------------------------------------------------------------------------------------------- loading checkpoints


def test_load_gives_the_arrays_of_the_checkpoint(finished):
    workdir, *_ = finished
    best = json.loads((workdir / "summary.json").read_text())["best_step"]
    for step, model in ((best, mru.load(workdir)), (35, mru.load(workdir, 35)), (40, mru.load(str(workdir), step=40))):
        held = arrays(workdir, step)
        found = mru.training.checkpoint.flatten(nnx.state(model))
        assert found.keys() == {name for name in held if not name.startswith("[")}
        assert_same_arrays({name: np.asarray(x) for name, x in found.items()}, {name: held[name] for name in found})


def test_load_without_a_summary_takes_the_newest(copied):
    workdir, _ = copied
    (workdir / "summary.json").unlink()
    found = mru.training.checkpoint.flatten(nnx.state(mru.load(workdir)))
    held = arrays(workdir, 40)
    assert_same_arrays({name: np.asarray(x) for name, x in found.items()}, {name: held[name] for name in found})


def test_load_of_what_is_not_there(finished, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no checkpoints"):
        mru.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no step 7; steps there: \[.*35, 40\]"):
        mru.load(finished[0], 7)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no step None; steps there: \[\]"):
        mru.load(tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    "model", [{"inputs": 1, "outputs": 1, "cells": ["lru"], "hook": "os.system"}, {"cells": ["os.system"]}, None]
)
def test_a_crafted_checkpoint_is_refused(copied, model):
    workdir, _ = copied
    path = workdir / "checkpoints/40/about/metadata"
    about = json.loads(path.read_text())
    assert set(about) == {"model", "task", "progress"}
    path.write_text(json.dumps({"model": model} if model else {"progress": {}}))
    with pytest.raises(ValueError, match="40 holds no model of this version"):
        mru.load(workdir, 40)


def test_checkpoints_hold_no_pickles(finished):
    files = [path for path in (finished[0] / "checkpoints").rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        data = path.read_bytes()
        assert path.suffix not in (".pkl", ".pickle", ".npy", ".npz", ".pt")
        assert not (data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05")
        assert b"cnumpy" not in data
        assert b"__reduce__" not in data


def test_of_equal_metrics_the_latest_is_kept(tmp_path):
    """The rule of `train.selected`, and that of the folder, must be one, or the best would be deleted."""
    for goal, values in (("min", [3, 1, 2, 1, 2, 3, 2]), ("max", [1, 3, 2, 3, 2, 1, 2])):
        progress, task = {"best": None, "since_best": 0}, type("T", (), {"goal": goal})
        with mru.training.checkpoint.manager(tmp_path / goal, "m", goal) as checkpoints:
            for step, value in enumerate(values, 1):
                progress |= train.selected(task, progress, float(value), step)
                mru.training.checkpoint.save(
                    checkpoints,
                    step,
                    model={"a": jnp.ones(1)},
                    train={"b": jnp.ones(1)},
                    about={},
                    metrics={"m": float(value)},
                )
            checkpoints.wait_until_finished()
        assert (progress["best_step"], progress["since_best"]) == (4, 3)
        assert steps(tmp_path / goal) == [4, 6, 7]


# ------------------------------------------------------------------------------------------------------- the train step


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The trainer of `TINY`, its state after ten steps, and their losses."""
    trainer = make_trainer(tmp_path_factory.mktemp("plain"))
    return trainer, *run_steps(trainer, 10)


def test_steps_in_one_dispatch_are_the_same_steps(plain):
    trainer, state, losses = plain
    together, same = run_steps(trainer, 10, dispatch=5)
    np.testing.assert_allclose(same, losses, rtol=1e-5)
    assert int(together.step) == int(state.step) == 10
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), together.params, state.params)


def test_a_train_step_by_hand(plain):
    """Loss and gradient of the model on that very batch, and the update that the optimiser makes of them."""
    trainer, _, losses = plain
    state = trainer.initial()

    @jax.jit
    def gradient_of(params, rest, batch):
        def loss(params):
            outputs, _ = nnx.merge(trainer.graphdef, params, rest)(batch["inputs"])
            return jnp.mean((outputs - batch["targets"]) ** 2)

        return jax.value_and_grad(loss)(params)

    with contextlib.closing(train_batches(trainer.task, batch_size=8, seed=0)) as batches:
        for expected in losses[:3]:
            value, gradient = gradient_of(state.params, state.rest, {name: x[0] for name, x in next(batches).items()})
            assert float(value) == pytest.approx(expected, rel=1e-5)
            updates, optimizer = trainer.transform.update(gradient, state.optimizer, state.params)
            params = optax.apply_updates(state.params, updates)
            state = train.TrainState(params, state.rest, optimizer, state.step + 1)


def test_rematerialised_blocks_are_the_same_blocks(plain, tmp_path):
    _, losses = run_steps(make_trainer(tmp_path, "--model.remat", "true"), 10)
    np.testing.assert_allclose(losses, plain[2], rtol=1e-4)


def test_bfloat16_computes_coarsely_and_keeps_float32(plain, tmp_path):
    state, losses = run_steps(make_trainer(tmp_path, "--model.dtype", "bfloat16"), 10)
    np.testing.assert_allclose(losses, plain[2], rtol=0.1)
    assert not np.allclose(losses, plain[2], rtol=1e-5)
    assert {x.dtype for x in jax.tree.leaves((state.params, state.rest))} <= {jnp.dtype("float32")}


def test_dropout_is_of_seed_and_step_and_only_in_training(plain, tmp_path):
    trainer = make_trainer(tmp_path, "--model.dropout", "0.5", "--model.expansion", "1")
    state, losses = run_steps(trainer, 4)
    assert run_steps(trainer, 4)[1] == losses
    # The same batch twice at two steps: the masks differ.
    step = jax.jit(trainer._step)
    with contextlib.closing(train_batches(trainer.task, batch_size=8, seed=0)) as batches:
        batch = {name: x[0] for name, x in next(batches).items()}
    first = trainer.initial()
    later = train.TrainState(first.params, first.rest, first.optimizer, first.step + 1)
    values = [float(step(s, batch)[1]["loss"]) for s in (first, later)]
    assert values[0] == pytest.approx(losses[0], rel=1e-5)
    assert abs(values[0] - values[1]) > 1e-3
    assert trainer.evaluate(state, "validation") == trainer.evaluate(state, "validation")
    examples = trainer.task.examples("validation", np.arange(20))
    outputs, _ = nnx.merge(trainer.graphdef, state.params, state.rest)(examples["inputs"])
    expected = float(np.mean((np.asarray(outputs) - examples["targets"]) ** 2))
    assert trainer.evaluate(state, "validation")["mse"] == pytest.approx(expected, rel=1e-5)


def test_the_seed_draws_parameters_and_examples(plain, tmp_path):
    other = make_trainer(tmp_path, "--train.seed", "1").initial().params
    same = [bool(jnp.all(a == b)) for a, b in zip(*map(jax.tree.leaves, (other, plain[0].initial().params)))]
    assert not all(same)


def test_the_learning_rate_warms_up_and_decays(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(mru, "adamw", lambda rate, **kwargs: given.update(kwargs, rate=rate) or optax.sgd(0.1))
    options = "--train.steps 200 --optimizer.lr 0.5 --optimizer.warmup 0.1 --optimizer.final 0.2 --optimizer.clip 3"
    options += " --optimizer.weight_decay 0.3 --optimizer.state_lr_factor 0.4 --optimizer.b1 0.8 --optimizer.b2 0.99"
    make_trainer(tmp_path, *options.split())
    rate = [float(given["rate"](step)) for step in range(201)]
    assert rate[0] == pytest.approx(0.005)
    assert rate[10] == pytest.approx(0.005 + 0.495 / 2, rel=1e-4)
    assert rate[20] == max(rate) == pytest.approx(0.5)
    assert rate[110] == pytest.approx(0.1 + 0.4 * 0.5, rel=1e-3)  # half of the cosine
    assert rate[200] == pytest.approx(0.1)
    assert np.all(np.diff(rate[:21]) > 0)
    assert np.all(np.diff(rate[20:]) < 0)
    del given["rate"]
    assert given == {"weight_decay": 0.3, "state_lr_factor": 0.4, "clip": 3.0, "b1": 0.8, "b2": 0.99}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("schedule", [False, True], ids=["constant", "schedule"])
def test_adamw_by_hand(clip, schedule):
    class Module(nnx.Module):
        def __init__(self):
            draw = np.random.default_rng(0).standard_normal
            self.matrix = nnx.Param(jnp.asarray(draw((3, 4)), jnp.float32))
            self.vector = nnx.Param(jnp.asarray(draw(4), jnp.float32))
            self.state_matrix = StateParam(jnp.asarray(draw((2, 3)), jnp.float32))
            self.state_vector = StateParam(jnp.asarray(draw(3), jnp.float32))

    lr, decay, factor, b1, b2 = 0.1, 0.2, 0.3, 0.8, 0.9
    rate = (lambda count: lr / (1 + count)) if schedule else lr
    params = nnx.state(Module(), nnx.Param)
    transform = mru.adamw(rate, weight_decay=decay, state_lr_factor=factor, clip=clip, b1=b1, b2=b2)
    optimizer = transform.init(params)
    expected = {path[-1]: np.asarray(leaf[...], np.float64) for path, leaf in nnx.to_flat_state(params)}
    moments = {name: (np.zeros_like(x), np.zeros_like(x)) for name, x in expected.items()}
    rng = np.random.default_rng(1)
    for step in (1, 2, 3):
        gradient = {name: rng.standard_normal(x.shape) for name, x in expected.items()}
        flat = [(path, leaf.replace(jnp.float32(gradient[path[-1]]))) for path, leaf in nnx.to_flat_state(params)]
        updates, optimizer = transform.update(nnx.from_flat_state(flat), optimizer, params)
        params = optax.apply_updates(params, updates)
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        for name, g in gradient.items():
            g = g * min(1, clip / norm) if clip else g
            m, v = moments[name]
            m, v = moments[name] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            update = m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + 1e-8)
            update = update + decay * expected[name] if name == "matrix" else update
            at = lr / step if schedule else lr
            expected[name] = expected[name] - at * (factor if name.startswith("state") else 1) * update
    for path, leaf in nnx.to_flat_state(params):
        np.testing.assert_allclose(leaf[...], expected[path[-1]], rtol=2e-4, atol=1e-6, err_msg=path[-1])


# ------------------------------------------------------------------------------------------------------ tasks of a test


def padded_task():
    @dataclass(frozen=True)
    class Padded(tasks.base.Generated, name="padded"):
        """The target is the last number before the padding, which holds something else."""

        length: ClassVar[int] = 9
        features: ClassVar[int] = 1
        outputs: ClassVar[int] = 1
        pooling: ClassVar[str] = "last"
        metric: ClassVar[str] = "absolute"
        goal: ClassVar[str] = "min"
        chance: ClassVar[float] = 1.0

        def _examples(self, split, indices):
            draws = [stream.uniform(-1, 1, 9) for stream in self._streams(split, indices)]
            inputs = np.array(draws, np.float32).reshape(-1, 9, 1)
            lengths = (3 + indices % 5).astype(np.int32)
            targets = inputs[np.arange(len(indices)), lengths - 1]
            inputs = np.where(np.arange(9)[:, None] < lengths[:, None, None], inputs, np.float32(50))
            return {"inputs": inputs, "targets": targets, "lengths": lengths}

        def loss(self, outputs, batch):
            return jnp.square(outputs - batch["targets"])[:, 0]

        def metrics(self, outputs, batch):
            return {"absolute": jnp.abs(outputs - batch["targets"])[:, 0]}

    return Padded()


def test_a_new_task_with_padded_examples(registry, tmp_path):
    task = padded_task()
    text = "task: {name: padded, held_out: 12}\n" + TINY.partition("\n")[2].replace("pmru", "lru")
    code, said = main("--config", config_file(tmp_path, text), "--workdir", tmp_path / "w")
    assert code == 0, said
    log, summary = read(tmp_path / "w/metrics.jsonl"), json.loads((tmp_path / "w/summary.json").read_text())
    assert [line["step"] for line in log if line["split"] == "train"] == [10, 20]
    assert summary["retention"] == {}
    assert [path.name for path in (tmp_path / "w/plots").iterdir()] == ["learning.png"]
    examples, errors = task.examples("test", np.arange(12)), []
    model = mru.load(tmp_path / "w")
    apply = jax.jit(lambda x: model(x)[0][0])
    for x, y, n in zip(examples["inputs"], examples["targets"], examples["lengths"]):
        errors.append(abs(float(apply(jnp.asarray(x[:n]))) - y[0]))
    assert summary["test"]["absolute"] == pytest.approx(np.mean(errors), rel=1e-4)


@dataclass(frozen=True)
class Listed(Task):
    """400 numbered examples; one of them may be spoilt, and validation may ask for the opposite of training."""

    spoilt: int = -1
    spoilt_validation: bool = False
    opposite: bool = False
    steep: bool = False

    length: ClassVar[int] = 4
    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 1
    pooling: ClassVar[str] = "last"
    metric: ClassVar[str] = "mse"
    goal: ClassVar[str] = "min"
    chance: ClassVar[float] = 1.0
    sizes: ClassVar[dict[str, int]] = {"train": 400, "validation": 8, "test": 8}

    def _examples(self, split, indices):
        inputs = np.broadcast_to((indices / 400).astype(np.float32)[:, None, None], (len(indices), 4, 1)).copy()
        targets = np.full((len(indices), 1), -1.0 if self.opposite and split != "train" else 1.0, np.float32)
        if split == "train":
            targets[indices == self.spoilt] = np.nan
        if split == "validation" and self.spoilt_validation:
            targets[:] = np.nan
        return {"inputs": inputs, "targets": targets}

    def loss(self, outputs, batch):
        square = jnp.square(outputs - batch["targets"])[:, 0]
        return square + jnp.sqrt(0 * outputs[:, 0]) if self.steep else square  # 0, with a slope of 0 times infinity

    def metrics(self, outputs, batch):
        return {"mse": self.loss(outputs, batch)}


def listed(tmp_path, *argv):
    type("Listed", (Listed,), {"__module__": __name__}, name="listed")
    text = "task: {name: listed}\nmodel: {cells: [lru], width: 4, state_size: 2, expansion: 0}\n"
    text += "train: {steps: 30, batch_size: 8, eval_every: 5, log_every: 7}\n"
    return ["--config", config_file(tmp_path, text), "--workdir", tmp_path / "w", *argv]


def test_training_stops_early_when_nothing_gets_better(registry, tmp_path):
    argv = listed(tmp_path, "--task.opposite", "true", "--train.patience", "3")
    code, said = main(*argv)
    assert code == 0, said
    summary = json.loads((tmp_path / "w/summary.json").read_text())
    log = validations(read(tmp_path / "w/metrics.jsonl"))
    assert [line["step"] for line in log] == [5, 10, 15, 20]
    assert log == sorted(log, key=lambda line: line["mse"])
    assert (summary["best_step"], summary["steps"]) == (5, 20)
    assert summary["validation"]["mse"] == pytest.approx(log[0]["mse"], rel=1e-6)
    assert steps(tmp_path / "w") == [5, 15, 20]
    model = mru.load(tmp_path / "w")
    outputs = model(jnp.asarray(Listed().examples("test", np.arange(8))["inputs"]))[0]
    assert summary["test"]["mse"] == pytest.approx(float(np.mean((np.asarray(outputs) + 1) ** 2)), rel=1e-5)
    # Resuming would not read the best checkpoint, the report has to.
    spoil(tmp_path / "w/checkpoints/5", "array missing")
    (tmp_path / "w/summary.json").unlink()
    code, said = main(*argv)
    assert code == 2
    assert said.splitlines()[-1].startswith(f"error: workdir = {tmp_path / 'w'}: its best checkpoint 5 is damaged")


def test_training_stops_at_a_loss_that_is_not_finite(registry, tmp_path):
    with contextlib.closing(train_batches(Listed(), batch_size=8, seed=0)) as batches:
        index = [round(float(next(batches)["inputs"][0, 3, 0, 0]) * 400) for _ in range(13)][-1]
    argv = listed(tmp_path, "--task.spoilt", index)
    for _ in range(2):  # and again from the checkpoint
        code, said = main(*argv)
        assert code == 1
        last = said.splitlines()[-1]
        assert last.startswith("error: ")
        assert "not finite at step 13;" in last
        assert last.endswith(str(tmp_path / "w/checkpoints/10"))
        assert "Traceback" not in said
        assert steps(tmp_path / "w") == [5, 10]
        assert not (tmp_path / "w/summary.json").exists()
    assert all(np.all(np.isfinite(x)) for x in arrays(tmp_path / "w", 10).values())


def test_training_stops_at_a_gradient_that_is_not_finite(registry, tmp_path):
    """The loss of that very step is still finite, the next would not be."""
    code, said = main(*listed(tmp_path, "--task.steep", "true"))
    assert code == 1
    assert "not finite at step 1; last good checkpoint: none was saved yet" in said.splitlines()[-1]


def test_training_stops_at_a_validation_that_is_not_finite(registry, tmp_path):
    code, said = main(*listed(tmp_path, "--task.spoilt_validation", "true"))
    assert code == 1
    assert "not finite at step 5; last good checkpoint: none was saved yet" in said.splitlines()[-1]


def test_a_diverging_run_stops(registry, tmp_path):
    code, said = main(*listed(tmp_path, "--optimizer.lr", "1e30", "--optimizer.warmup", "0"))
    assert code == 1
    assert "not finite at step" in said.splitlines()[-1]
    assert "Traceback" not in said


# ---------------------------------------------------------------------------------------------------- compiled programs


def test_compiled_programs_are_kept_where_jax_was_told_or_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = jax.config.jax_compilation_cache_dir
    train.keep_programs()
    assert jax.config.jax_compilation_cache_dir == known
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        train.keep_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mru" / platform.node())
    finally:
        jax.config.update("jax_compilation_cache_dir", known)


# -------------------------------------------------------------------------------------------------- damaged checkpoints


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


DAMAGE = ["array cut short", "array overwritten", "array changed", "array missing", "manifest overwritten"]
DAMAGE += ["optimiser missing", "progress cut short", "progress missing", "everything missing"]


@pytest.fixture(scope="module")
def fresh(finished):
    """The state before the first step of the finished run: what `resume` restores into."""
    config = parse(finished[1])
    return train.Trainer(config, train.make_mesh(config.mesh, config.train.batch_size)).initial()


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(how, copied, fresh, capsys):
    workdir, _ = copied
    expected = arrays(workdir, 35)
    spoil(workdir / "checkpoints/40", how)
    with mru.training.checkpoint.manager(workdir, "mse", "min") as checkpoints:
        state, progress = train.resume(checkpoints, fresh, workdir)
        assert 40 not in checkpoints.all_steps()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "warning: checkpoint 40 is damaged" in said
    assert int(state.step) == 35
    found = {name: np.asarray(x) for item in train._arrays(state).values() for name, x in item.items()}
    assert_same_arrays(found, expected)
    assert progress["wall"] > 0
    assert [path.name.partition("-")[0] for path in (workdir / "damaged").iterdir()] == ["40"]


def test_a_run_with_a_damaged_checkpoint_ends_as_if_nothing_had_happened(copied, finished):
    """Also: the last line of the log was cut short, and lines after the checkpoint are there already."""
    workdir, argv = copied
    spoil(workdir / "checkpoints/40", "array cut short")
    (workdir / "summary.json").unlink()
    log = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").write_text(log[:-30])
    code, said = main(*argv)
    assert code == 0, said
    assert "warning: checkpoint 40 is damaged" in said
    assert "resumed at step 35" in said
    assert (workdir / "metrics.jsonl").read_text() == log
    assert_same_arrays(arrays(workdir, 40), arrays(finished[0], 40))
    before, after = (json.loads((folder / "summary.json").read_text()) for folder in (finished[0], workdir))
    for name in ("best_step", "steps", "validation", "test", "last_validation", "retention"):
        assert after[name] == before[name]
    assert len(list(workdir.glob("events*"))) == 2


def test_a_damaged_checkpoint_is_one_warning_and_no_traceback(copied):
    """In a process of its own: reads that Orbax has abandoned report after it has returned."""
    workdir, argv = copied
    spoil(workdir / "checkpoints/40", "array missing")
    (workdir / "summary.json").unlink()
    ((code, said),) = end(spawn(*argv))
    assert code == 0, said
    assert said.count("warning: ") == 1
    assert "Traceback" not in said
    assert "never" not in said


def test_a_log_cut_short_is_no_obstacle_to_the_report(copied):
    workdir, argv = copied
    (workdir / "summary.json").unlink()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 45, "spl')
    assert train.read_log(workdir / "metrics.jsonl")[-1]["step"] == 40
    code, said = main(*argv)
    assert code == 0, said
    assert "resumed at step 40" in said
    assert (workdir / "summary.json").is_file()


def test_no_checkpoint_can_be_read(copied):
    workdir, argv = copied
    (workdir / "summary.json").unlink()
    found = steps(workdir)
    for step in found:
        spoil(workdir / "checkpoints" / str(step), "array missing")
    code, said = main(*argv)
    assert code == 2
    *warnings, error = said.splitlines()
    assert [line.partition(" is damaged")[0] for line in warnings] == [f"warning: checkpoint {n}" for n in found[::-1]]
    assert error.startswith("error: workdir = ")
    assert f"none of its checkpoints {found[::-1]} can be read" in error


# ------------------------------------------------------------------------------------- stopped, killed and resumed runs


KILLS = int(os.environ.get("KILLS", 3))
LONG = f"""\
task: {{name: copy_first, length: 20, retention: [], held_out: 20}}
model: {{cells: [bmru], width: 8, state_size: 4, expansion: 0, dropout: 0.1}}
optimizer: {{lr: 1.0e-2}}
train: {{steps: {max(120, 60 * KILLS)}, batch_size: 8, eval_every: 10, log_every: 7, steps_per_dispatch: 1}}
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    """(config, workdir) of a run of `LONG` that nothing stopped."""
    folder = tmp_path_factory.mktemp("long")
    config = config_file(folder, LONG)
    ((code, said),) = end(spawn("--config", config, "--workdir", folder / "run", cache=cache))
    assert code == 0, said
    return config, folder / "run"


def assert_same_run(workdir, reference):
    assert (workdir / "metrics.jsonl").read_text() == (reference / "metrics.jsonl").read_text()
    assert steps(workdir) == steps(reference)
    for step in steps(reference):
        assert_same_arrays(arrays(workdir, step), arrays(reference, step))
    results = [json.loads((folder / "summary.json").read_text()) for folder in (workdir, reference)]
    for name in ("best_step", "steps", "validation", "test"):
        assert results[0][name] == results[1][name]
    assert not list((workdir / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_goes_on_exactly(uninterrupted, cache, tmp_path):
    config, reference = uninterrupted
    argv, log = ["--config", config, "--workdir", tmp_path / "run"], tmp_path / "run/metrics.jsonl"
    process = spawn(*argv, cache=cache)
    try:
        assert wait_for(lambda: log.is_file() and log.read_text().count("\n") > 3, process)
        process.terminate()
    finally:
        ((code, said),) = end(process)
    assert code == 0, said
    assert "stopped by SIGTERM and saved; the same command goes on from here" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run/summary.json").exists()
    stopped = steps(tmp_path / "run")[-1]
    assert 0 < stopped < max(120, 60 * KILLS)
    ((code, said),) = end(spawn(*argv, cache=cache))
    assert code == 0, said
    assert f"resumed at step {stopped}" in said
    # A stop may leave a checkpoint between two evaluations; those that remain are at evaluations, as without it.
    assert_same_run(tmp_path / "run", reference)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["seconds"]["wall"] > json.loads((reference / "summary.json").read_text())["seconds"]["wall"] / 2


def run_and_kill(argv, cache, kills, rng):
    """Start a run again and again and kill it, each second time while it writes a checkpoint; how often each."""
    workdir, done = argv[-1], {"anywhere": 0, "in a checkpoint": 0}
    log = workdir / "metrics.jsonl"

    def written():
        return log.stat().st_mtime_ns if log.is_file() else 0

    def grown(before):
        return written() > before

    for number in range(kills):
        process = spawn(*argv, cache=cache)
        try:
            if number % 2 == 0:
                ran = wait_for(lambda: any((workdir / "checkpoints").glob("*tmp*")), process)
                where = "in a checkpoint"
            else:
                ran = wait_for(functools.partial(grown, written()), process)
                time.sleep(rng.uniform(0, 0.5))
                where = "anywhere"
            if not ran:
                break  # it was done before
            done[where] += process.poll() is None
        finally:
            kill(process)
    return done


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_exactly(uninterrupted, cache, tmp_path):
    """KILLS=20 in the environment for more of them, and more steps."""
    config, reference = uninterrupted
    argv = ["--config", config, "--workdir", tmp_path / "run"]
    done = run_and_kill(argv, cache, KILLS, random.Random(time.time_ns()))
    ((code, said),) = end(spawn(*argv, cache=cache))
    assert code == 0, said
    assert done["in a checkpoint"] >= 1, done
    assert sum(done.values()) >= 2, done
    print("killed", done)
    assert "Traceback" not in said
    assert "warning" not in said
    assert_same_run(tmp_path / "run", reference)


def test_a_stop_in_this_process(tmp_path, monkeypatch):
    """SIGINT between two log lines: the means of the next line are of all its steps."""
    text = TINY.replace("log_every: 5", "log_every: 7, steps_per_dispatch: 1").replace("[pmru]", "[lru]")
    argv = ["--config", config_file(tmp_path, text)]
    assert main(*argv, "--workdir", tmp_path / "whole")[0] == 0
    real = train.Stop.requested

    def requested(self, step):
        if step == 12:  # of one step each
            signal.raise_signal(signal.SIGINT)
        return real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(train.Stop, "requested", requested)
        code, said = main(*argv, "--workdir", tmp_path / "run")
    assert code == 0
    assert "stopped by SIGINT and saved" in said
    assert steps(tmp_path / "run") == [10, 12]
    code, said = main(*argv, "--workdir", tmp_path / "run")
    assert code == 0, said
    assert "resumed at step 12" in said
    assert (tmp_path / "run/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
    assert_same_arrays(arrays(tmp_path / "run", 20), arrays(tmp_path / "whole", 20))


def test_orbax_is_told_what_to_restore_into(finished, fresh):
    """Names, shapes and dtypes of the checkpoint are those of the state, so that nothing is restored by position."""
    with mru.training.checkpoint.manager(finished[0]) as checkpoints:
        like = train._arrays(fresh)
        wrong = like | {"model": {name: jnp.zeros(7) for name in like["model"]}}
        with pytest.raises(Exception, match=r"shape|Shape"):
            mru.training.checkpoint.restore(checkpoints, 40, **wrong)
        missing = like | {"model": {"other": jnp.zeros(7)}}
        with pytest.raises((ValueError, KeyError)):
            mru.training.checkpoint.restore(checkpoints, 40, **missing)
    assert isinstance(checkpoints, ocp.CheckpointManager)
