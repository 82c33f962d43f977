import json

import numpy as np
import pytest
from flax import nnx
from train_helpers import TINY, arrays, config_file, main, parse

import mru
from mru.training import checkpoint

pytestmark = pytest.mark.usefixtures("cache")


def test_a_model_of_few_bits_is_loaded_as_it_was_evaluated(tmp_path):
    """The checkpoint keeps the full precision, with which training goes on."""
    argv = ["--config", config_file(tmp_path, TINY), "--workdir", tmp_path / "w", "--weights.bits", "3"]
    code, said = main(*argv, "--weights.noise", "0.1")
    assert code == 0, said
    summary = json.loads((tmp_path / "w/summary.json").read_text())
    model = mru.load(tmp_path / "w")
    held = arrays(tmp_path / "w", summary["best_step"])
    for name, w in checkpoint.flatten(nnx.state(model, nnx.Param)).items():
        if w.ndim < 2:
            np.testing.assert_array_equal(w, held[name])
        else:
            step = np.abs(held[name]).max() / 3
            np.testing.assert_allclose(w, step * np.round(held[name] / step), rtol=1e-5, atol=1e-6)
            assert len(np.unique(np.round(held[name] / step, 4))) > 7
    examples = parse(argv).task.examples("validation", np.arange(20))
    outputs = np.asarray(model(examples["inputs"])[0], np.float64)
    assert summary["validation"]["mse"] == pytest.approx(np.mean((outputs - examples["targets"]) ** 2), rel=1e-4)
