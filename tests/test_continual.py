"""`benchmarks/continual.py`: scores of accuracies, the tasks, what is replayed, and what a network learns from it."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import tasks
from benchmarks import continual, domains
from benchmarks.accuracy_matrix import average_accuracy, backward_transfer, forgetting
from tasks._datasets.base import DataSet

# Task 1 is at its best after task 2, task 2 when it is learned, and task 3 at the end.
MADE = np.array([[0.7, 0.1, 0.1, 0.2], [0.9, 0.8, 0.1, 0.1], [0.6, 0.7, 0.5, 0.0], [0.5, 0.4, 0.6, 0.95]])


def test_scores_of_a_matrix_made_by_hand():
    assert average_accuracy(MADE) == pytest.approx((0.5 + 0.4 + 0.6 + 0.95) / 4, abs=1e-12)
    assert forgetting(MADE) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.4) + (0.5 - 0.6)) / 3, abs=1e-12)
    assert backward_transfer(MADE) == pytest.approx(((0.5 - 0.7) + (0.4 - 0.8) + (0.6 - 0.5)) / 3, abs=1e-12)


def test_scores_where_nothing_is_forgotten():
    kept = np.tile([0.9, 0.8, 0.7], (3, 1))
    assert (average_accuracy(kept), forgetting(kept), backward_transfer(kept)) == (pytest.approx(0.8), 0, 0)
    assert average_accuracy(np.array([[0.9]])) == 0.9


@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_scores_against_loops(tasks):
    a = np.random.default_rng(tasks).random((tasks, tasks))
    forgot = moved = 0.0
    for j in range(tasks - 1):
        best = a[0, j]
        for i in range(1, tasks - 1):
            best = a[i, j] if a[i, j] > best else best
        forgot += (best - a[tasks - 1, j]) / (tasks - 1)
        moved += (a[tasks - 1, j] - a[j, j]) / (tasks - 1)
    assert forgetting(a) == pytest.approx(forgot, abs=1e-12)
    assert backward_transfer(a) == pytest.approx(moved, abs=1e-12)
    assert average_accuracy(a) == pytest.approx(sum(a[tasks - 1, j] for j in range(tasks)) / tasks, abs=1e-12)


@pytest.mark.parametrize("score", [average_accuracy, forgetting, backward_transfer])
def test_accuracies_that_are_no_square_are_refused(score):
    with pytest.raises(ValueError, match=re.escape("got shape (2, 3)")):
        score(MADE[:2, :3])
    if score is not average_accuracy:
        with pytest.raises(ValueError, match="k >= 2 tasks"):
            score(MADE[:1, :1])


def shown(found, steps):
    """What a network reads at each of some steps: (steps, 64, side, side)."""
    rows, which = steps["row"].ravel(), steps["task"].ravel()
    return np.asarray(found.shown(found.train.images[rows], which)).reshape(*steps["row"].shape, found.side, found.side)


def of_task(order, split="train"):
    """The digits of a task as the task itself gives them, (n, 8, 8), and their classes."""
    task = tasks.get("digits")(permutation_seed=order)
    examples = task.examples(split, np.arange(task.sizes[split]))
    return examples["inputs"].reshape(-1, 8, 8), examples["targets"]


def test_the_stream_of_tasks_replays_what_was_seen():
    """New examples of one order a step; beside them, from the second task on, ones of the orders before too."""
    found = domains.domains("digits", 3, "test")
    known = [{x.tobytes() for x in of_task(order)[0]} for order in range(3)]
    for replay in (True, False):
        for order, steps in enumerate(domains.stream(0, 1295, 3, 1, 500, replay)):
            inputs = shown(found, steps)
            assert inputs.shape == (1295 // 32, 64, 8, 8)
            np.testing.assert_allclose(steps["weights"].sum(1), 1, rtol=1e-5)
            assert all(x.tobytes() in known[order] for x in inputs[:, :32].reshape(-1, 8, 8))
            weighted = steps["weights"][-1, 32:] > 0
            assert weighted.all() == replay
            assert weighted.any() == replay
            of = [np.mean([x.tobytes() in seen for x in inputs[-1, 32:]]) for seen in known]
            # In the last step of a task the reservoir is of all examples so far, alike.
            np.testing.assert_allclose(of, np.where(np.arange(3) <= order, 1 / (order + 1), 0), atol=0.3)


def test_each_example_is_as_likely_in_the_reservoir():
    """The place in the stream of what is replayed at the end has the mean and spread of a uniform one."""
    places = []
    for seed in range(400):
        which = [np.stack([steps["task"], steps["row"]], -1) for steps in domains.stream(seed, 96, 2, 2, 16, True)]
        new = np.concatenate([which[0][:3, :32], which[1][:3, :32]]).reshape(-1, 2).tolist()
        assert len({tuple(x) for x in new}) == 192
        replayed = which[1][-1, 32:].tolist()
        assert len({tuple(x) for x in replayed}) <= 16
        places += [new.index(x) for x in replayed]
    # The 16 that are held at a time are independent up to a small share; those drawn are of them.
    error = 192 / np.sqrt(12 * 400 * 16)
    assert abs(np.mean(places) - 191 / 2) < 4 * error
    assert abs(np.std(places) - 192 / np.sqrt(12)) < 4 * error
    assert abs(np.mean(np.array(places) < 16) - 16 / 192) < 0.02


def test_mnist_is_shown_by_rows_in_the_orders_of_psmnist(monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}_{what}": rng.integers(high, size=(n, *shape), dtype=np.uint8)
        for part, n in (("train", 64), ("test", 10_000))
        for what, high, shape in (("images", 256, (28, 28)), ("labels", 10, ()))
    }
    monkeypatch.setattr(DataSet, "load", lambda *_: arrays)
    found = domains.domains("mnist", 3, "test", examples=40)
    assert found.train.images.shape == (40, 784)
    assert found.held_out.images.shape == (10_000, 784)
    for order in range(3):
        examples = tasks.get("psmnist")(permutation_seed=order).examples("train", np.arange(40))
        x = found.shown(found.train.images, jnp.full(40, order))
        np.testing.assert_array_equal(x, examples["inputs"].reshape(40, 28, 28))
        np.testing.assert_array_equal(found.train.classes, examples["targets"])


@pytest.mark.usefixtures("quick_compile")
def test_the_program_of_a_task_is_a_loop_over_its_steps():
    """Steps one by one, on the tasks' own examples; the scalar that BMRU schedules is set by hand."""
    found, model = domains.domains("digits", 2, "test"), continual.network("bmru", 8, 8, 6)
    stream = [{name: x[-5:] for name, x in steps.items()} for steps in domains.stream(0, 1295, 2, 1, 50, True)]
    programs = continual.learner(model, continual.Way(), 0.01, 10)
    carry, number = programs.start(3), 0
    transform = optax.adam(0.01)
    graphdef, params, rest = nnx.split(nnx.jit(model, static_argnums=0)(3), nnx.Param, ...)
    optimizer, both = jax.jit(transform.init)(params), [of_task(order) for order in range(2)]

    def logits_of(params, leak, x):
        moved = nnx.map_state(lambda path, old: old.replace(leak) if path[-1] == "epsilon" else old, rest)
        return nnx.merge(graphdef, params, moved)(x)[0]

    @jax.jit
    def step(params, optimizer, leak, x, y, weights):
        def loss(params):
            logits = logits_of(params, leak, x)
            return jnp.sum(weights * (jnp.log(jnp.exp(logits).sum(-1)) - logits[jnp.arange(64), y]))

        updates, optimizer = transform.update(jax.grad(loss)(params), optimizer)
        return optax.apply_updates(params, updates), optimizer

    for steps in stream:
        carry = programs.run(carry, found, steps)
        for i in range(5):
            pairs = list(zip(steps["task"][i], steps["row"][i]))
            x, y = np.stack([both[a][0][b] for a, b in pairs]), np.stack([both[a][1][b] for a, b in pairs])
            # From 1 to 0 between 20 % and 60 % of the 10 steps.
            leak = np.clip((6 - number) / 4, 0, 1).astype(np.float32)
            params, optimizer = step(params, optimizer, leak, x, y, steps["weights"][i])
            number += 1
    for (path, ours), (_, theirs) in zip(nnx.to_flat_state(carry[0]), nnx.to_flat_state(params), strict=True):
        np.testing.assert_allclose(ours[...], theirs[...], atol=1e-4, err_msg=str(path))
    tested = jax.jit(logits_of)
    for order, accuracy in enumerate(programs.accuracies(carry, found)):
        x, y = of_task(order, "test")
        expected = float(np.mean(np.argmax(tested(params, np.float32(0), x), -1) == y))
        assert float(accuracy) == pytest.approx(expected, abs=2.5 / 359)


def run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["continual", "--set", "digits", *map(str, argv)])
    continual.main()


@pytest.mark.usefixtures("quick_compile")
def test_the_command_line(monkeypatch, tmp_path, capsys):
    out = tmp_path / "found" / "digits.json"
    sizes = ["--width", 16, "--state_size", 16, "--examples", 320, "--epochs", 4, "--tasks", 2, "--rate", 0.01]
    run(monkeypatch, "--cell", "miru2", "--replay", "on", "off", "--reservoir", 100, "--seeds", 2, *sizes, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["replay"], row["seed"]) for row in rows] == [(True, 0), (True, 1), (False, 0), (False, 1)]
    for row in rows:
        assert row["steps_per_task"] == 40
        (first, _), last = row["accuracy"]
        assert first > 0.3
        assert row["average_accuracy"] == pytest.approx(np.mean(last), abs=1e-4)
        assert row["forgetting"] == pytest.approx(first - last[0], abs=1e-4)
        assert row["backward_transfer"] == pytest.approx(last[0] - first, abs=1e-4)
    assert np.mean([row["forgetting"] for row in rows[:2]]) < np.mean([row["forgetting"] for row in rows[2:]])
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cell", "nothing"], "unknown cell 'nothing'"),
        (["--tasks", "1"], "expected an integer >= 2, got 1"),
        (["--examples", "1296"], "digits has 1295 training examples"),
        (["--rate", "nan"], "argument --rate: expected a finite number above 0, got nan"),
        (["--set", "mnist", "--data_dir", "nowhere"], "python -m tasks.prepare smnist"),
    ],
)
def test_bad_arguments_end_in_one_line(monkeypatch, capsys, argv, message):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, *argv)
    assert message in capsys.readouterr().err.splitlines()[-1]
