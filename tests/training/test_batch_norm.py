"""Runs whose blocks have batch norm: its running statistics are trained, saved, loaded and shared like parameters."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train_helpers import (
    TINY,
    arrays,
    assert_refused,
    assert_same_arrays,
    config_file,
    end,
    logged,
    main,
    make_trainer,
    run_steps,
    spawn,
    validations,
)

import mru
from mru.training import checkpoint
from mru.training.batches import train_batches

pytestmark = pytest.mark.usefixtures("cache")
BATCH = TINY.replace("expansion: 0", "expansion: 0, norm: batch, activation: half_glu1, conv: 2")


def statistics_of(state):
    """By name, as float64."""
    return {
        name: np.asarray(x, np.float64)
        for name, x in checkpoint.flatten(nnx.filter_state(state.rest, nnx.BatchStat)).items()
    }


def assert_moved(found, model, before, x):
    """Statistics `found` are 5 % of the way from `before` to what each norm reads of the batch x (B, T, D).

    Rows are in float64, those of the first norm in plain NumPy. The model's own first norm is then set to them, so that
    what the block makes of the batch does not depend on what a train step does.
    """
    encoder, block = model.encoder, model.blocks[0]
    kernel, bias = (np.asarray(p[...], np.float64) for p in (encoder.kernel, encoder.bias))
    inputs = np.asarray(x, np.float64) @ kernel + bias
    rows = {"blocks.0.norm": inputs.reshape(-1, 8)}
    mean, variance = rows["blocks.0.norm"].mean(0), rows["blocks.0.norm"].var(0)
    block.norm.mean[...], block.norm.variance[...] = jnp.asarray(mean), jnp.asarray(variance)
    rows["norm"] = np.asarray(block(jnp.asarray(inputs, jnp.float32), (None, None))[0], np.float64).reshape(-1, 8)
    for name, read in rows.items():
        for statistic, value in (("mean", read.mean(0)), ("variance", read.var(0))):
            expected = 0.95 * before[f"{name}.{statistic}"] + 0.05 * value
            np.testing.assert_allclose(found[f"{name}.{statistic}"], expected, rtol=1e-4, atol=1e-5)


def first_batch(task, seed):
    with contextlib.closing(train_batches(task, batch_size=8, seed=seed)) as batches:
        return next(batches)["inputs"][0]


def test_a_train_step_moves_them_by_hand(tmp_path):
    """From mean 0 and variance 1, where they begin."""
    trainer = make_trainer(tmp_path, text=BATCH)
    before, (after, _) = trainer.initial(), run_steps(trainer, 1)
    model, held = nnx.merge(trainer.graphdef, before.params, before.rest), statistics_of(before)
    assert all((x == name.endswith("variance")).all() for name, x in held.items())
    assert_moved(statistics_of(after), model, held, first_batch(trainer.task, 0))


def test_a_model_without_them_carries_none(tmp_path):
    assert not jax.tree.leaves(jax.eval_shape(make_trainer(tmp_path)._initial).rest)


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """The folder of a finished run of 20 steps, and its command."""
    folder = tmp_path_factory.mktemp("batch")
    argv = ["--config", config_file(folder, BATCH), "--workdir", folder / "run"]
    code, said = main(*argv)
    assert code == 0, said
    return folder / "run", argv


def test_evaluation_uses_them(run):
    """What was logged is what the loaded model, its steps and another batch size make of the examples."""
    workdir, _ = run
    task = make_trainer(workdir.parent, text=BATCH).task
    examples = task.examples("validation", np.arange(20))
    x = jnp.asarray(examples["inputs"])
    for line in validations(logged(workdir)):
        model = mru.load(workdir, line["step"])
        held = arrays(workdir, line["step"])
        np.testing.assert_array_equal(model.norm.mean[...], held["norm.mean"])
        assert np.abs(held["norm.mean"]).min() > 0
        mse = np.mean((np.asarray(model(x)[0], np.float64) - examples["targets"]) ** 2)
        assert line["mse"] == pytest.approx(mse, rel=1e-5)
    np.testing.assert_allclose(model(x[:1])[0], model(x)[0][:1], rtol=1e-4, atol=1e-5)
    step = jax.jit(lambda x, state: model.step(x, state))
    state = model.initial_state((20,))
    for t in range(x.shape[1]):
        out, state = step(x[:, t], state)
    np.testing.assert_allclose(out, model(x)[0], rtol=1e-3, atol=1e-4)


def test_a_run_goes_on_with_the_same_bits(run, tmp_path):
    workdir, argv = run
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    shutil.rmtree(again / "checkpoints/20")
    (again / "summary.json").unlink()
    code, said = main(*argv[:2], "--workdir", again)
    assert code == 0, said
    assert "resumed at step 10" in said
    assert_same_arrays(arrays(again, 20), arrays(workdir, 20))
    assert [line for line in logged(again) if line["step"] > 10] == [
        line for line in logged(workdir) if line["step"] > 10
    ]


def test_another_norm_is_another_run(run, tmp_path):
    workdir, argv = run
    code, said = main(*argv, "--model.norm", "layer")
    assert_refused(code, said, ["model.norm = batch (now layer)"])
    code, said = main(*argv[:2], "--workdir", tmp_path / "w", "--init_from", workdir, "--model.norm", "layer")
    assert_refused(code, said, ["init_from = ", "blocks.0.norm.mean (8,) there, missing here"])


def test_they_come_with_the_parameters_of_another_run(run, tmp_path):
    """At a learning rate of almost nothing the first step starts from them, and moves them on."""
    workdir, argv = run
    best = json.loads((workdir / "summary.json").read_text())["best_step"]
    options = ["--train.steps", "1", "--train.eval_every", "1", "--train.log_every", "1", "--optimizer.lr", "1e-12"]
    code, said = main(*argv[:2], "--workdir", tmp_path / "w", "--init_from", workdir, *options, "--train.seed", "3")
    assert code == 0, said
    held, found = arrays(workdir, best), arrays(tmp_path / "w", 1)
    np.testing.assert_allclose(found["head.kernel"], held["head.kernel"], rtol=1e-5)
    assert abs(held["norm.variance"] - 1).min() > 0.01  # they are not those that a model begins with
    task = make_trainer(tmp_path, text=BATCH).task
    assert_moved(found, mru.load(workdir, best), held, first_batch(task, 3))


SHARDED = """
import sys
import jax, numpy as np
from flax import nnx
import tasks
from mru.training import checkpoint, command_line
from mru.training.batches import train_batches
from mru.training.trainer import Trainer

config, found = command_line.parse(["--config", sys.argv[1], "--workdir", "w"], tasks.REGISTRY), []
for shape in ((1, 1, 1), (4, 1, 1), (2, 2, 1)):
    devices = jax.devices()[: np.prod(shape)]
    mesh = jax.make_mesh(shape, ("data", "seq", "model"), (jax.sharding.AxisType.Auto,) * 3, devices=devices)
    trainer = Trainer(config, mesh)
    state, batches = trainer.initial(), train_batches(trainer.task, batch_size=8, seed=0, steps_per_batch=1)
    batch = trainer.place(next(batches), 1)
    batches.close()
    state, _ = trainer.compile(state, batch)(state, batch)
    found.append({k: np.asarray(v) for k, v in checkpoint.flatten(state.rest).items()})
for other in found[1:]:
    for name, x in found[0].items():
        np.testing.assert_allclose(other[name], x, rtol=1e-5, atol=1e-7, err_msg=name)
print("same", len(found[0]), float(np.abs(found[0]["blocks.0.norm.mean"]).min()) > 0)
"""


def test_they_are_those_of_the_whole_batch_over_devices(tmp_path, cache):
    """The batch over four devices, and over two with the time axis over two.

    One step: the gradient of a bias before batch norm is 0, of whose rounding Adam makes steps of full length.
    """
    config = config_file(tmp_path, BATCH)
    ((code, said),) = end(spawn(config, script=("-c", SHARDED), devices=4, cache=cache, cwd=tmp_path))
    assert code == 0, said
    assert "same 4 True" in said


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--model.norm", "group"], ["model.norm = group", "layer, rms, batch"]),
        (["--model.activation", "relu"], ["model.activation = relu", "full_glu"]),
        (["--model.conv", "1"], ["model.conv = 1", "0, or from 2 to 64"]),
        (["--model.conv", "65"], ["model.conv = 65", "0, or from 2 to 64"]),
        (["--model.prenorm", "2"], ["model.prenorm = 2"]),
        (["--optimizer.warmup_steps", "20"], ["optimizer.warmup_steps = 20", "below train.steps = 20, or null"]),
        (["--train.feedback", "alignment", "--model.cells", "miru1"], ["train.feedback", "model.norm = layer or rms"]),
    ],
)
def test_what_can_not_be_is_one_line(options, parts, here, nothing_compiles):
    code, said = main("--config", config_file(here, BATCH), *options)
    assert_refused(code, said, parts)
