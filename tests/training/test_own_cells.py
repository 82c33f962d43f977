"""Cells whose states are more than one array, trained from a config, resumed, and streamed over a checkpoint."""

import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import own_cells
from train_helpers import arrays, config_file, main

import mru

TEXT = """\
task: {name: copy_first, length: 12, retention: [], held_out: 20}
model: {cells: [test_lstm, test_attention], width: 8, state_size: 4, expansion: 0}
optimizer: {lr: 1.0e-2}
train: {steps: 20, batch_size: 8, eval_every: 10, log_every: 5}
"""


def test_a_run_resumes_and_a_stream_goes_on_from_a_checkpoint(tmp_path):
    assert {"test_lstm", "test_attention"} <= set(mru.cells.names()), own_cells
    config, workdir, again = config_file(tmp_path, TEXT), tmp_path / "run", tmp_path / "again"
    code, said = main("--config", config, "--workdir", workdir)
    assert code == 0, said
    shutil.copytree(workdir, again)  # as a run that was killed behind its first checkpoint
    shutil.rmtree(again / "checkpoints" / "20")
    (again / "summary.json").unlink()
    code, said = main("--config", config, "--workdir", again)
    assert code == 0, said
    assert "resumed at step 10" in said
    whole, resumed = arrays(workdir, 20), arrays(again, 20)
    assert whole.keys() == resumed.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)

    model, x = mru.load(workdir), np.random.default_rng(0).normal(size=(2, 12, 1)).astype(np.float32)
    call = jax.jit(lambda x, state=None: model(x, state))
    _, middle = call(x[:, :5])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "stream", middle._asdict())
        checkpointer.wait_until_finished()
        held = type(middle)(**checkpointer.restore(tmp_path / "stream", middle._asdict()))
    np.testing.assert_array_equal(held.cells[1][0]["count"], [5, 5])
    np.testing.assert_allclose(call(x[:, 5:], held)[0], call(x)[0], rtol=1e-5, atol=1e-6)
