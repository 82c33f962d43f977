import json
import shutil
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
import pytest
import yaml
from flax import nnx
from train_helpers import assert_same_arrays, config_file, main, parse

import mru
import tasks
from mru.training import checkpoint, look

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def registry(monkeypatch):
    """A task of a test is forgotten after it."""
    monkeypatch.setattr(tasks.REGISTRY, "_classes", dict(tasks.REGISTRY._classes))


def made(tmp_path, *argv, **options):
    """A run that has not been trained."""
    config = parse(["--config", config_file(tmp_path, **options), "--workdir", tmp_path / "w", *argv])
    batch = config.task.examples("validation", np.arange(8))
    given = config.task.model_inputs({name: jax.numpy.asarray(x) for name, x in batch.items()})
    return look.Run(config, 0, config.make_model(nnx.Rngs(0)), given)


def test_a_run_is_opened(copied):
    workdir, argv = copied
    run = look.open_run(workdir, tasks.REGISTRY)
    summary = json.loads((workdir / "summary.json").read_text())
    assert run.step == summary["best_step"]
    assert run.config.workdir == workdir
    assert run.config.resolved | {"workdir": ""} == parse(argv).resolved | {"workdir": ""}
    expected = run.task.examples("validation", np.arange(16))["inputs"]
    np.testing.assert_array_equal(run.given.inputs, expected)
    assert_same_arrays(*(checkpoint.flatten(nnx.state(model)) for model in (run.model, mru.load(workdir))))


@pytest.mark.parametrize(("steps", "expected"), [(60, 3), (5, 1)])
def test_long_examples_are_fewer(steps, expected, copied, monkeypatch):
    monkeypatch.setattr(look, "STEPS", steps)
    run = look.open_run(copied[0], tasks.REGISTRY)
    np.testing.assert_array_equal(run.given.inputs, run.task.examples("validation", np.arange(expected))["inputs"])


def test_states_are_those_of_the_model_step_by_step(copied):
    workdir, _ = copied
    run = look.open_run(workdir, tasks.REGISTRY)
    found = look.inside(run)
    state, step = run.model.initial_state((16,)), jax.jit(run.model.step)
    for t in range(20):
        _, state = step(run.given.inputs[:, t], state)
        for place, name in enumerate(("BMRU", "LRU", "PMRU")):
            np.testing.assert_allclose(
                found[f"0/{place}/{name}/state"][:, t], state.cells[0][place], rtol=1e-4, atol=1e-5
            )
    assert found["0/0/BMRU/write"].dtype == bool


def test_a_run_that_was_moved_and_lost_its_config(copied, tmp_path):
    workdir, argv = copied
    shutil.move(workdir, tmp_path / "elsewhere")
    (tmp_path / "elsewhere/config.yaml").unlink()
    config = look.open_run(tmp_path / "elsewhere", tasks.REGISTRY).config
    assert config.resolved | {"workdir": ""} == parse(argv).resolved | {"workdir": ""}


def write_config(workdir, change):
    """config.yaml alone, as a run has it before its first checkpoint, changed."""
    held = yaml.safe_load((workdir / "config.yaml").read_text())
    change(held)
    for name in ("checkpoints", "first_checkpoint.json", "summary.json"):
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (workdir / "config.yaml").write_text(yaml.safe_dump(held))


REFUSED = {
    "no checkpoint": (lambda held: None, "holds no checkpoints"),
    "unknown task": (lambda held: held["task"].update(name="nothing"), "task.name = 'nothing', allowed: "),
    "unknown cell": (lambda held: held["model"].update(cells=["nothing"]), "nothing"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("option", ["--plot", "--robustness"])
def test_what_can_not_be_opened(option, change, words, copied):
    workdir, _ = copied
    write_config(workdir, change)
    code, said = main(option, workdir)
    assert code == 2
    assert said.startswith(f"error: {option} {str(workdir)[:20]}")
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("option", ["--plot", "--robustness"])
def test_a_task_without_its_data(option, copied, monkeypatch):
    workdir, _ = copied

    def missing(self, split, indices):
        raise tasks.MissingData("the data are not here: python -m tasks.prepare")

    monkeypatch.setattr(tasks.get("copy_first"), "examples", missing)
    code, said = main(option, workdir)
    assert (code, said) == (2, "error: the data are not here: python -m tasks.prepare\n")


@pytest.mark.parametrize("option", ["--plot", "--robustness"])
def test_a_damaged_summary_or_checkpoint(option, copied):
    workdir, _ = copied
    (workdir / "summary.json").write_text("{")
    code, said = main(option, workdir)
    assert code == 2
    assert "summary.json is damaged" in said
    (workdir / "summary.json").unlink()
    (workdir / "checkpoints/40/about/metadata").write_text("{}")
    code, said = main(option, workdir)
    assert code == 2
    assert said.startswith(f"error: {option} ")
    assert said.count("\n") == 1


CLASSES = """\
task: {name: digits}
model: {cells: [pmru], width: 8, state_size: 4, expansion: 0}
train: {steps: 20, batch_size: 50, eval_every: 10}
"""


def test_confusion_matrix(tmp_path):
    run = made(tmp_path, text=CLASSES)
    examples = run.task.examples("validation", np.arange(143))
    guesses = np.asarray(jax.jit(lambda x: run.model(x)[0])(examples["inputs"])).argmax(-1)
    expected = np.zeros((10, 10), int)
    for true, guess in zip(examples["targets"], guesses):
        expected[true, guess] += 1
    np.testing.assert_array_equal(look.confusion_matrix(run), expected)


def test_a_regression_has_no_confusion_matrix(tmp_path):
    assert look.confusion_matrix(made(tmp_path)) is None


def test_padding_is_left_out(registry, tmp_path):
    @dataclass(frozen=True)
    class Padded(tasks.get("copy_first"), name="padded"):
        retention: tuple[int, ...] = ()
        lengths: ClassVar[np.ndarray] = np.array([3, 7, 20, 1, 5, 6, 2, 9], np.int32)

        def _examples(self, split, indices):
            found = super()._examples(split, indices)
            return found | {"lengths": self.lengths[indices % 8]}

    run = made(tmp_path, text="task: {name: padded, length: 20, held_out: 20}\n" + CLASSES.partition("\n")[2])
    found = look.inside(run)["0/0/PMRU/state"]
    for example, length in enumerate(Padded.lengths):
        np.testing.assert_array_equal(look.real_steps(run, found, example), found[example, :length])
