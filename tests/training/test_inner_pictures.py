import jax
import jax.numpy as jnp
import numpy as np
import own_cells
import pytest
from test_look import CLASSES, made

import mru
import tasks
from mru.training import inner_pictures

pytestmark = pytest.mark.usefixtures("quick_compile")


def drawn(run):
    """The figure of each picture, or why there is none."""
    found = {}
    for name, draw in inner_pictures.of_run(run):
        try:
            found[name] = draw()
        except ValueError as error:
            found[name] = str(error)
    return found


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_pictures_show_what_is_measured(tmp_path):
    """Of a classifier with a layer that holds and one that fades, against numbers from its states."""
    run = made(tmp_path, text=CLASSES.replace("[pmru]", "[mingru, pmru]"))
    found = drawn(run)
    assert set(found) == {
        "confusion", "0-0-MinGRU-states", "1-0-PMRU-states", "1-0-PMRU-writes", "0-0-MinGRU-hysteresis",
        "1-0-PMRU-hysteresis", "hold_times", "time_constants", "sensitivity",
    }  # fmt: skip
    (picture,) = found["confusion"].axes[0].images
    assert picture.get_array().shape == (10, 10)

    state, states = run.model.initial_state((8,)), []
    step = jax.jit(run.model.step)
    for t in range(64):
        _, state = step(run.given.inputs[:, t], state)
        states.append(np.asarray(state.cells[1][0]))
    states = np.stack(states, 1)
    above, axis, _ = found["1-0-PMRU-states"].axes
    np.testing.assert_allclose(axis.images[0].get_array(), states[0].T, atol=1e-5)
    np.testing.assert_array_equal(above.get_lines()[0].get_ydata(), run.given.inputs[0, :, 0])

    holds = np.diff(states, axis=1, prepend=0) == 0
    begun = holds & ~np.pad(holds, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    (outline,) = found["hold_times"].axes[0].patches
    assert outline.get_data()[0].sum() == begun.sum()
    writes = found["1-0-PMRU-writes"].axes[1].images[0].get_array()
    np.testing.assert_array_equal(np.asarray(writes[:, 1:], bool), np.diff(states[0], axis=0).T != 0)

    assert legend(found["sensitivity"])[0].startswith("whole model")
    assert [label.split(":")[0] for label in legend(found["time_constants"])] == ["0/0/MinGRU"]
    lines = {line.get_label().split(" (")[0]: line.get_ydata() for line in found["sensitivity"].axes[0].get_lines()}
    expected = np.asarray(mru.dynamics.sensitivity(run.model, run.given.inputs))
    np.testing.assert_allclose(np.nan_to_num(lines["whole model"]), expected, rtol=1e-5)


def test_cells_whose_states_are_no_arrays_of_units(tmp_path):
    """They are drawn as far as they can be; nothing raises what is not caught."""
    assert {"test_lstm", "test_attention"} <= set(mru.cells.names()), own_cells
    run = made(tmp_path, "--model.cells", "test_lstm,test_attention")
    found = drawn(run)
    reasons = {name: text for name, text in found.items() if isinstance(text, str)}
    assert set(reasons) == {"0-0-LSTM-hysteresis", "1-0-CachedAttention-hysteresis"}
    assert all("the states of" in text for text in reasons.values())
    assert "sensitivity" in found


def test_both_directions(tmp_path):
    run = made(tmp_path, "--model.bidirectional", "true", "--model.cells", "bmru")
    found = drawn(run)
    for way in ("forward", "backward"):
        assert {f"0-0-Bidirectional-{way}-states", f"0-0-Bidirectional-{way}-writes"} <= set(found)
    labels = {label.split(":")[0] for label in legend(found["hold_times"])}
    assert labels == {"0/0/Bidirectional/forward", "0/0/Bidirectional/backward"}


def test_tokens_and_padding(monkeypatch, tmp_path):
    kind = tasks.get("copy_first")
    lengths = np.array([7, 3, 20, 20, 5, 6, 2, 9], np.int32)

    def examples(self, split, indices):
        tokens = np.random.default_rng(0).integers(0, 5, (len(indices), 20)).astype(np.int32)
        return {"inputs": tokens, "targets": np.zeros((len(indices), 1), np.float32), "lengths": lengths[indices % 8]}

    monkeypatch.setattr(kind, "_examples", examples)
    monkeypatch.setattr(kind, "features", 0)
    monkeypatch.setattr(kind, "vocabulary", 5, raising=False)
    run = made(tmp_path, "--model.cells", "bmru")
    found = drawn(run)
    assert not [text for text in found.values() if isinstance(text, str)]
    above, axis, _ = found["0-0-BMRU-states"].axes
    assert axis.images[0].get_array().shape == (4, 7)
    np.testing.assert_array_equal(above.get_lines()[0].get_ydata(), run.given.inputs[0, :7])
    # The gradient by a token is not defined, and that by what the layer is given is.
    assert [label.split(" (")[0] for label in legend(found["sensitivity"])] == ["0/0/BMRU"]
    assert len(found["sensitivity"].axes[0].get_lines()[0].get_xdata()) == 7


def test_the_direction_that_moves_a_unit():
    """Against a loop; a unit that moves with one feature is driven along it, one that never moves is not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 40, 2)) * [1, 5] + [2, -1]
    state = np.stack([np.cumsum(x[..., 1] + 1, 1), np.full((3, 40), 0.7)], -1)
    mean, found = inner_pictures.moving_directions(x, state, np.array([0.0, 0.7]))
    np.testing.assert_allclose(mean, x.reshape(-1, 2).mean(0))
    np.testing.assert_array_equal(found[1], 0)
    change, previous = [], 0.0
    for b in range(3):
        previous = 0.0
        for t in range(40):
            change.append(state[b, t, 0] - previous)
            previous = state[b, t, 0]
    rows = x.reshape(-1, 2) - mean
    covariance = sum(c * row for c, row in zip(np.array(change) - np.mean(change), rows))
    direction = covariance / np.linalg.norm(covariance)
    np.testing.assert_allclose(found[0], direction * np.abs(rows @ direction).max())
    assert found[0][1] > 10 * abs(found[0][0])
    assert jnp.isfinite(found).all()
