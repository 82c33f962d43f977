import re
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import config_file, main

import tasks

RNG = np.random.default_rng(0)
X, TOKENS = RNG.normal(size=(40, 6, 2)), RNG.integers(9, size=(40, 6))
CLASSES, EVERY_STEP = np.arange(40) % 3, TOKENS % 4
LENGTHS = RNG.integers(1, 7, size=40)
SPLIT = np.repeat(["train", "validation", "test"], [20, 15, 5])


@pytest.fixture
def saved(tmp_path):
    """Writes a file, and makes the task of it."""

    def save(options=None, **arrays):
        path = tmp_path / "own.npz"
        np.savez(path, **arrays)
        return tasks.get("npz")(path=str(path), **(options or {}))

    return save


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": X, "y": CLASSES}, (2, 0, 3, "mean", "accuracy", "max")),
        ({"x": X[..., 0], "y": CLASSES > 0}, (1, 0, 2, "mean", "accuracy", "max")),
        ({"x": TOKENS, "y": CLASSES}, (0, 9, 3, "mean", "accuracy", "max")),
        ({"x": TOKENS, "y": EVERY_STEP, "lengths": LENGTHS}, (0, 9, 4, "none", "accuracy", "max")),
        ({"x": X, "y": X[:, 0, 0]}, (2, 0, 1, "mean", "mse", "min")),
        ({"x": X, "y": X[:, :3, 0]}, (2, 0, 3, "mean", "mse", "min")),
        ({"x": X.astype(np.float32), "y": X[:, :, :1]}, (2, 0, 1, "none", "mse", "min")),
    ],
)
def test_arrays_say_what_the_task_is(saved, arrays, expected):
    task = saved(split=SPLIT, **arrays)
    assert (task.features, task.vocabulary, task.outputs, task.pooling, task.metric, task.goal) == expected
    assert task.length == 6
    assert task.sizes == {"train": 20, "validation": 15, "test": 5}
    batch = task.examples("validation", np.array([14, 0]))
    rows = [34, 20]
    x = arrays["x"] if arrays["x"].ndim == 3 or task.vocabulary else arrays["x"][..., None]
    np.testing.assert_allclose(batch["inputs"], x[rows], rtol=1e-6)
    y = arrays["y"][rows]
    np.testing.assert_allclose(batch["targets"], y[:, None] if task.metric == "mse" and y.ndim == 1 else y, rtol=1e-6)
    assert batch["inputs"].dtype == (np.int32 if task.vocabulary else np.float32)
    assert ("lengths" in batch) == ("lengths" in arrays)
    assert task.time_axes == ({"inputs": 1, "targets": 1} if task.pooling == "none" else {"inputs": 1})


def test_without_a_split_examples_are_drawn(saved):
    task = saved(x=X, y=CLASSES)
    assert task.example_lengths("train", np.arange(3)) is None
    assert task.sizes == {"train": 32, "validation": 4, "test": 4}
    rows = [tuple(row) for s, n in task.sizes.items() for row in task.examples(s, np.arange(n))["inputs"][:, 0]]
    assert sorted(rows) == sorted(map(tuple, X[:, 0].astype(np.float32)))
    assert rows != [tuple(row) for row in X[:, 0].astype(np.float32)]


def test_padding_is_masked_in_loss_and_metrics(saved):
    task = saved(x=TOKENS, y=EVERY_STEP, lengths=LENGTHS, split=SPLIT)
    batch = task.examples("train", np.arange(20))
    np.testing.assert_array_equal(task.example_lengths("train", np.arange(20)), LENGTHS[:20])
    logits = RNG.normal(size=(20, 6, 4))
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss, right = [], []
    for i in range(20):
        steps = range(LENGTHS[i])
        loss.append(-np.mean([logp[i, t, EVERY_STEP[i, t]] for t in steps]))
        right.append(np.mean([logits[i, t].argmax() == EVERY_STEP[i, t] for t in steps]))
    np.testing.assert_allclose(task.loss(jnp.asarray(logits), batch), loss, rtol=1e-5)
    np.testing.assert_allclose(task.metrics(jnp.asarray(logits), batch)["accuracy"], right, rtol=1e-6)


def test_squared_error_at_every_step(saved):
    task = saved(x=X, y=X * 2, lengths=LENGTHS, split=SPLIT)
    batch, outputs = task.examples("test", np.arange(5)), RNG.normal(size=(5, 6, 2))
    expected = [np.mean([(outputs[i, t] - 2 * X[35 + i, t]) ** 2 for t in range(LENGTHS[35 + i])]) for i in range(5)]
    np.testing.assert_allclose(task.metrics(jnp.asarray(outputs), batch)["mse"], expected, rtol=1e-5)
    # The metric is a mean over examples of means over steps, and so is the best constant answer.
    best = np.mean([2 * X[i, : LENGTHS[i]].mean(0) for i in range(20)], 0)
    assert task.chance == pytest.approx(
        float(np.mean(task.metrics(jnp.broadcast_to(best, (5, 6, 2)), batch)["mse"])), rel=1e-5
    )


def test_chance_of_classes_at_every_step_counts_examples_alike(saved):
    """Short examples, of which more are of class 1, count as much as the long ones of class 0."""
    lengths, y = np.resize([1, 1, 1, 6], 40), np.zeros((40, 6), int)
    y[lengths == 1] = 1
    task = saved(x=X, y=y, lengths=lengths, split=SPLIT)
    batch, always = task.examples("test", np.arange(5)), jnp.broadcast_to(jnp.array([0.0, 1.0]), (5, 6, 2))
    assert task.chance == pytest.approx(float(np.mean(task.metrics(always, batch)["accuracy"])), rel=1e-6)
    assert task.chance == pytest.approx(np.mean(lengths[35:] == 1))


def test_chance_of_classes_is_the_most_frequent_of_train(saved):
    y = np.repeat([2, 0, 1, 2], [12, 8, 17, 3])  # of train 2; of test two 1 and three 2
    assert saved(x=X, y=y, split=SPLIT).chance == pytest.approx(3 / 5)


BAD = X.copy()
BAD[7, 3, 1] = np.nan
HUGE = X.copy()
HUGE[9] = 1e300
MISTAKES = {
    "NaN": ({"x": BAD, "y": CLASSES}, "x of example 7 (and 0 more) is not finite"),
    "too large": ({"x": HUGE, "y": CLASSES}, "x of example 9 (and 0 more) is not finite"),
    "NaN in y": ({"x": X, "y": BAD[:, 3]}, "y of example 7 (and 0 more) is not finite"),
    "negative class": ({"x": X, "y": CLASSES - 1}, "y of example 0 has -1 among its classes; allowed: 0 to"),
    "negative token": ({"x": TOKENS - 9, "y": CLASSES}, "among its tokens; allowed: 0 to"),
    "empty split": ({"x": X[:9], "y": CLASSES[:9]}, "its split validation is empty, of 9 examples"),
    "empty named split": ({"x": X, "y": CLASSES, "split": ["train"] * 40}, "its split validation is empty"),
    "strange split": ({"x": X, "y": CLASSES, "split": ["valid"] * 40}, "split has 'valid'; allowed: for each"),
    "no y": ({"x": X}, "it has x; allowed: arrays x and y, and also lengths and split"),
    "another array": ({"x": X, "y": CLASSES, "mask": X}, "it has x, y, mask; allowed"),
    "too few": ({"x": X, "y": CLASSES[:39]}, "y has shape (39,); allowed: one entry for each of the 40 of x"),
    "one number": ({"x": X, "y": 3}, "y has shape (); allowed"),
    "texts": ({"x": X, "y": np.array(["a"] * 40)}, "y is <U1 (40,); allowed with T = 6: classes, integers (n,)"),
    "numbers of no kind": ({"x": X, "y": np.zeros((40, 0))}, "y is float64 (40, 0); allowed with T = 6"),
    "classes that do not fit": ({"x": X, "y": TOKENS[:, :4]}, "y is int64 (40, 4); allowed with T = 6"),
    "no time": ({"x": X[:, 0, 0], "y": CLASSES}, "x is float64 (40,); allowed: floats (n, T)"),
    "complex": ({"x": X * 1j, "y": CLASSES}, "x is complex128 (40, 6, 2); allowed"),
    "nothing": ({"x": X[:0], "y": CLASSES[:0]}, "x is float64 (0, 6, 2); allowed"),
    "lengths of 0": ({"x": X, "y": CLASSES, "lengths": LENGTHS * 0}, "lengths of example 0 is 0; allowed: 1 to T"),
    "lengths beyond T": ({"x": X, "y": CLASSES, "lengths": LENGTHS + 6}, "allowed: 1 to T, which is 6"),
    "lengths as floats": ({"x": X, "y": CLASSES, "lengths": LENGTHS * 1.0}, "lengths is float64 (40,); allowed"),
    "objects": ({"x": np.array([None] * 40), "y": CLASSES}, "it can not be read as .npz: Object arrays"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(saved, tmp_path, name):
    arrays, expected = MISTAKES[name]
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        saved(**arrays)
    assert str(caught.value).startswith(f"task.path = {tmp_path}"[:20])
    assert "\n" not in str(caught.value)


def test_a_class_beyond_those_that_are_named(saved):
    assert saved({"classes": 7}, x=X, y=CLASSES).outputs == 7
    with pytest.raises(ValueError, match="y of example 2 has 2 among its classes; allowed: 0 to 1"):
        saved({"classes": 2}, x=X, y=CLASSES)
    with pytest.raises(ValueError, match=r"allowed with T = 6: classes, .* as task.classes is given"):
        saved({"classes": 2}, x=X, y=X[:, 0])


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_file_that_is_no_npz(tmp_path, data):
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"it can not be read as \.npz: "):
        tasks.get("npz")(path=str(tmp_path / "a.npz"))


def test_truncated_npz(saved, tmp_path):
    saved(x=X, y=CLASSES)
    path = tmp_path / "own.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"it can not be read as \.npz: "):
        tasks.get("npz")(path=str(path))


def test_damaged_compressed_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=CLASSES)
    data = bytearray(path.read_bytes())
    data[100] ^= 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"it can not be read as \.npz: .*decompressing"):
        tasks.get("npz")(path=str(path))


def test_members_that_are_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for name in ("x", "y"):
            file.writestr(name, "1, 2, 3")
    with pytest.raises(ValueError, match="it has x, y, but as no array of NumPy's"):
        tasks.get("npz")(path=str(tmp_path / "a.npz"))


def test_npy_is_no_npz(tmp_path):
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(ValueError, match=r"it can not be read as \.npz: "):
        tasks.get("npz")(path=str(tmp_path / "a.npy"))


def test_file_that_changed_is_read_anew(saved):
    assert saved(x=X, y=CLASSES).outputs == 3
    assert saved(x=X, y=CLASSES * 2).outputs == 5


CONFIG = """\
task: {{name: npz, path: {path}}}
model: {{cells: [lru], width: 4, state_size: 2, expansion: 0}}
train: {{steps: 4, batch_size: 4, eval_every: 4}}
"""


def test_missing_file_and_bad_file_end_the_command_in_one_line(tmp_path, saved):
    code, said = main("--config", config_file(tmp_path, CONFIG.format(path=tmp_path / "no.npz")))
    assert code == 2
    assert "no.npz, allowed: an .npz file with arrays x and y (No such file or directory)" in said
    with pytest.raises(ValueError, match="NaN"):
        saved(x=BAD, y=CLASSES)
    code, said = main("--config", config_file(tmp_path, CONFIG.format(path=tmp_path / "own.npz")))
    assert code == 2
    assert "x of example 7 (and 0 more) is not finite" in said


def test_a_run_goes_on_where_its_data_are_moved_to(tmp_path, saved, quick_compile, monkeypatch):
    saved(x=X, y=CLASSES)
    config, moved = config_file(tmp_path, CONFIG.format(path=tmp_path / "own.npz")), tmp_path / "moved.npz"
    command = "--config", config, "--workdir", tmp_path / "w"
    code, said = main(*command)
    assert code == 0, said
    (tmp_path / "own.npz").rename(moved)
    code, said = main(*command, "--train.steps", 8, "--task.path", moved)
    assert code == 0, said
    assert f"path: {moved}" in (tmp_path / "w/config.yaml").read_text()
    np.savez(tmp_path / "other.npz", x=X[::-1], y=CLASSES[::-1])
    code, said = main(*command, "--train.steps", 12, "--task.path", tmp_path / "other.npz")
    assert code == 2
    assert "checkpoint 8 is of other data of task npz" in said
    # Nothing says what the data of such a task are.
    monkeypatch.setattr(tasks.get("npz"), "data_version", None)
    code, said = main(*command, "--train.steps", 12, "--task.path", moved)
    assert code == 2
    assert "checkpoint 8 is of other data of task npz" in said
    config = config_file(tmp_path, CONFIG.format(path=moved))
    command = "--config", config, "--workdir", tmp_path / "v"
    assert main(*command)[0] == 0
    code, said = main(*command, "--train.steps", 8, "--task.path", tmp_path / "other.npz")
    assert code == 2
    assert f"they must lie where they did: task.path = {moved}" in said


def test_a_run_does_not_go_on_with_other_data(tmp_path, saved, quick_compile):
    """The order of the rows says which of them are for test."""
    saved(x=X, y=CLASSES)
    command = "--config", config_file(tmp_path, CONFIG.format(path=tmp_path / "own.npz")), "--workdir", tmp_path / "w"
    code, said = main(*command)
    assert code == 0, said
    saved(x=X[::-1], y=CLASSES[::-1])
    code, said = main(*command, "--train.steps", 8)
    assert code == 2
    assert "checkpoint 4 is of other data of task npz: put these back, or start anew" in said
    saved(x=X, y=CLASSES)
    code, said = main(*command, "--train.steps", 8)
    assert code == 0, said
    saved(x=np.concatenate([X, X], -1), y=CLASSES)
    code, said = main("--plot", tmp_path / "w")
    assert code == 2
    assert "the model takes floating-point features (..., T, 2), got float32 (16, 6, 4)" in said
    saved(x=X, y=CLASSES * 2)
    code, said = main("--plot", tmp_path / "w")
    assert code == 2
    assert "its model has 3 outputs, its task has 5 now" in said


def test_padded_steps_train(tmp_path, saved, quick_compile):
    saved(x=TOKENS, y=EVERY_STEP, lengths=LENGTHS)
    text = CONFIG.format(path=tmp_path / "own.npz")
    code, said = main("--config", config_file(tmp_path, text), "--workdir", tmp_path / "w")
    assert code == 0, said
    assert (tmp_path / "w" / "summary.json").exists()
