"""Training examples that are moved, mirrored, scaled or noisy: against loops, and in training alone."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train_helpers import config_file, make_trainer, parse

import tasks
from tasks._augmentation import delayed, moved

pytestmark = pytest.mark.usefixtures("quick_compile")

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
SIGNALS, IMAGES = ("fsdd", "speech_commands", "speech_commands_16k", "ecg"), ("smnist", "psmnist", "scifar", "image")


def later(x, steps):
    """One sequence (T, D), later by so many steps, from the definition."""
    out = np.zeros_like(x)
    for t in range(len(x)):
        if 0 <= t - steps < len(x):
            out[t] = x[t - steps]
    return out


def elsewhere(image, down, right, mirrored, fill):
    """One image (side, side, D), mirrored and then moved, pixel by pixel."""
    side = len(image)
    out = np.empty_like(image)
    for i, j in np.ndindex(side, side):
        row, column = i - down, j - right
        if not (0 <= row < side and 0 <= column < side):
            out[i, j] = fill
        else:
            out[i, j] = image[row, side - 1 - column if mirrored else column]
    return out


@pytest.mark.parametrize("time", [1, 7])
def test_delayed_sequences_against_a_loop(time):
    steps = np.arange(-time, time + 1)
    x = RNG.normal(size=(len(steps), time, 2)).astype(np.float32)
    found = delayed(jnp.asarray(x), jnp.asarray(steps))
    np.testing.assert_array_equal(found, [later(row, by) for row, by in zip(x, steps)])


@pytest.mark.parametrize("side", [4, 5])
def test_moved_images_against_a_loop_in_any_order_of_pixels(side):
    moves = [(i, j, m) for i in range(-side, side + 1) for j in (-side, -1, 0, 2) for m in (False, True)]
    down, right, mirrored = (np.array(x) for x in zip(*moves))
    images, order = RNG.normal(size=(len(moves), side, side, 3)).astype(np.float32), RNG.permutation(side**2)
    fill = np.float32([-1, 2, 5])
    shown = images.reshape(len(moves), -1, 3)[:, order]
    expected = np.array([elsewhere(x, *move, fill) for x, move in zip(images, moves)])
    found = moved(jnp.asarray(shown), order, down, right, jnp.asarray(mirrored), fill)
    np.testing.assert_array_equal(found, expected.reshape(len(moves), -1, 3)[:, order])


def signals(n, time, has_lengths):
    lengths = RNG.integers(1, time + 1, size=n).astype(np.int32)
    x = RNG.normal(size=(n, time, 1)).astype(np.float32)
    if has_lengths:
        x[np.arange(time) >= lengths[:, None]] = 0
    return {"inputs": jnp.asarray(x), "targets": jnp.zeros(n)} | (
        {"lengths": jnp.asarray(lengths)} if has_lengths else {}
    )


@pytest.mark.parametrize("has_lengths", [False, True])
def test_shifted_signals_are_one_of_the_shifts_and_their_lengths_move_too(has_lengths):
    task, batch = tasks.get("fsdd")(length=9, shift=2), signals(200, 9, has_lengths)
    out, seen = task.augmented(batch, KEY), []
    for i, (x, y) in enumerate(zip(np.asarray(batch["inputs"]), np.asarray(out["inputs"]))):
        fits = [s for s in range(-2, 3) if np.array_equal(later(x, s), y)]
        if has_lengths:
            n = int(batch["lengths"][i])
            fits = [s for s in fits if min(max(n + s, 1), 9) == int(out["lengths"][i])]
            assert not y[int(out["lengths"][i]) :].any()
        assert fits
        seen += fits if len(fits) == 1 else []
    np.testing.assert_allclose(np.bincount(np.array(seen) + 2) / len(seen), 0.2, atol=5 * np.sqrt(0.16 / len(seen)))
    assert out.keys() == batch.keys()
    assert not has_lengths or out["lengths"].dtype == jnp.int32


def test_gain_is_one_uniform_factor_for_each_signal():
    task, batch = tasks.get("ecg")(length=5, gain=0.4), signals(2000, 5, False)
    factors = np.asarray(task.augmented(batch, KEY)["inputs"] / batch["inputs"], np.float64)[..., 0]
    np.testing.assert_allclose(factors, factors[:, :1].repeat(5, 1), rtol=1e-5)
    first = factors[:, 0]
    assert 0.6 <= first.min() < 0.61
    assert 1.39 < first.max() <= 1.4 + 1e-6
    assert abs(first.mean() - 1) < 5 * np.sqrt(0.8**2 / 12 / 2000)
    assert abs(first.var() - 0.8**2 / 12) < 5 * np.sqrt(0.4**4 * 4 / 45 / 2000)


def test_noise_is_normal_and_leaves_padding_alone():
    task, batch = tasks.get("fsdd")(length=51, noise=0.5), signals(400, 51, True)
    out = task.augmented(batch, KEY)
    added = np.asarray(out["inputs"] - batch["inputs"], np.float64)[..., 0]
    is_real = np.arange(51) < np.asarray(batch["lengths"])[:, None]
    assert not added[~is_real].any()
    n = is_real.sum()
    assert abs(added[is_real].mean()) < 5 * 0.5 / np.sqrt(n)
    assert abs(added[is_real].var() - 0.25) < 5 * 0.25 * np.sqrt(2 / n)
    np.testing.assert_array_equal(out["lengths"], batch["lengths"])


def test_what_one_option_draws_does_not_depend_on_the_others():
    batch = signals(20, 9, False)
    moved_, scaled, both = (
        np.asarray(tasks.get("ecg")(length=9, **options).augmented(batch, KEY)["inputs"])
        for options in ({"shift": 3}, {"gain": 0.5}, {"shift": 3, "gain": 0.5})
    )
    factors = scaled[:, :1] / np.asarray(batch["inputs"])[:, :1]
    np.testing.assert_allclose(both, moved_ * factors, rtol=1e-5)


@pytest.mark.parametrize("name", ["smnist", "scifar", "image"])
def test_images_are_shifted_by_the_same_in_every_channel_and_filled_with_black(name, arrays_are):
    side, colours = (28, ()) if name == "smnist" else (32, (3,))
    pixels = RNG.integers(256, size=(40, side, side, *colours), dtype=np.uint8)
    pixels[0] = 0
    arrays_are({"test_images": pixels, "test_labels": np.zeros(40, np.uint8)})
    task = tasks.get(name)(shift=1)
    x = task.examples("test", np.arange(40))["inputs"]
    black, batch = x[0, 0], {"inputs": jnp.asarray(x), "targets": jnp.zeros(40)}
    found = np.asarray(task.augmented(batch, KEY)["inputs"]).reshape(40, side, side, -1)
    images, seen = x.reshape(40, side, side, -1), set()
    for image, out in zip(images[1:], found[1:]):
        fits = [
            (i, j)
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if np.allclose(elsewhere(image, i, j, False, black), out, atol=1e-5)
        ]
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) > 6
    np.testing.assert_allclose(found[0], images[0], atol=1e-5)  # black stays black


@pytest.mark.parametrize("name", ["psmnist", "permuted_fashion_mnist"])
def test_a_permuted_image_is_shifted_before_its_pixels_are_permuted(name):
    task, plain = tasks.get(name)(shift=3), tasks.get(name.replace("permuted_", "").replace("ps", "s"))(shift=3)
    x = RNG.normal(size=(20, 784, 1)).astype(np.float32)
    expected = plain.augmented({"inputs": jnp.asarray(x)}, KEY)["inputs"]
    found = task.augmented({"inputs": jnp.asarray(x[:, task.order])}, KEY)["inputs"]
    np.testing.assert_array_equal(found, expected[:, task.order])
    assert not np.array_equal(expected, x)


def test_half_of_the_images_are_mirrored():
    x = RNG.normal(size=(100, 1024, 3)).astype(np.float32)
    found = np.asarray(tasks.get("scifar")(flip=True).augmented({"inputs": jnp.asarray(x)}, KEY)["inputs"])
    mirrored = x.reshape(100, 32, 32, 3)[:, :, ::-1].reshape(x.shape)
    is_mirrored = (found == mirrored).all((1, 2))
    np.testing.assert_array_equal(is_mirrored, ~(found == x).all((1, 2)))
    assert abs(is_mirrored.mean() - 0.5) < 2.5 / np.sqrt(100)


@pytest.mark.parametrize("name", sorted({*tasks.names()} - {"npz"}))
def test_without_options_a_batch_is_as_it_is(name):
    batch = signals(3, 9, True)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, tasks.get(name)().augmented(batch, KEY), batch))


@pytest.mark.parametrize(
    ("names", "option", "value", "allowed"),
    [
        (SIGNALS, "shift", -1, "an integer >= 0"),
        (SIGNALS, "shift", 2**30, "an integer >= 0, below the"),
        (SIGNALS, "gain", 1.0, "a number >= 0 and below 1"),
        (SIGNALS, "noise", float("inf"), "a finite number >= 0 of 32 bits"),
        (SIGNALS, "noise", -0.1, "a finite number >= 0 of 32 bits"),
        (IMAGES, "shift", 32, "an integer >= 0, below the"),
        (IMAGES, "shift", 0.5, "an integer >= 0"),
    ],
)
def test_options_are_checked(names, option, value, allowed):
    for name in names:
        with pytest.raises(ValueError, match=rf"^task\.{option} = {value}, allowed for {name}: {re.escape(allowed)}"):
            tasks.get(name)(**{option: value})


TEXT = """\
task: {name: fsdd, length: 9, shift: 3, gain: 0.3, noise: 0.1}
model: {cells: [lru], width: 4, state_size: 2, expansion: 0, dropout: 0.5}
train: {steps: 6, batch_size: 4, eval_every: 3, seed: 5}
"""


@pytest.fixture
def trainer(arrays_are, monkeypatch, tmp_path):
    """A trainer on a few made recordings."""
    lengths = RNG.integers(2, 12, size=16)
    arrays = {"samples": RNG.integers(-3000, 3000, size=lengths.sum()).astype(np.int16)}
    arrays |= {"starts": np.concatenate([[0], np.cumsum(lengths)]), "labels": RNG.integers(10, size=16, dtype=np.uint8)}
    arrays_are({f"{part}_{name}": x for part in ("train", "test") for name, x in arrays.items()})
    monkeypatch.setattr(tasks.get("fsdd"), "sizes", {"train": 12, "validation": 4, "test": 4})
    return make_trainer(tmp_path, text=TEXT)


def loss_by_hand(trainer, state, batch, **rngs):
    """The loss of the model on a batch as it is given."""
    model = nnx.merge(trainer.graphdef, state.params, state.rest)
    outputs, _ = model(batch["inputs"], lengths=batch["lengths"], **rngs)
    return trainer.task.loss(outputs, batch).mean()


def test_a_train_step_learns_from_a_batch_that_seed_and_step_change(trainer):
    state, seed = trainer.initial(), jax.random.key(5)
    batch = {name: jnp.asarray(x) for name, x in trainer.task.examples("train", np.arange(4)).items()}

    @jax.jit
    def expected(number):
        changed = trainer.task.augmented(batch, jax.random.fold_in(jax.random.fold_in(seed, 2**32 - 3), number))
        # Dropout has the keys that it has always had.
        rngs = nnx.Rngs(dropout=jax.random.fold_in(seed, number))
        return loss_by_hand(trainer, state, changed, rngs=rngs), changed["inputs"]

    step = jax.jit(lambda number: trainer._step(dataclasses.replace(state, step=number), batch)[1]["loss"])
    found, inputs = [float(step(jnp.int32(k))) for k in range(3)], [expected(k)[1] for k in range(3)]
    assert found == pytest.approx([float(expected(k)[0]) for k in range(3)], rel=1e-5)
    assert not np.array_equal(inputs[0], inputs[1])
    assert not np.array_equal(inputs[0], batch["inputs"])


def test_evaluation_and_what_the_pipeline_makes_know_nothing_of_it(trainer):
    state, examples = trainer.initial(), trainer.task.examples("test", np.arange(4))
    found = trainer.evaluate(state, "test")[0]["loss"]
    assert found == pytest.approx(float(jax.jit(lambda: loss_by_hand(trainer, state, examples))()), rel=1e-5)
    plain = tasks.get("fsdd")(length=9)
    jax.tree.map(np.testing.assert_array_equal, plain.examples("test", np.arange(4)), examples)


def test_a_config_sets_the_options(tmp_path):
    text = "task: {name: scifar, shift: 4, flip: true}\nmodel: {cells: [lru]}\n"
    config = parse(["--config", str(config_file(tmp_path, text)), "--workdir", str(tmp_path / "w")])
    assert (config.task.shift, config.task.flip) == (4, True)
