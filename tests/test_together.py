"""Runs side by side in one program are the runs that `train.py` does one by one."""

import contextlib
import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train_helpers import FULL, TINY, config_file, logged, main, parse, run_steps

import mru
from benchmarks import together, train_together
from benchmarks.together import Together, alike
from mru.training import streaming, summary
from mru.training.batches import train_batches
from mru.training.messages import RunFailed, UserError
from mru.training.progress import Clock, Progress
from mru.training.trainer import SeedAndRate, Trainer

SMALL = TINY.replace("cells: [pmru]", "cells: [lru, gru], dropout: 0.2").replace("width: 8", "width: 4")
# Ways to compute states that the other tests here do not have: a scan of selective steps, attention, and Newton's
# method, whose loop ends when all have converged.
CELLS = ["s6", "attention", "brc newton"]


def configs(folder, text, runs, *argv):
    """Configs of (seed, rate) each."""
    file = config_file(folder, text)
    return [
        parse(["--config", file, "--workdir", folder / f"{i}", "--train.seed", seed, "--optimizer.lr", rate, *argv])
        for i, (seed, rate) in enumerate(runs)
    ]


def trained(group):
    """Train a group; its metrics, (runs, steps) each."""
    found = [done.metrics for done in group.train(Clock(time.perf_counter(), Progress()))]
    return {name: np.concatenate([x[name] for x in found], 1) for name in found[0]}


def alone(group, config):
    """Losses, progress and best state of a run by itself, evaluated, selected and stopped as `train.py` does it."""
    trainer, train, progress, losses = Trainer(config, group.trainer.mesh), config.train, Progress(), []
    state, step, best = trainer.initial(), jax.jit(trainer._step), None
    stream = train_batches(config.task, batch_size=train.batch_size, seed=train.seed)
    with contextlib.closing(stream):
        for number in range(1, train.steps + 1):
            state, metrics = step(state, {name: x[0] for name, x in next(stream).items()})
            losses.append(float(metrics["loss"]))
            if train.evaluates(number):
                value = trainer.evaluate(state, "validation")[0][config.task.metric]
                progress = progress.evaluated(value, number, config.task.goal)
                best = state if progress.best_step == number else best
                if progress.finished(number, train):
                    break
    return trainer, losses, progress, best


@pytest.mark.usefixtures("quick_compile")
def test_each_run_is_the_run_alone(tmp_path):
    """Its parameters, examples and dropout of its seed, its rate, its best step, and its own early stop."""
    runs = [(0, "0.003"), (7, "0.003"), (7, "0.1")]
    every = configs(tmp_path, SMALL, runs, "--train.steps", 24, "--train.eval_every", 2, "--train.patience", 2)
    group = Together(every)
    losses = trained(group)["loss"]
    test = group.evaluate(group.best, "test")
    longer = every[0].task.at(streaming.CHUNK + 5)
    at = group.evaluate_at(group.best, longer)
    ends = set()
    for i, config in enumerate(every):
        trainer, expected, progress, best = alone(group, config)
        standing = group.standings[i]
        assert standing.failed is None
        assert standing.step == len(expected)
        np.testing.assert_allclose(losses[i, : len(expected)], expected, rtol=1e-3)
        assert (standing.progress.best_step, standing.progress.since_best) == (progress.best_step, progress.since_best)
        assert standing.progress.best == pytest.approx(progress.best, rel=1e-3)
        assert int(group.best.step[i]) == progress.best_step
        assert int(group.last.step[i]) == len(expected)
        assert test[i][0] == pytest.approx(trainer.evaluate(best, "test")[0], rel=1e-3)
        if i == 1:
            assert at[i] == pytest.approx(trainer.evaluate_at(best, longer, lambda: None), rel=1e-3)
        ends.add(len(expected))
    assert len(ends) > 1  # one run goes on where another has stopped


@pytest.mark.usefixtures("quick_compile")
def test_a_run_that_fails_stops_no_other(tmp_path):
    """A rate that soon makes parameters too large for float32."""
    slowly = "--train.eval_every", 1, "--train.steps", 12, "--optimizer.warmup", 1
    every = configs(tmp_path, TINY.replace("pmru", "mingru"), [(0, "0.003"), (0, "1e5")], *slowly)
    group = Together(every)
    losses = trained(group)["loss"]
    fine, failed = group.standings
    _, expected = run_steps(Trainer(every[0], group.trainer.mesh), 12)
    np.testing.assert_allclose(losses[0], expected, rtol=1e-4)
    assert (fine.failed, fine.step) == (None, 12)
    assert not np.isfinite(losses[1, -1])
    assert "not finite" in failed.failed
    assert 1 <= failed.progress.best_step <= failed.step < 12
    assert int(group.best.step[1]) == failed.progress.best_step
    assert all(np.isfinite(x[1]).all() for x in jax.tree.leaves(group.best))
    assert not isinstance(group.evaluate(group.best, "test")[1], RunFailed)


@pytest.mark.usefixtures("quick_compile")
def test_answers_at_every_step_are_added_up_for_each_run(tmp_path):
    text = TINY.replace("copy_first", "flip_flop")
    every = configs(tmp_path, text, [(0, "0.1"), (1, "0.1")])
    group = Together(every)
    longer, states = every[0].task.at(2 * streaming.CHUNK + 6), group.initial()
    found = group.evaluate_at(states, longer, 3)
    trainer, batch = group.trainer, longer.examples("test", np.arange(3))
    for i in range(2):
        state = jax.tree.map(lambda x, i=i: x[i], states)
        model = nnx.merge(trainer.graphdef, state.params, state.rest)
        outputs, asked = np.asarray(model(batch["inputs"])[0]), batch["targets"] >= 0
        wrong = (outputs.argmax(-1) != batch["targets"]) & asked
        assert found[i]["error"] == pytest.approx(np.mean(wrong.sum(1) / asked.sum(1)), abs=1e-4)


def test_what_is_not_alike_is_refused(tmp_path):
    one, other = (configs(tmp_path, TINY, [(0, "0.1")], *more)[0] for more in ([], ["--train.steps", 10]))
    with pytest.raises(UserError, match=r"allowed: those that differ in train\.seed, optimizer\.lr and workdir alone"):
        Together([one, other])
    assert alike(one) == alike(configs(tmp_path, TINY, [(3, "0.2")])[0])
    begun = configs(tmp_path, TINY, [(0, "0.1")], "--init_from", tmp_path)[0]
    assert alike(begun) is None


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("cell", CELLS)
def test_cells_side_by_side(cell, tmp_path):
    """A train step of two runs, and outputs in two chunks, are those of each run."""
    cell, _, method = cell.partition(" ")
    options = f", options: {{{cell}: {{method: {method}}}}}" if method else ""
    text = (
        TINY.replace("[pmru]", f"[{cell}]{options}")
        .replace("length: 20", "length: 6")
        .replace("batch_size: 8", "batch_size: 2")
    )
    trainer = Trainer(configs(tmp_path, text, [(0, "0.01")])[0], jax.make_mesh((1, 1, 1), ("data", "seq", "model")))
    own = SeedAndRate(jax.random.split(jax.random.key(3), 2), jnp.array([1e-3, 1e-2]))
    batch = trainer.task.examples("train", np.arange(2))

    def both(own, batch):
        state, metrics = trainer.step(own, trainer.drawn(own.key), batch)
        carried = trainer.first_state(state.params, state.rest, 2)
        outputs = []
        for part in (batch["inputs"][:, :4], batch["inputs"][:, 4:]):
            out, carried = trainer.carried(state.params, state.rest, part, carried, None)
            outputs.append(out)
        return metrics, outputs

    mapped = jax.jit(jax.vmap(both, (0, None)))(own, batch)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    compiled = jax.jit(both)
    for i in range(2):
        expected = compiled(jax.tree.map(lambda x, i=i: x[i], own), batch)
        jax.tree.map(lambda a, b, i=i: compare(a[i], b), mapped, expected)


@pytest.mark.usefixtures("quick_compile")
def test_folders_are_those_of_train(tmp_path, finished, monkeypatch):
    """The folder of a run in a group against that of the same run by `train.py`, and that of one that failed."""
    asked = itertools.count()

    def require_finite(values, before):
        if next(asked) == 6 * 2 + 1:  # the last of two runs, at the evaluation after step 35
            raise RunFailed("the loss is not finite at step 31")

    monkeypatch.setattr(together, "require_finite", require_finite)
    workdir, *_ = finished
    file, argvs = config_file(tmp_path, FULL), []
    for seed in range(2):
        options = {"config": file, "workdir": tmp_path / f"{seed}", "train.seed": seed}
        argvs.append([str(word) for name, value in options.items() for word in (f"--{name}", value)])
    assert train_together.main([word for argv in argvs for word in ("--", *argv)]) == 1
    for ours, theirs in zip(logged(tmp_path / "0"), logged(workdir), strict=True):
        assert ours.pop("split") == theirs.pop("split")
        assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-5)
    theirs, *held = (summary.read(folder / "summary.json") for folder in (workdir, *(tmp_path / x for x in "01")))
    assert held[0].keys() == theirs.keys() | {"together"}
    assert [x["together"] for x in held] == [2, 2]
    assert [x["seed"] for x in held] == [0, 1]
    assert held[0]["best_step"] == theirs["best_step"]
    for name in ("validation", "test", "retention"):
        assert held[0][name] == pytest.approx(theirs[name], rel=1e-3)
    assert held[1]["failed"] == "the loss is not finite at step 31"
    assert held[1]["best_step"] <= held[1]["steps"] == 30
    assert mru.load(tmp_path / "1").blocks  # the checkpoint of its best step
    for argv in argvs:
        code, said = main(*argv)
        assert code == 0
        assert "complete" in said
