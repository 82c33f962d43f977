"""Set-ups as their authors published them are configs: their parameters, counted by hand, and their learning rates."""

import re

import numpy as np
import pytest
import yaml
from flax import nnx
from train_helpers import ROOT, config_file, head_of, parse

from mru.cells import StateParam
from mru.training import checkpoint, devices
from mru.training.trainer import Trainer

FOLDER = ROOT / "configs" / "published"
# Layers / D / N / blocks J / batch / epochs / learning rate of the state update, factor of the others / weight decay /
# dropout (Smith et al. 2022, arXiv 2208.04933); those of psMNIST are not confirmed, which its head says.
S5 = {
    "listops": "8/128/16/8/50/40/1e-3 x3/.04/0",
    "text": "6/256/192/12/50/35/1e-3 x4/.07/.1",
    "retrieval": "6/128/256/16/32/20/1e-3 x2/.05/0",
    "image": "6/512/384/3/50/250/1e-3 x4.5/.07/.1",
    "pathfinder": "6/192/256/8/64/200/9e-4 x5/.03/.05",
    "path_x": "6/128/256/16/32/75/6e-4 x3/.06/0",
    "smnist": "4/96/128/1/50/150/2e-3 x4/.01/.1",
    "psmnist": "4/128/128/2/50/150/1e-3 x4/.01/.15",
}
# D / N / steps / batch / least and largest |lambda| (Orvieto et al. 2023, arXiv 2303.06349); the batch of text is ours.
LRU = {
    "listops": "128/256/80000/32/0/.99",
    "text": "256/192/50000/32/.5/.9",
    "image": "512/384/180000/50/.9/.999",
}
# As minGRU and Griffin have it: a convolution over four steps before the cell, RMS norm, and an MLP after it.
MINGRU = """\
task: {name: smnist}
model: {cells: [mingru, mingru], width: 64, state_size: 128, conv: 4, norm: rms, expansion: 4}
train: {steps: 100}
"""


SMALL = ["--model.cells", "s5", "--model.width", "6", "--model.state_size", "4"]


@pytest.fixture
def config_of(here):
    """(task, name, overrides) -> one of these configs, where no data set has been prepared."""
    return lambda task, name, *options: parse(
        ["--config", FOLDER / task / f"{name}.yaml", "--task.data_dir", here, *options]
    )


@pytest.mark.parametrize("task", S5)
def test_s5_has_its_published_options(task, config_of):
    layers, width, states, blocks, batch, epochs, rates, decay, dropout = S5[task].split("/")
    rate, factor = map(float, rates.split(" x"))
    config = config_of(task, "s5")
    model, optimizer, train = config.model, config.optimizer, config.train
    assert model.blocks == int(layers) * ["s5"]
    assert [model.width, model.state_size, model.options] == [int(width), int(states), {"s5": {"blocks": int(blocks)}}]
    assert [model.norm, model.bidirectional, model.expansion] == ["batch", True, 0]
    assert [model.dropout, optimizer.weight_decay] == [float(dropout), float(decay)]
    np.testing.assert_allclose([optimizer.lr, optimizer.lr * optimizer.state_lr_factor], [rate * factor, rate], 1e-5)
    size = config.task.sizes["train"]
    epoch = size // int(batch)
    assert [train.batch_size, train.steps, optimizer.warmup_steps] == [int(batch), int(epochs) * epoch, epoch]
    sums = f"Steps: {size:,} training examples / {batch} = {epoch:,} (full )?batches an epoch, x {epochs} epochs = "
    assert re.search(f"{sums}{train.steps:,}", head_of(FOLDER / task / "s5.yaml"))


@pytest.mark.parametrize("task", LRU)
def test_lru_has_its_published_options(task, config_of):
    width, states, steps, batch, least, largest = map(float, LRU[task].split("/"))
    config = config_of(task, "lru")
    model, optimizer, train = config.model, config.optimizer, config.train
    assert model.blocks == 6 * ["lru"]
    assert [model.width, model.state_size] == [width, states]
    assert model.options == {"lru": {"r_min": least, "r_max": largest}}
    assert [optimizer.weight_decay, optimizer.warmup, optimizer.warmup_steps] == [0.05, 0.1, None]
    assert [train.steps, train.batch_size] == [steps, batch]


@pytest.mark.parametrize("task", S5)
def test_counterparts_are_the_set_up_of_s5_at_its_size(task):
    """Their heads' counts of parameters are compared, which the tests of all configs check."""
    s5, head = (read(FOLDER / task / "s5.yaml") for read in (lambda path: yaml.safe_load(path.read_text()), head_of))
    layers, (size,) = len(s5["model"]["cells"]), re.findall(r"Parameters: ([\d,]*\d)", head)
    stacks = {"bmru": ["bmru"] * layers, "pmru": ["pmru"] * layers, "hybrid": ["s5", "pmru"] * (layers // 2)}
    ours = {"cells", "state_size", "positions", "options"}
    for name, cells in stacks.items():
        path = FOLDER / task / f"{name}.yaml"
        other = yaml.safe_load(path.read_text())
        ((mine, theirs),) = re.findall(r"Parameters: ([\d,]*\d) \(S5: ([\d,]*\d)\)", head_of(path))
        assert theirs == size
        assert abs(int(mine.replace(",", "")) / int(theirs.replace(",", "")) - 1) <= 0.1
        assert other["model"]["cells"] == cells
        assert {k: x for k, x in other["model"].items() if k not in ours} == {
            k: x for k, x in s5["model"].items() if k not in ours
        }
        assert other["train"] == s5["train"]
        assert other["optimizer"]["warmup_steps"] == s5["optimizer"]["warmup_steps"]
        assert other["optimizer"]["weight_decay"] == s5["optimizer"]["weight_decay"]


def test_the_block_of_readme_is_the_config_of_s5_on_sequential_mnist():
    readme = (ROOT / "README.md").read_text()
    (shown,) = re.findall(r"^```yaml\n(task: {name: smnist}\n.*?)^```", readme, re.S | re.M)
    shown, held = yaml.safe_load(shown), yaml.safe_load((FOLDER / "smnist" / "s5.yaml").read_text())
    assert held["model"].pop("options") == {"s5": {"blocks": 1}}  # as it is by itself
    assert held["train"].pop("seed") == 0
    assert held == shown


def made_batch(task, rows=3, time=6):
    """One batch (1, B, ...) of the kind of a task, of another length."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, rows, time, task.features)).astype(np.float32)
    if task.vocabulary:
        x = rng.integers(task.vocabulary, size=(1, rows, time)).astype(np.int32)
    batch = {"inputs": x, "targets": np.arange(rows, dtype=np.int32)[None] % task.outputs}
    return batch | ({"lengths": np.array([[time, 4, 1]], np.int32)} if task.vocabulary else {})


# One of tokens and one of pixels: the programs of the others differ from these in sizes alone.
@pytest.mark.parametrize(("task", "name"), [("image", "s5"), ("listops", "pmru")])
@pytest.mark.usefixtures("cache")
def test_a_step_learns_at_the_published_rates(task, name, config_of):
    """Adam's first step has the length of the learning rate, here at its peak, wherever there is a gradient."""
    options = ["--model.cells", name, "--model.width", "8", "--model.state_size", "4", "--model.dropout", "0"]
    options += ["--optimizer.weight_decay", "0"]  # so that more of these programs are equal, and compiled once
    options += ["--model.options.s5.blocks", "2"] if name == "s5" else []
    options += ["--train.steps", "1", "--train.batch_size", "3", "--optimizer.warmup_steps", "0"]
    config = config_of(task, name, *options)
    trainer = Trainer(config, devices.make_mesh(config.mesh, 3))
    state = trainer.initial()
    before = {key: np.asarray(x) for key, x in checkpoint.flatten(state.params).items()}
    batch = trainer.place(made_batch(config.task), 1)
    state, metrics = trainer.compile(state, batch)(state, batch)
    after = checkpoint.flatten(state.params)
    assert np.isfinite(metrics["loss"]).all()
    *_, rates, _, _ = S5[task].split("/")
    rate, factor = map(float, rates.split(" x"))
    expected = {"head.bias": rate * factor, "blocks.0.cells.0.b": rate} if name == "s5" else {"head.bias": 3e-3}
    for key, length in expected.items():
        assert abs(after[key] - before[key]).max() == pytest.approx(length, rel=1e-3)


def s5(d, n):
    """Lambda, B, C of both directions, d, and the steps, of half of the conjugate states."""
    return 2 * (n // 2) + d * n + 2 * n * d + d + n // 2


def lru(d, n):
    """Of one direction: nu, theta and gamma, B, C, d."""
    return 3 * n + d * 2 * n + 2 * n * d + d


COUNTS = {
    "s5": (FOLDER / "smnist" / "s5.yaml", 4 * (s5(96, 128) + 96 * 96 + 96 + 2 * 96) + 2 * 96 + 96 * 10 + 10),
    "lru": (
        FOLDER / "image" / "lru.yaml",
        6 * (2 * lru(512, 384) + 2 * (512 * 512 + 512) + 2 * 512) + 2 * 512 + 512 * 10 + 10,
    ),
    "mingru": (
        MINGRU,
        2 * (2 * (64 * 128 + 128) + 128 * 64 + 64 + 5 * 64 + 2 * 64 + 3 * 64 * 256 + 2 * 256 + 64)
        + (64 + 64) + 64 + 64 * 10 + 10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_the_parameters_are_those_of_the_published_layers(name, here):
    text, count = COUNTS[name]
    config = parse(["--config", config_file(here, text) if isinstance(text, str) else text])
    model = nnx.eval_shape(lambda: config.make_model(nnx.Rngs(0)))
    found = checkpoint.flatten(nnx.state(model, nnx.Param))
    assert sum(np.prod(x.shape, dtype=int) for x in found.values()) == count
    statistics = checkpoint.flatten(nnx.state(model, nnx.BatchStat))
    norms = len(model.blocks) if config.model.norm == "batch" else 0
    assert sorted(statistics) == sorted(f"blocks.{k}.norm.{x}" for k in range(norms) for x in ("mean", "variance"))


def test_directions_of_s5_share_what_they_share(here):
    config = parse(["--config", FOLDER / "smnist" / "s5.yaml", *SMALL])
    model = nnx.eval_shape(lambda: config.make_model(nnx.Rngs(0)))
    shapes = {k: x.shape for k, x in checkpoint.flatten(nnx.state(model.blocks[0].cells[0], nnx.Param)).items()}
    assert shapes == {
        "lambda_real": (2,), "lambda_imag": (2,), "log_step": (2,), "b": (6, 2, 2),
        "c": (2, 2, 6), "c_backward": (2, 2, 6), "d": (6,),
    }  # fmt: skip
    slow = [path[-1] for path, x in nnx.to_flat_state(nnx.state(model.blocks[0])) if isinstance(x, StateParam)]
    assert sorted(slow) == ["b", "lambda_imag", "lambda_real", "log_step"]


@pytest.mark.parametrize(("options", "rise"), [((), 1080), (("--optimizer.warmup_steps", "null"), 16200)])
def test_the_learning_rate_rises_for_so_many_steps(options, rise, here):
    """Linearly from 1 % of its peak, and then falls as a cosine to nothing, however long the run is."""
    config = parse(["--config", FOLDER / "smnist" / "s5.yaml", *SMALL, *options])
    trainer = Trainer(config, devices.make_mesh(config.mesh, 50))
    rates = [float(trainer.rate(step)) for step in (0, rise // 2, rise, (rise + 162000) // 2, 162000)]
    np.testing.assert_allclose(rates, [8e-5, 8e-3 * (0.01 + 0.99 / 2), 8e-3, 4e-3, 0], rtol=1e-4, atol=1e-9)
