"""Set-ups as their authors published them are configs: their parameters, counted by hand, and their learning rates."""

import re

import numpy as np
import pytest
from flax import nnx
from train_helpers import ROOT, config_file, parse

from mru.cells import StateParam
from mru.training import checkpoint, devices
from mru.training.trainer import Trainer

# S5's sequential MNIST (arXiv 2208.04933), as README has it: 150 epochs of 1,080 batches, the first of them with rising
# learning rates. Theirs is 8e-3, of which the state update has a fourth.
S5_SMNIST = re.findall(r"^```yaml\n(task: {name: smnist}\n.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)[0]
# LRU's grey CIFAR-10 of the Long Range Arena (arXiv 2303.06349): 180,000 steps, with 10 % of warm-up.
# Its peak is ours, as are these data, which any pixels can stand for here.
LRU_IMAGE = """\
task: {name: smnist}
model:
  {cells: [lru, lru, lru, lru, lru, lru], width: 512, state_size: 384, bidirectional: true, norm: batch,
   final_norm: false, activation: full_glu, expansion: 0, dropout: 0.1, pooling: mean,
   options: {lru: {r_min: 0.9, r_max: 0.999}}}
optimizer: {lr: 4.0e-3, state_lr_factor: 0.25, weight_decay: 0.05, warmup: 0.1, final: 0, clip: null}
train: {steps: 180000, batch_size: 50, eval_every: 1000}
"""
# As minGRU and Griffin have it: a convolution over four steps before the cell, RMS norm, and an MLP after it.
MINGRU = """\
task: {name: smnist}
model: {cells: [mingru, mingru], width: 64, state_size: 128, conv: 4, norm: rms, expansion: 4}
train: {steps: 100}
"""


SMALL = ["--model.cells", "s5", "--model.width", "6", "--model.state_size", "4"]


def s5(d, n):
    """Lambda, B, C of both directions, d, and the steps, of half of the conjugate states."""
    return 2 * (n // 2) + d * n + 2 * n * d + d + n // 2


def lru(d, n):
    """Of one direction: nu, theta and gamma, B, C, d."""
    return 3 * n + d * 2 * n + 2 * n * d + d


COUNTS = {
    "s5": (S5_SMNIST, 4 * (s5(96, 128) + 96 * 96 + 96 + 2 * 96) + 2 * 96 + 96 * 10 + 10),
    "lru": (LRU_IMAGE, 6 * (2 * lru(512, 384) + 2 * (512 * 512 + 512) + 2 * 512) + 2 * 512 + 512 * 10 + 10),
    "mingru": (
        MINGRU,
        2 * (2 * (64 * 128 + 128) + 128 * 64 + 64 + 5 * 64 + 2 * 64 + 3 * 64 * 256 + 2 * 256 + 64)
        + (64 + 64) + 64 + 64 * 10 + 10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_the_parameters_are_those_of_the_published_layers(name, here):
    text, count = COUNTS[name]
    config = parse(["--config", config_file(here, text)])
    model = nnx.eval_shape(lambda: config.make_model(nnx.Rngs(0)))
    found = checkpoint.flatten(nnx.state(model, nnx.Param))
    assert sum(np.prod(x.shape, dtype=int) for x in found.values()) == count
    statistics = checkpoint.flatten(nnx.state(model, nnx.BatchStat))
    norms = len(model.blocks) if config.model.norm == "batch" else 0
    assert sorted(statistics) == sorted(f"blocks.{k}.norm.{x}" for k in range(norms) for x in ("mean", "variance"))


def test_directions_of_s5_share_what_they_share(here):
    config = parse(["--config", config_file(here, S5_SMNIST), *SMALL])
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
    config = parse(["--config", config_file(here, S5_SMNIST), *SMALL, *options])
    trainer = Trainer(config, devices.make_mesh(config.mesh, 50))
    rates = [float(trainer.rate(step)) for step in (0, rise // 2, rise, (rise + 162000) // 2, 162000)]
    np.testing.assert_allclose(rates, [8e-5, 8e-3 * (0.01 + 0.99 / 2), 8e-3, 4e-3, 0], rtol=1e-4, atol=1e-9)
