import re
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks
from mru.training import SPLITS
from tasks import _philox, base
from tasks.base import accuracy, cross_entropy

TOKENS = ["flip_flop", "mod_k", "mqar", "parity", "selective_copy", "word_s3", "word_s5"]
GENERATED = ["adding", "copy_first", "denoising", "evidence", *TOKENS]
EMBEDDED = [*GENERATED, "digits"]  # what needs no prepared data


def test_names_are_sorted_and_lead_to_their_class():
    assert {"copy_first", "digits", "evidence", "psmnist", "smnist"} <= set(tasks.names())
    assert tasks.names() == sorted(tasks.names())
    for name in tasks.names():
        assert tasks.get(name).name == name


def test_unknown_name_lists_the_known_in_one_line():
    with pytest.raises(ValueError, match=r"'mnits'.*copy_first.*psmnist") as caught:
        tasks.get("mnits")
    assert "\n" not in str(caught.value)


def test_a_new_file_is_a_new_task(tmp_path, monkeypatch):
    (tmp_path / "brand_new.py").write_text(
        "from tasks.base import Generated\nclass BrandNew(Generated, name='brand_new'):\n    pass\n"
    )
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    monkeypatch.setattr(tasks.REGISTRY, "_classes", dict(tasks.REGISTRY._classes))
    tasks._import_all()
    try:
        assert tasks.get("brand_new").__module__ == "tasks.brand_new"
        with pytest.raises(ValueError, match=r"brand_new.*taken by tasks.brand_new:BrandNew"):
            type("Again", (tasks.Task,), {}, name="brand_new")
    finally:
        sys.modules.pop("tasks.brand_new", None)


def test_options_may_be_integers_of_numpy():
    task = tasks.get("digits")(seed=np.int64(3), permutation_seed=np.int32(2))
    assert repr(task) == repr(tasks.get("digits")(seed=3, permutation_seed=2))
    assert type(tasks.get("parity")().at(np.int64(9)).length) is int


@pytest.mark.parametrize("indices", [3, [[1, 2]], [1.7], [True]])
def test_indices_are_a_row_of_integers(indices):
    with pytest.raises(ValueError, match=r"indices must be integers \(n,\), got "):
        tasks.get("parity")().examples("train", indices)
    assert len(tasks.get("parity")().examples("train", [])["inputs"]) == 0


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("split", SPLITS)
def test_examples_depend_on_their_index_alone(name, split):
    task = tasks.get(name)()
    indices = np.array([7, 0, 141, 7, 3])
    batch = task.examples(split, indices)
    for i, index in enumerate(indices):
        alone = tasks.get(name)().examples(split, np.array([index]))
        for key, array in batch.items():
            np.testing.assert_array_equal(array[i], alone[key][0])
    tokens = name in TOKENS
    assert batch["inputs"].shape == ((5, task.length) if tokens else (5, task.length, task.features))
    assert batch["inputs"].dtype == (np.int32 if tokens else np.float32)
    assert not np.array_equal(batch["inputs"][0], batch["inputs"][1])


@pytest.mark.parametrize("name", EMBEDDED)
def test_splits_share_no_example(name):
    task = tasks.get(name)()
    seen = set()
    for split in SPLITS:
        rows = task.examples(split, np.arange(min(task.sizes[split], 2000)))["inputs"]
        rows = {row.tobytes() for row in rows}
        assert len(rows) == min(task.sizes[split], 2000)
        assert not rows & seen
        seen |= rows


@pytest.mark.parametrize("name", GENERATED)
def test_seeds_make_other_examples_and_the_last_index_exists(name):
    kind = tasks.get(name)
    first, last = np.array([0]), np.array([kind().sizes["train"] - 1])
    a = kind(seed=0).examples("train", first)["inputs"]
    for other in (kind(seed=2**32).examples("train", first)["inputs"], kind(seed=0).examples("train", last)["inputs"]):
        assert not (np.array_equal(a, other) if name in TOKENS else np.isin(a[..., 0], other[..., 0]).any())
    assert kind(held_out=12).sizes["test"] == 12


def test_generated_streams_are_philox_at_the_index():
    class Probe(type(tasks.get("copy_first")())):
        name = "probe"

    (stream,) = Probe(seed=3)._streams("test", np.array([5]))
    ours = stream.bit_generator.random_raw(6)
    entropy = np.random.SeedSequence([zlib.crc32(b"probe"), 2, 3])
    other = np.random.Philox(key=entropy.generate_state(2, np.uint64), counter=[0, 0, 0, 5])
    np.testing.assert_array_equal(ours, other.random_raw(6))


@pytest.mark.parametrize("count", [1, 6, 7, 32, 33, 70])
def test_bits_and_numbers_of_a_batch_are_those_of_each_stream(count):
    """Few are computed for all streams at a time, many by NumPy's generator for one after the other."""
    task, indices = tasks.get("copy_first")(seed=3), np.array([5, 0, 2**40])
    words, draws = task._words("test", indices, count), task._uniform("test", indices, count)
    assert words.shape == draws.shape == (3, count)
    assert task._uniform("test", indices[:0], count).shape == (0, count)
    together = _philox.raw(base._key(task.name, 3, "test"), indices, count)
    streams = (stream.bit_generator.random_raw(70) for stream in task._streams("test", indices))
    for row, draw, one, raw in zip(words, draws, together, streams):
        assert one.tolist() == raw[:count].tolist()
        halves = [half for bits in raw.tolist() for half in (bits % 2**32, bits >> 32)]
        assert row.tolist() == halves[:count]
        assert draw.tolist() == [(bits >> 11) / 2**53 for bits in raw.tolist()[:count]]


@pytest.mark.parametrize("name", EMBEDDED)
def test_bad_split_and_index(name):
    task = tasks.get(name)()
    with pytest.raises(ValueError, match=r"'valid'.*train, validation, test"):
        task.examples("valid", np.array([0]))
    for index in (-1, task.sizes["test"]):
        with pytest.raises(IndexError, match=f"{task.sizes['test']} test examples.*{index}"):
            task.examples("test", np.array([index]))


@pytest.mark.parametrize(
    ("name", "option", "value", "allowed"),
    [
        ("copy_first", "length", 0, "an integer >= 1"),
        ("copy_first", "length", 2.5, "an integer >= 1"),
        ("copy_first", "seed", -1, "an integer >= 0"),
        ("copy_first", "held_out", 0, "an integer >= 1"),
        ("evidence", "cue", 0, "an integer >= 1"),
        ("evidence", "delay", -1, "an integer >= 0"),
        ("evidence", "mean", 0.0, "a finite number > 0"),
        ("evidence", "noise", float("nan"), "a finite number > 0"),
        ("digits", "permutation_seed", -1, "an integer >= 0"),
        ("psmnist", "permutation_seed", True, "an integer >= 0"),
        ("digits", "retention", (64,), "one length only"),
    ],
)
def test_bad_options_say_what_is_allowed(name, option, value, allowed):
    pattern = rf"^task\.{option} = {re.escape(repr(value))}, allowed for {name}: .*{re.escape(allowed)}[^\n]*$"
    with pytest.raises(ValueError, match=pattern):
        tasks.get(name)(**{option: value})


def test_bad_retention_names_the_length():
    with pytest.raises(ValueError, match=r"task\.retention = \(5, 0\), of which task\.length = 0"):
        tasks.get("copy_first")(retention=(5, 0))


def test_at_changes_the_length_alone():
    task = tasks.get("evidence")(cue=3, seed=9).at(11)
    assert (task.cue, task.seed, task.delay, task.length) == (3, 9, 11, 15)
    assert tasks.get("copy_first")().at(7).length == 7
    with pytest.raises(ValueError, match="digits has one length only, 64"):
        tasks.get("digits")().at(65)


@pytest.mark.parametrize("name", sorted({*tasks.names()} - {"npz"}))  # which is what its file is, see test_npz.py
def test_loss_and_metrics_are_per_example_under_jit(name):
    task = tasks.get(name)()
    numbers = task.metric == "mse"
    targets = np.ones((4, task.outputs), np.float32) if numbers else np.array([0, 1, 1, 0])
    if task.pooling == "none":  # a target at every step
        targets = np.stack([targets, 1 - targets, targets], 1)
    shape = targets.shape if numbers else (*targets.shape, task.outputs)
    outputs = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.bfloat16)
    batch = {"targets": targets}
    loss = jax.jit(task.loss)(outputs, batch)
    metrics = jax.jit(task.metrics)(outputs, batch)
    assert loss.shape == (4,)
    assert loss.dtype == jnp.float32
    whole = task.summarise({key: np.asarray(x) for key, x in task.scores(outputs, batch).items()})
    assert task.metric in metrics | whole
    assert task.goal in ("min", "max")
    assert all(value.shape == (4,) and value.dtype == jnp.float32 for value in metrics.values())
    # The best outputs have the best metric, and chance lies on the worse side of it.
    best = jnp.asarray(targets if numbers else 99 * np.eye(task.outputs)[targets])
    means = {key: float(x.mean()) for key, x in task.metrics(best, batch).items()}
    whole = task.summarise({key: np.asarray(x) for key, x in task.scores(best, batch).items()})
    value = (means | whole)[task.metric]
    assert value == (0 if task.goal == "min" else 1)
    assert task.chance > value if task.goal == "min" else task.chance < value


def test_cross_entropy_and_accuracy():
    logits = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
    targets = np.array([0, 1])
    exact = [np.log(np.exp(row).sum()) - row[target] for row, target in zip(logits, targets)]
    np.testing.assert_allclose(cross_entropy(jnp.asarray(logits), targets), exact, rtol=1e-6)
    np.testing.assert_array_equal(accuracy(jnp.asarray(logits), targets), [1, 0])
