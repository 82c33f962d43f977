import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train_helpers import TINY, assert_refused, config_file, main, make_trainer, run_steps

from mru.training import alignment, checkpoint
from mru.training.task import ModelInputs

pytestmark = pytest.mark.usefixtures("cache")
ALIGNED = TINY.replace("[pmru]", "[miru2, miru2]").replace("eval_every", "feedback: alignment, eval_every")


def learned(trainer, batch):
    """Loss and gradient of a step's feedback alignment, and those of backpropagation."""
    state, given = trainer.initial(), trainer.task.model_inputs(batch)

    def model_of(params):
        return nnx.merge(trainer.graphdef, params, state.rest)

    def outputs_of(model, capture=None):
        return model(given.inputs, capture=capture)[0]

    def loss_of(outputs):
        return trainer.task.loss(outputs, batch).mean(), None

    aligned = alignment.value_and_grad(model_of, outputs_of, loss_of, given, trainer.own.feedback_key)
    exact = jax.value_and_grad(lambda params: loss_of(outputs_of(model_of(params))), has_aux=True)
    found = [jax.jit(f)(state.params) for f in (aligned, exact)]
    return model_of(state.params), [(float(loss), checkpoint.flatten(g)) for (loss, _), g in found]


def test_gradients_by_hand(tmp_path):
    """Of both recurrences, step by step in float64; what lies above the cells has its exact derivative."""
    trainer = make_trainer(tmp_path, text=ALIGNED)
    batch = trainer.task.examples("train", np.arange(6))
    model, ((loss, found), (exact_loss, exact)) = learned(trainer, batch)
    assert loss == pytest.approx(exact_loss, rel=1e-5)
    captured = {}
    outputs, _ = model(batch["inputs"], capture=captured)
    error = 2 * (np.asarray(outputs, np.float64) - batch["targets"]) / 6
    for number in (0, 1):
        cell = model.blocks[number].cells[0]
        w, b, u = (np.asarray(p[...], np.float64) for p in (cell.input.kernel, cell.input.bias, cell.recurrent.kernel))
        matrix = np.asarray(alignment.matrix_of(trainer.own.feedback_key, number, 1, 4), np.float64)
        x = np.asarray(captured[f"{number}/0/MiRU2/input"], np.float64)
        h, grads = np.zeros((6, 4)), {"input.kernel": 0.0, "input.bias": 0.0, "recurrent.kernel": 0.0}
        for t in range(20):
            c = np.tanh(x[:, t] @ w + b + 0.5 * h @ u)
            da = error @ matrix / 20 * 0.5 * (1 - c**2)
            grads["input.kernel"] += x[:, t].T @ da
            grads["input.bias"] += da.sum(0)
            grads["recurrent.kernel"] += (0.5 * h).T @ da
            h = 0.5 * h + 0.5 * c
        for name, expected in grads.items():
            name = f"blocks.{number}.cells.0.{name}"
            assert np.abs(expected).max() > 1e-4
            np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-6, err_msg=name)
            assert not np.allclose(exact[name], expected, rtol=0.1), name
    above = [name for name in found if name.startswith(("head", "norm", "blocks.1.cells.0.out"))]
    assert len(above) == 6
    for name in above:
        np.testing.assert_allclose(found[name], exact[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_encoder_learns_along_the_residual_stream(tmp_path):
    """Through the cell nothing comes back: it is as if its output were a constant."""
    trainer = make_trainer(tmp_path, text=ALIGNED.replace("miru2, miru2", "miru1"))
    batch = trainer.task.examples("train", np.arange(6))
    model, ((_, found), _) = learned(trainer, batch)

    def loss(encoder):
        x = batch["inputs"] @ encoder + model.encoder.bias[...]
        y = jax.lax.stop_gradient(model.blocks[0].cells[0](model.blocks[0].norm(x))[0])
        return jnp.mean((model.head(model.norm((x + y)[:, -1])) - batch["targets"]) ** 2)

    expected = jax.grad(loss)(model.encoder.kernel[...])
    np.testing.assert_allclose(found["encoder.kernel"], expected, rtol=1e-4, atol=1e-6)


def test_who_gets_which_share_of_an_error():
    """Real steps of the last sequence in a packed row alike; a step its own error where each has one."""
    key, states = jax.random.key(0), {"a": jnp.zeros((2, 5, 3)), "b": jnp.zeros((2, 5, 4))}
    reset = np.zeros((2, 5), bool)
    reset[0, 2] = reset[1, 4] = True  # the second one in the padding
    given = ModelInputs(jnp.zeros((2, 5, 1)), jnp.array([4, 2]), jnp.asarray(reset))
    error = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    share = np.array([[0, 0, 0.5, 0.5, 0], [0.5, 0.5, 0, 0, 0]])
    found = alignment.feedback(jnp.asarray(error), states, given, key)
    each = alignment.feedback(jnp.ones((2, 5, 2)), states, given, key)
    for number, (name, n) in enumerate({"a": 3, "b": 4}.items()):
        matrix = np.asarray(alignment.matrix_of(key, number, 2, n))
        np.testing.assert_allclose(found[name], share[..., None] * (error @ matrix)[:, None], rtol=1e-5)
        np.testing.assert_allclose(each[name], np.broadcast_to(matrix.sum(0), (2, 5, n)), rtol=1e-5)
    big = np.asarray(alignment.matrix_of(key, 0, 400, 300))
    assert big.std() == pytest.approx(400**-0.5, rel=0.02)
    assert not np.allclose(big[:4, :4], np.asarray(alignment.matrix_of(key, 1, 400, 300))[:4, :4])


def test_training_uses_it_and_keeps_the_largest_gradients(tmp_path, monkeypatch):
    """A step's update is that of its gradient; evaluation is as ever."""
    kept = []
    real = alignment.value_and_grad
    monkeypatch.setattr(alignment, "value_and_grad", lambda *args: kept.append(args) or real(*args))
    trainer = make_trainer(tmp_path, text=ALIGNED)
    _, losses = run_steps(trainer, 20)
    assert kept
    assert np.isfinite(losses).all()
    plain = make_trainer(tmp_path, "--train.feedback", "backpropagation", text=ALIGNED)
    same, other = run_steps(trainer, 1), run_steps(plain, 1)
    assert same[1] == pytest.approx(other[1], rel=1e-5)
    params = [
        checkpoint.flatten(s.params)["blocks.0.cells.0.recurrent.kernel"]
        for s in (trainer.initial(), same[0], other[0])
    ]
    # 43 % of 16 numbers: the others are moved by neither gradient nor, at the first step, momentum, but for the decay.
    first, aligned, backward = (np.asarray(p, np.float64) for p in params)
    assert np.sum(np.abs(aligned - first) > 2e-6) == 7
    assert np.sum(np.abs(backward - first) > 2e-6) == 16


@pytest.mark.parametrize("cells", ["gru", "miru2,bmru"])
def test_cells_that_can_not_are_refused(cells, tmp_path):
    code, said = main("--config", config_file(tmp_path, ALIGNED), "--model.cells", cells)
    assert_refused(code, said, ["train.feedback = alignment, allowed: backpropagation", "cells that can: miru1, miru2"])


def test_both_directions_are_refused(tmp_path):
    code, said = main("--config", config_file(tmp_path, ALIGNED), "--model.bidirectional", "true")
    assert_refused(code, said, ["train.feedback = alignment", "model.bidirectional = false"])
