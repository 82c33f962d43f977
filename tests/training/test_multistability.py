import shutil

import jax
import jax.numpy as jnp
import numpy as np
import own_cells  # noqa: F401 (registers them)
import pytest
from flax import nnx
from train_helpers import arrays, assert_refused, assert_same_arrays, config_file, main, make_trainer

import mru
from mru.dynamics import attractors, layer
from mru.training import checkpoint, multistability

pytestmark = pytest.mark.usefixtures("cache")

WARM = """\
task: {name: copy_first, length: 20, retention: [], held_out: 20}
model: {cells: [gru], width: 16, state_size: 16, expansion: 0}
optimizer: {lr: 1.0e-2}
train: {steps: 20, batch_size: 16, eval_every: 10, log_every: 5}
multistability: {steps: 60, lr: 1.0e-1, rest: 30}
"""


class Bistable(mru.cells.RecurrentCell):
    """h -> 0.7 h + 0.3 tanh(x + g h)."""

    def __init__(self, gain):
        super().__init__(1, 1)
        self.gain = nnx.Param(jnp.asarray(gain))

    def update(self, x, h):
        return 0.7 * h + 0.3 * jnp.tanh(x + self.gain[...] * h)

    def readout(self, h, x):
        return h


def by_hand(gain, x, rest):
    """The measure from its definition, in float64 and by loops."""
    h = np.zeros(len(x))
    for t in range(x.shape[1] + rest):
        h = 0.7 * h + 0.3 * np.tanh((x[:, t, 0] if t < x.shape[1] else 0) + gain * h)
    after = 0.7 * h + 0.3 * np.tanh(gain * h)
    scale, total = max(1, np.abs(h).max()), 0.0
    for i in range(len(h)):
        total += 1 / sum(np.exp(-abs(h[i] - h[j]) / scale / 0.1) for j in range(len(h)))
    return total / len(h) - np.abs(after - h).mean()


@pytest.mark.parametrize("rest", [0, 3, 8])
@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_variability_by_hand(gain, rest):
    x = np.random.default_rng(0).normal(size=(6, 5, 1)).astype(np.float32)
    found = multistability.variability(Bistable(gain), jnp.asarray(x), rest, 8)
    assert float(found) == pytest.approx(by_hand(gain, x.astype(np.float64), rest), abs=1e-5)
    graphdef, params = nnx.split(Bistable(gain))
    gradient = jax.grad(lambda p: multistability.variability(nnx.merge(graphdef, p), jnp.asarray(x), rest, 8))(params)
    slope = (by_hand(gain + 1e-5, x.astype(np.float64), rest) - by_hand(gain - 1e-5, x.astype(np.float64), rest)) / 2e-5
    assert float(gradient["gain"][...]) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_the_measure_counts_what_attractors_counts():
    """Many steps later two ends are two attractors, and one is one."""
    x = jnp.asarray(3 * np.random.default_rng(0).normal(size=(16, 20, 1)), jnp.float32)
    for gain, number in ((0.5, 1), (2.0, 2)):
        assert attractors(Bistable(gain), x, steps=1000) == pytest.approx(number)
        assert 16 * float(multistability.variability(Bistable(gain), x, 300, 300)) == pytest.approx(number, rel=1e-3)


def test_a_monostable_cell_reaches_many(tmp_path, capsys):
    """Of the recurrence alone the parameters move, and twice to the same bits."""
    trainer = make_trainer(tmp_path, text=WARM)
    state = trainer.initial()
    batch = trainer.task.examples("validation", np.arange(16))["inputs"]

    def reached(state):
        return attractors(*layer(nnx.merge(trainer.graphdef, state.params, state.rest), "0/0/GRU", batch))

    assert reached(state) == pytest.approx(1)
    warm, again = (multistability.warmed_up(trainer, state) for _ in range(2))
    assert reached(warm) > 5
    before, after, same = (checkpoint.flatten(s.params) for s in (state, warm, again))
    for name, w in before.items():
        moves = name.startswith("blocks.0.cells.0.cell.")
        assert np.array_equal(after[name], w) != moves, name
        np.testing.assert_array_equal(same[name], after[name])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attractors")]
    assert len(said) == 2
    assert "16 sequences reach, 60 steps of multistability: 0/0/GRU 1 before and " in said[0]


def test_it_is_before_the_first_step_and_never_again(tmp_path):
    argv = ["--config", config_file(tmp_path, WARM), "--multistability.steps", "5", "--workdir"]
    code, said = main(*argv, tmp_path / "a")
    assert code == 0, said
    assert said.count("steps of multistability") == 1
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b/checkpoints/20")
    (tmp_path / "b/summary.json").unlink()
    code, said = main(*argv, tmp_path / "b")
    assert code == 0, said
    assert "resumed at step 10" in said
    assert "multistability" not in said
    assert_same_arrays(arrays(tmp_path / "a", 20), arrays(tmp_path / "b", 20))
    code, said = main(*argv[:2], "--workdir", tmp_path / "b")
    assert_refused(code, said, ["multistability.steps = 5 (now 60)"])


@pytest.mark.parametrize("cells", ["bmru", "lru,pmru", "test_attention"])
def test_what_has_no_equilibria_to_make_is_refused(cells, tmp_path):
    code, said = main("--config", config_file(tmp_path, WARM), "--model.cells", cells)
    assert_refused(code, said, ["multistability.steps = 60, allowed: 0, as cells", cells.split(",")[0]])


def test_the_layers_that_it_is_for():
    model = mru.SequenceModel(1, 1, cells="gru+bmru,test_attention,lstm", width=4, state_size=4, rngs=0)
    assert multistability.suited(model) == ["0/0/GRU", "2/0/LSTM"]
    both = mru.SequenceModel(1, 1, cells="brc", width=4, state_size=4, bidirectional=True, rngs=0)
    assert multistability.suited(both) == ["0/0/Bidirectional/forward", "0/0/Bidirectional/backward"]


def test_layers_one_after_the_other_and_in_both_directions(tmp_path, capsys):
    text = WARM.replace("[gru]", "[gru, lstm]").replace("expansion: 0", "expansion: 0, bidirectional: true")
    trainer = make_trainer(tmp_path, "--multistability.steps", "1", "--multistability.rest", "5", text=text)
    state = trainer.initial()
    warm = checkpoint.flatten(multistability.warmed_up(trainer, state).params)
    moved = {
        name.rpartition(".cell.")[0] for name, w in checkpoint.flatten(state.params).items() if (warm[name] != w).any()
    }
    assert moved == {f"blocks.{n}.cells.0.{way}" for n in (0, 1) for way in ("forward", "backward")}
    assert capsys.readouterr().err.count(" before and ") == 4
