import contextlib
import functools
import json
import os
import random
import re
import signal
import time
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import nnx
from train_helpers import (
    TINY,
    arrays,
    assert_refused,
    assert_same_arrays,
    config_file,
    end,
    expected_scalars,
    kill,
    logged,
    main,
    parse,
    read,
    scalars,
    spawn,
    spoil,
    steps,
    validations,
    wait_for,
)

import mru
import mru.training.checkpoint
import tasks
from mru.training import log as run_log
from mru.training.batches import train_batches
from mru.training.stop import Stop
from tasks.base import Task

# Orbax reads the arrays of a checkpoint at once; where one can not be read, it leaves the others to an event loop that
# is closed already.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("cache"),
]


@pytest.fixture
def registry(monkeypatch):
    """Tasks defined in a test are known in that test alone."""
    monkeypatch.setattr(tasks.REGISTRY, "_classes", dict(tasks.REGISTRY._classes))


# --------------------------------------------------------------------------------------------- what a run leaves behind


def test_what_a_run_leaves(finished):
    workdir, argv, *_ = finished
    names = {path.name.split(".")[0] for path in workdir.iterdir()}
    assert names == {"config", "metrics", "events", "summary", "checkpoints", "plots", "lock", "first_checkpoint"}
    assert {path.name for path in (workdir / "plots").iterdir()} == {
        f"{name}.{kind}" for name in ("learning", "retention") for kind in ("png", "svg")
    }
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in (workdir / "plots").glob("*.png"))
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
    assert all(set(line) == {"step", "split", "loss", "mse", "gradient_norm", "time"} for line in log)
    assert all(line["mse"] == line["loss"] for line in log)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_what_the_layers_did_is_logged_at_each_evaluation(finished):
    log = read(finished[0] / "metrics.jsonl")
    inside = [line for line in log if line["split"] == "inside"]
    assert [line["step"] for line in inside] == [line["step"] for line in validations(log)]
    latch, affine = ("write_rate", "dead", "hold_time"), ("time_constant", "longest_time_constant")
    names = {f"0/{place}/{name}" for place in ("0/BMRU", "2/PMRU") for name in latch}
    names |= {f"0/1/LRU/{name}" for name in affine}
    assert all(set(line) == {"step", "split", "time", *names} for line in inside)


def test_events_are_those_of_the_log(finished):
    assert dict(scalars(finished[0])) == pytest.approx(expected_scalars(finished[0]), rel=1e-6)


def test_the_leak_goes_from_one_to_exactly_zero(finished):
    workdir, _, epsilon, _ = finished
    assert list(epsilon) == list(range(5, 41, 5))
    assert [epsilon[step] for step in (5, 10)] == [1.0, 1.0]
    assert epsilon[15] == pytest.approx(0.5)
    assert [epsilon[step] for step in (20, 25, 30, 35, 40)] == [0.0] * 5
    assert float(mru.load(workdir, 40).blocks[0].cells[0].epsilon[...]) == 0.0
    assert float(mru.load(workdir, 40).blocks[0].cells[0].width[...]) == 1.0  # no schedule moves it


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
        assert summary["validation"][name] == pytest.approx(chosen[name], rel=1e-5)
        if chosen["step"] != 40:
            assert summary["last_validation"][name] == pytest.approx(log[-1][name], rel=1e-5)
    assert ("last_validation" in summary) == (chosen["step"] != 40)
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

    def times():
        return {x: x.stat().st_mtime_ns for x in workdir.rglob("*") if x.is_file() and x.name != "lock"}

    before = times()
    code, said = main(*argv)
    assert code == 0
    assert said.count("\n") == 1
    assert "is complete" in said
    assert times() == before


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
            lengths = self.example_lengths(split, indices)
            targets = inputs[np.arange(len(indices)), lengths - 1]
            inputs = np.where(np.arange(9)[:, None] < lengths[:, None, None], inputs, np.float32(50))
            return {"inputs": inputs, "targets": targets, "lengths": lengths}

        def example_lengths(self, split, indices):
            return (3 + indices % 5).astype(np.int32)

        def loss(self, outputs, batch):
            return jnp.square(outputs - batch["targets"])[:, 0]

        def metrics(self, outputs, batch):
            return {"absolute": jnp.abs(outputs - batch["targets"])[:, 0]}

    return Padded()


@pytest.mark.parametrize("buckets", [1, 2])
def test_a_new_task_with_padded_examples(registry, tmp_path, buckets):
    task = padded_task()
    text = "task: {name: padded, held_out: 12}\n" + TINY.partition("\n")[2].replace("pmru", "lru")
    folder = tmp_path / "w"
    code, said = main("--config", config_file(tmp_path, text), "--workdir", folder, "--train.buckets", buckets)
    assert code == 0, said
    log, summary = read(tmp_path / "w/metrics.jsonl"), json.loads((tmp_path / "w/summary.json").read_text())
    # A line at the end of the call that brings it up to log_every = 5: calls are of one step where there are buckets.
    assert [line["step"] for line in log if line["split"] == "train"] == ([10, 20] if buckets == 1 else [5, 10, 15, 20])
    assert summary["retention"] == {}
    assert {path.name for path in (tmp_path / "w/plots").iterdir()} == {"learning.png", "learning.svg"}
    examples, errors = task.examples("test", np.arange(12)), []
    model = mru.load(tmp_path / "w")
    apply = jax.jit(lambda x: model(x)[0][0])
    for x, y, n in zip(examples["inputs"], examples["targets"], examples["lengths"]):
        errors.append(abs(float(apply(jnp.asarray(x[:n]))) - y[0]))
    assert summary["test"]["absolute"] == pytest.approx(np.mean(errors), rel=1e-4)


@dataclass(frozen=True)
class Listed(Task):
    """400 numbered examples; one of each of two splits may be spoilt, and validation may ask for the opposite."""

    spoilt: int = -1
    spoilt_validation: int = -1
    by: str = "1e30"  # whose square is infinite
    opposite: bool = False
    steep: bool = False

    name: ClassVar[str] = "listed"
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
            targets[indices == self.spoilt] = float(self.by)
        if split == "validation":
            targets[indices == self.spoilt_validation] = float(self.by)
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
    assert summary["validation"]["mse"] == pytest.approx(log[0]["mse"], rel=1e-5)
    assert steps(tmp_path / "w") == [5, 15, 20]
    model = mru.load(tmp_path / "w")
    outputs = model(jnp.asarray(Listed().examples("test", np.arange(8))["inputs"]))[0]
    assert summary["test"]["mse"] == pytest.approx(float(np.mean((np.asarray(outputs) + 1) ** 2)), rel=1e-5)
    # Resuming would not read the best checkpoint, the report has to: it takes the best of those that are left.
    spoil(tmp_path / "w/checkpoints/5", "array missing")
    (tmp_path / "w/summary.json").unlink()
    code, said = main(*argv)
    assert code == 0, said
    assert "warning: the best checkpoint 5 is damaged" in said
    after = json.loads((tmp_path / "w/summary.json").read_text())
    assert (after["damaged_best_step"], after["best_step"]) == (5, 15)
    assert after["validation"]["mse"] == pytest.approx(log[2]["mse"], rel=1e-5)
    assert after["test"]["mse"] > summary["test"]["mse"]


def spoilt_at(step):
    """The number of a training example of a step."""
    with contextlib.closing(train_batches(Listed(), batch_size=8, seed=0)) as batches:
        return [round(float(next(batches)["inputs"][0, 3, 0, 0]) * 400) for _ in range(step)][-1]


def test_training_stops_at_a_loss_that_is_not_finite(registry, tmp_path):
    argv = listed(tmp_path, "--task.spoilt", spoilt_at(13))
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
    """Also in one example only, whose number is told."""
    code, said = main(*listed(tmp_path, "--task.spoilt_validation", "3"))
    assert code == 1
    last = said.splitlines()[-1]
    assert "of validation example 3 is not finite, though its data is; last good checkpoint: none was saved yet" in last


@pytest.mark.parametrize(("split", "argument"), [("train", "spoilt"), ("validation", "spoilt_validation")])
@pytest.mark.parametrize("by", ["nan", "-inf"])
def test_data_that_are_not_finite_are_named(registry, tmp_path, split, argument, by):
    index = spoilt_at(13) if split == "train" else 3
    code, said = main(*listed(tmp_path, f"--task.{argument}", index, "--task.by", by))
    assert code == 1
    assert f"error: {split} example {index} of listed is damaged: its targets are not all finite" in said
    assert steps(tmp_path / "w") == ([5, 10] if split == "train" else [])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_refused(registry, tmp_path, monkeypatch, split):
    monkeypatch.setattr(Listed, "sizes", Listed.sizes | {split: 0})
    code, said = main(*listed(tmp_path))
    assert_refused(code, said, [f"task = listed with 0 {split} examples, allowed: one or more in each split"])
    assert not (tmp_path / "w").exists()


def test_a_diverging_run_stops(registry, tmp_path):
    code, said = main(*listed(tmp_path, "--optimizer.lr", "1e30", "--optimizer.warmup", "0"))
    assert code == 1
    assert "not finite at step" in said.splitlines()[-1]
    assert "Traceback" not in said


# -------------------------------------------------------------------------------------------------- damaged checkpoints


def test_a_run_with_a_damaged_checkpoint_ends_as_if_nothing_had_happened(copied, finished):
    """Also: the last line of the log was cut short, and lines after the checkpoint are there already."""
    workdir, argv = copied
    spoil(workdir / "checkpoints/40", "array cut short")
    (workdir / "summary.json").unlink()
    log = (workdir / "metrics.jsonl").read_text()
    lines = logged(workdir)
    (workdir / "metrics.jsonl").write_text(log[:-30])
    code, said = main(*argv)
    assert code == 0, said
    assert "warning: checkpoint 40 is damaged" in said
    assert "resumed at step 35" in said
    assert logged(workdir) == lines
    assert_same_arrays(arrays(workdir, 40), arrays(finished[0], 40))
    before, after = (json.loads((folder / "summary.json").read_text()) for folder in (finished[0], workdir))
    for name in ("best_step", "steps", "validation", "test", "last_train", "retention"):
        assert after[name] == before[name]
    assert len(list(workdir.glob("events*"))) == 1


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
    lines, damaged = run_log.read(workdir / "metrics.jsonl")
    assert lines[-1][1]["step"] == 40
    assert not damaged
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
    for _ in range(2):  # nothing is moved, so it is no other thing the second time
        code, said = main(*argv)
        assert code == 2
        error = said.splitlines()[-1]
        assert error.startswith("error: workdir = ")
        assert f"none of its checkpoints {found} can be read" in error
        assert steps(workdir) == found
        assert not (workdir / "damaged").exists()


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
    assert logged(workdir) == logged(reference)
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
    real = Stop.requested

    def requested(self, step):
        if step == 12:  # of one step each
            signal.raise_signal(signal.SIGINT)
        return real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "requested", requested)
        code, said = main(*argv, "--workdir", tmp_path / "run")
    assert code == 0
    assert "stopped by SIGINT and saved" in said
    assert steps(tmp_path / "run") == [10, 12]
    # A run can not end where nothing was measured: what would be reported is unknown.
    code, said = main(*argv, "--workdir", tmp_path / "run", "--train.steps", "12")
    assert_refused(code, said.splitlines()[-1], ["train.steps = 12", "more than the 12"])
    code, said = main(*argv, "--workdir", tmp_path / "run")
    assert code == 0, said
    assert "resumed at step 12" in said
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")
    assert_same_arrays(arrays(tmp_path / "run", 20), arrays(tmp_path / "whole", 20))


# ------------------------------------------------------------------------- longer runs, and runs that start from others


def test_one_override_makes_a_smoke_run_and_more_steps_go_on_with_it(tmp_path):
    """Steps may be fewer than one interval of evaluations; the longer run is as one of its length from there on."""
    text = TINY.replace("[pmru]", "[bmru]").replace("eval_every: 10", "eval_every: 400")
    argv = ["--config", config_file(tmp_path, text), "--workdir", tmp_path / "w"]
    code, said = main(*argv, "--train.steps", "10")
    assert code == 0, said
    assert re.search(r"compiling the train step \.\.\.\ncompiled the train step in [\d.]+ s", said)
    assert re.search(r"compiling the evaluation \.\.\.[\s\S]*compiled the evaluation in [\d.]+ s", said)
    first = json.loads((tmp_path / "w/summary.json").read_text())
    assert (first["steps"], steps(tmp_path / "w")) == (10, [10])
    assert set(first["last_train"]) == {"loss", "mse", "gradient_norm"}
    for values in (first["test"], first["last_train"], first["seconds"]):
        assert all(x == float(f"{x:.6g}") for x in values.values())

    longer = ["--train.steps", "40", "--train.eval_every", "10", "--train.log_every", "7", "--model.remat", "true"]
    code, said = main(*argv, *longer)
    assert code == 0, said
    assert "resumed at step 10" in said
    assert "train.steps was 10 and is 40: from here on the learning rate" in said
    assert json.loads((tmp_path / "w/summary-10.json").read_text()) == first
    summary = json.loads((tmp_path / "w/summary.json").read_text())
    assert summary["steps"] == 40
    log = read(tmp_path / "w/metrics.jsonl")
    # The leak comes back with the longer ramp, from step 8 to 24, and nothing is selected before it has gone.
    assert [line["step"] for line in validations(log)] == [10, 30, 40]
    assert "is complete" in main(*argv, *longer)[1]
    code, said = main(*argv, "--train.steps", "30")
    assert_refused(code, said.splitlines()[-1], ["train.steps = 30", "at least the 40"])


def test_a_run_starts_from_the_parameters_of_another(finished, tmp_path):
    workdir, argv, *_ = finished
    options = ["--train.steps", "5", "--optimizer.lr", "1e-12", "--train.schedules.epsilon.begin", "0.1"]
    code, said = main(*argv[:2], "--workdir", tmp_path / "w", "--init_from", workdir, *options)
    assert code == 0, said
    assert f"from the parameters of {workdir}" in said
    best, found = (
        mru.training.checkpoint.flatten(nnx.state(mru.load(w), nnx.Param)) for w in (workdir, tmp_path / "w")
    )
    assert best.keys() == found.keys()
    for name in best:
        np.testing.assert_allclose(found[name], best[name], rtol=1e-6, atol=1e-9)
    log = read(tmp_path / "w/metrics.jsonl")
    assert [(line["split"], line["step"]) for line in log] == [("train", 5), ("validation", 5), ("inside", 5)]
    assert yaml.safe_load((tmp_path / "w/config.yaml").read_text())["init_from"] == str(workdir)


def test_a_run_of_another_model_is_no_source(finished, tmp_path):
    workdir, argv, *_ = finished
    code, said = main(*argv[:2], "--workdir", tmp_path / "w", "--init_from", workdir, "--model.state_size", "6")
    assert_refused(
        code, said, ["init_from = ", "a run of the same model", "blocks.0.cells.0.alpha (4,) there, (6,) here"]
    )
    assert not (tmp_path / "w").exists()
