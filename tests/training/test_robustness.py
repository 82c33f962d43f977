import contextlib
import io
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train_helpers import main, parse

import mru
from mru.training import checkpoint, robustness
from mru.training.messages import RunFailed
from mru.training.trainer import TrainState

P = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0]


def params(**arrays):
    return nnx.State({name: nnx.Param(jnp.asarray(x)) for name, x in arrays.items()})


def factors(p, seed=0, size=40_000):
    """What the numbers of two arrays were multiplied with."""
    before = np.random.default_rng(0).uniform(1, 2, (2, size)).astype(np.float32)
    after = robustness.perturbed(params(a=before[0], b=before[1]), jax.random.key(seed), p)
    return np.array([after["a"][...], after["b"][...]], np.float64) / before


@pytest.mark.parametrize("p", P[1:])
def test_factors_are_those_of_the_protocol(p):
    """1 + N(0, (p/3)^2): mean, standard deviation, kurtosis, and no correlation between the arrays."""
    found = factors(p)
    sd, count = p / 3, found.size
    assert abs(found.mean() - 1) < 4 * sd / math.sqrt(count)
    assert abs(found.std() / sd - 1) < 4 / math.sqrt(2 * count)
    normed = (found - 1) / sd
    assert abs((normed**4).mean() - 3) < 4 * math.sqrt(96 / count)
    assert abs((normed[0] * normed[1]).mean()) < 4 / math.sqrt(count / 2)
    assert np.mean(np.abs(found - 1) <= p) == pytest.approx(math.erf(3 / math.sqrt(2)), abs=2e-3)


def test_equal_seeds_are_equal_bits_and_others_are_not():
    np.testing.assert_array_equal(factors(0.3), factors(0.3))
    assert np.mean(factors(0.3) == factors(0.3, seed=1)) < 0.01


def test_at_zero_nothing_changes():
    held = params(a=jnp.array([1.0, -2.5, 0.0, 3e38]), b=jnp.array([1 + 2j]))
    found = jax.jit(robustness.perturbed)(held, jax.random.key(0), jnp.float32(0))
    for name in held:
        np.testing.assert_array_equal(found[name][...], held[name][...])


def test_a_complex_number_keeps_its_phase():
    held = params(a=jnp.full(1000, 3 + 4j))
    ratio = np.asarray(robustness.perturbed(held, jax.random.key(0), 0.3)["a"][...]) / (3 + 4j)
    np.testing.assert_allclose(ratio.imag, 0, atol=1e-6)
    assert ratio.real.std() == pytest.approx(0.1, rel=0.1)


def run(*argv):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code, said = main("--robustness", *argv)
    return code, said, text.getvalue()


def test_a_run_is_measured(copied, cache, tmp_path):
    workdir, _ = copied
    summary = json.loads((workdir / "summary.json").read_text())
    code, said, shown = run(workdir, "--draws", "2")
    assert code == 0, said
    assert said.count("compiling the evaluation") == 1  # all draws are of one program
    assert "15/15" in said  # 1 at p = 0, and 2 at each of the 7 others
    found = json.loads((workdir / "robustness.json").read_text())
    assert found["p"] == P
    assert [len(values) for values in found["values"]] == [1, *[2] * 7]
    assert found["values"][0] == [summary["validation"]["mse"]]  # exactly
    assert (found["metric"], found["seed"], found["draws"], found["step"]) == ("mse", 0, 2, summary["best_step"])
    assert found["command"] == f"python train.py --robustness {workdir} --draws 2"
    assert (found["device"], found["split"]) == ("1 x cpu", "validation")
    lines = [line for line in shown.splitlines() if line.startswith("p = ")]
    assert len(lines) == 8
    for line, p, values in zip(lines, P, found["values"]):
        assert line.startswith(f"p = {100 * p:3.0f} %: {np.mean(values):.4g}")
        assert f"({len(values)} draw" in line
        if p:
            assert f"+- {np.std(values, ddof=1):.2g}, from {min(values):.4g} to {max(values):.4g}" in line
    assert (workdir / "plots/robustness.png").read_bytes()[:4] == b"\x89PNG"
    assert {str(workdir / "robustness.json"), str(workdir / "plots/robustness.svg")} <= set(shown.splitlines())
    assert not list(workdir.rglob("*.part"))
    # A draw, by the model itself.
    model = mru.load(workdir)
    graphdef, held, rest = nnx.split(model, nnx.Param, ...)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 4), 1)
    model = nnx.merge(graphdef, robustness.perturbed(held, key, 0.3), rest)
    examples = parse(["--config", workdir / "config.yaml"]).task.examples("validation", np.arange(20))
    outputs = np.asarray(jax.jit(lambda x: model(x)[0])(examples["inputs"]), np.float64)
    assert found["values"][4][1] == pytest.approx(np.mean((outputs - examples["targets"]) ** 2), rel=1e-4)


def by_hand(model, workdir):
    """Validation mse of a model."""
    examples = parse(["--config", workdir / "config.yaml"]).task.examples("validation", np.arange(20))
    outputs = np.asarray(jax.jit(lambda x: model(x)[0])(examples["inputs"]), np.float64)
    return np.mean((outputs - examples["targets"]) ** 2)


def test_matrices_of_few_bits_vary(copied, cache):
    """They are rounded first: at p = 0 the model has levels, and elsewhere every number has its own error."""
    workdir, _ = copied
    code, said, shown = run(workdir, "--draws", "1", "--bits", "3")
    assert code == 0, said
    assert "where matrices are of 3 bits, and parameters vary by p" in shown
    found = json.loads((workdir / "robustness.json").read_text())
    assert found["bits"] == 3
    coarse = mru.quantized(mru.load(workdir), 3)
    assert found["values"][0][0] == pytest.approx(by_hand(coarse, workdir), rel=1e-4)
    assert found["values"][0][0] != pytest.approx(by_hand(mru.load(workdir), workdir), rel=1e-2)
    graphdef, held, rest = nnx.split(coarse, nnx.Param, ...)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 4), 0)
    varied = nnx.merge(graphdef, robustness.perturbed(held, key, 0.3), rest)
    assert found["values"][4][0] == pytest.approx(by_hand(varied, workdir), rel=1e-4)


def test_scheduled_scalars_do_not_vary(copied, cache):
    workdir, _ = copied
    _, state = robustness.restored(parse(["--config", workdir / "config.yaml", "--workdir", workdir]), 40)
    held = checkpoint.read(workdir, 40, "model")
    names = checkpoint.flatten(state.params)
    assert "blocks.0.cells.0.epsilon" in set(held) - set(names)
    varied = checkpoint.flatten(robustness.perturbed(state.params, jax.random.key(0), 0.5))
    assert len(varied) == len(names) > 10
    for name, x in varied.items():
        np.testing.assert_array_equal(names[name], held[name])
        changed = np.asarray(x) != held[name]
        np.testing.assert_array_equal(changed, held[name] != 0)


class Trainer:
    """Stands for one; every third evaluation is not finite."""

    def __init__(self):
        self.count, self.task, self.replicated = -1, self, None
        self.metric, self.seen = "mse", []

    def evaluate(self, state, split):
        assert split == "validation"
        self.count += 1
        self.seen.append(float(state.params["a"][0]))
        if self.count % 3 == 1:
            raise RunFailed("not finite")
        return {"mse": 1 / 3}, {}


@pytest.fixture
def state():
    return TrainState(params(a=jnp.ones(2)), nnx.State({}), (), jnp.zeros((), int))


def test_more_draws_begin_with_the_same(state):
    few, many, other = Trainer(), Trainer(), Trainer()
    for trainer, draws, seed in ((few, 2, 0), (many, 3, 0), (other, 2, 1)):
        list(robustness.measured(trainer, state, draws, seed))
    assert few.seen[0] == many.seen[0] == other.seen[0] == 1
    by_p = np.reshape(many.seen[1:], (7, 3))
    np.testing.assert_array_equal(few.seen[1:], by_p[:, :2].ravel())
    assert len(set(many.seen)) == 22  # no two draws alike
    assert not set(few.seen[1:]) & set(other.seen[1:])


def test_draws_that_are_not_finite(state):
    found = list(robustness.measured(Trainer(), state, 3, 0))
    assert [p for p, _ in found] == P
    assert found[0][1] == [0.333333]
    assert found[1][1] == [None, 0.333333, 0.333333]
    assert robustness.line(*found[1]).endswith("(3 draws, 1 not finite)")
    assert robustness.line(0.5, [None, None]) == "p =  50 %: none of 2 draws is finite"
    broken = Trainer()
    broken.count = 0
    with pytest.raises(RunFailed, match="not finite"):
        list(robustness.measured(broken, state, 3, 0))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"p": [0], "values": []}', '{"p": [], "values": [], "metric": "x"}'])
def test_what_is_not_read(text, tmp_path):
    assert robustness.read(tmp_path) is None
    (tmp_path / "robustness.json").write_text(text)
    assert robustness.read(tmp_path) is None
