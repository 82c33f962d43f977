import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from train_helpers import TINY, make_trainer, run_steps

import mru
import train
from mru.training import checkpoint
from mru.training import trainer as trainers
from mru.training.batches import train_batches

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def plain(tmp_path_factory, cache):
    """The trainer of `TINY`, its state after ten steps, and their losses."""
    trainer = make_trainer(tmp_path_factory.mktemp("plain"))
    return trainer, *run_steps(trainer, 10)


def test_steps_in_one_dispatch_are_the_same_steps(plain):
    trainer, state, losses = plain
    together, same = run_steps(trainer, 10, dispatch=5)
    np.testing.assert_allclose(same, losses, rtol=1e-5)
    assert int(together.step) == int(state.step) == 10
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), together.params, state.params)


def test_the_train_loop_is_given_batches_that_lie_on_the_mesh(plain):
    trainer, *_ = plain
    with contextlib.closing(train.batches_from(trainer, 3, 2)) as batches:
        first = next(batches)
    with contextlib.closing(train_batches(trainer.task, batch_size=8, seed=0, start_step=3, steps_per_batch=2)) as made:
        expected = next(made)
    assert first.keys() == expected.keys()
    for name, x in first.items():
        assert x.sharding.mesh == trainer.mesh
        np.testing.assert_array_equal(x, expected[name])


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
            state = trainers.TrainState(params, state.rest, optimizer, state.step + 1)


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
    later = trainers.TrainState(first.params, first.rest, first.optimizer, first.step + 1)
    values = [float(step(s, batch)[1]["loss"]) for s in (first, later)]
    assert values[0] == pytest.approx(losses[0], rel=1e-5)
    assert abs(values[0] - values[1]) > 1e-3
    assert trainer.evaluate(state, "validation") == trainer.evaluate(state, "validation")
    examples = trainer.task.examples("validation", np.arange(20))
    outputs, _ = nnx.merge(trainer.graphdef, state.params, state.rest)(examples["inputs"])
    expected = float(np.mean((np.asarray(outputs) - examples["targets"]) ** 2))
    assert trainer.evaluate(state, "validation")[0]["mse"] == pytest.approx(expected, rel=1e-5)


def test_the_seed_draws_parameters_and_examples(plain, tmp_path):
    other = make_trainer(tmp_path, "--train.seed", "1").initial().params
    same = [bool(jnp.all(a == b)) for a, b in zip(*map(jax.tree.leaves, (other, plain[0].initial().params)))]
    assert not all(same)


def test_the_learning_rate_warms_up_and_decays(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(
        trainers.optimizer, "adamw", lambda rate, **kwargs: given.update(kwargs, rate=rate) or optax.sgd(0.1)
    )
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
    assert given == {"weight_decay": 0.3, "state_lr_factor": 0.4, "clip": 3.0, "b1": 0.8, "b2": 0.99, "keep": 1.0}


def test_the_leak_is_that_of_the_step(tmp_path, monkeypatch):
    """Each step trains with the value of its own number, counted from 0."""
    seen = []
    real = mru.SequenceModel.__call__

    def call(model, *args, **kwargs):
        jax.debug.callback(lambda x: seen.append(float(x)), model.blocks[0].cells[0].epsilon[...])
        return real(model, *args, **kwargs)

    monkeypatch.setattr(mru.SequenceModel, "__call__", call)
    ramp = ["--train.schedules.epsilon", "{begin: 0.1, finish: 0.3}"]
    state, _ = run_steps(make_trainer(tmp_path, "--model.cells", "bmru", *ramp), 8)
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert seen == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25, 0, 0])


def test_a_longer_run_continues_its_schedules_at_the_step(tmp_path):
    """The leak and the learning rate of a run of 10 steps that goes on to 40."""
    text = TINY.replace("[pmru]", "[bmru]").replace("steps: 20", "steps: 10")
    state, _ = run_steps(make_trainer(tmp_path, text=text), 10)
    assert float(checkpoint.flatten(state.rest)["blocks.0.cells.0.epsilon"]) == 0
    longer = make_trainer(tmp_path, "--train.steps", "40", text=text)
    state = longer.continued(state)
    assert float(checkpoint.flatten(state.rest)["blocks.0.cells.0.epsilon"]) == pytest.approx(1 - 2 / 16)
    assert int(state.step) == 10
    with contextlib.closing(train_batches(longer.task, batch_size=8, seed=0, start_step=10)) as batches:
        batch = {name: x[0] for name, x in next(batches).items()}
    rates = []
    for trainer in (longer, make_trainer(tmp_path, text=text)):
        after, _ = jax.jit(trainer._step)(state, batch)
        pairs = zip(*map(jax.tree.leaves, (state.params, after.params)), strict=True)
        rates.append(max(float(jnp.abs(a - b).max()) for a, b in pairs))
    # One step of the same state: its size is in proportion to the learning rate, a cosine from 0.01 to 0.0001.
    cosine = 1e-4 + (1e-2 - 1e-4) * 0.5 * (1 + np.cos(np.pi * (10 - 4) / (40 - 4)))
    assert rates[0] / rates[1] == pytest.approx(cosine / 1e-4, rel=0.05)


def test_weights_of_few_bits_by_hand(tmp_path):
    """Loss and gradient at the rounded matrices, with the noise of the step; evaluation without it."""
    trainer = make_trainer(tmp_path, "--weights.bits", "4", "--weights.noise", "0.05")
    first = trainer.initial()
    step = jax.jit(trainer._step)
    with contextlib.closing(train_batches(trainer.task, batch_size=8, seed=0)) as batches:
        batch = {name: x[0] for name, x in next(batches).items()}
    base = jax.random.fold_in(jax.random.key(0), 2**32 - 1)

    def loss(params):
        outputs, _ = nnx.merge(trainer.graphdef, params, first.rest)(batch["inputs"])
        return jnp.mean((outputs - batch["targets"]) ** 2)

    losses = []
    for number in (0, 1):
        state = trainers.TrainState(first.params, first.rest, first.optimizer, jnp.int32(number))
        after, metrics = step(state, batch)
        written = mru.quantized(first.params, 4, noise=0.05, key=jax.random.fold_in(base, number))
        value, gradient = jax.value_and_grad(loss)(written)
        assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
        assert float(metrics["gradient_norm"]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-3)
        losses.append(float(value))
        # What is trained keeps its full precision.
        updates, _ = trainer.transform.update(gradient, first.optimizer, first.params)
        for a, b in zip(*map(jax.tree.leaves, (after.params, optax.apply_updates(first.params, updates)))):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-3
    examples = trainer.task.examples("validation", np.arange(20))
    outputs, _ = nnx.merge(trainer.graphdef, mru.quantized(first.params, 4), first.rest)(examples["inputs"])
    expected = float(np.mean((np.asarray(outputs) - examples["targets"]) ** 2))
    assert trainer.evaluate(first, "validation")[0]["mse"] == pytest.approx(expected, rel=1e-5)
