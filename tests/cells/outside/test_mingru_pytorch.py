"""minGRU and minLSTM of minGRU-pytorch, in its log-space form and step by step."""

import jax
import numpy as np
import pytest
from beside import assert_same, inputs, outputs, with_tensors
from reference import cell_parameters, shake

from mru import cells

torch = pytest.importorskip("torch", reason="needs torch: pip install torch")
pytest.importorskip("minGRU_pytorch", reason="needs minGRU-pytorch: pip install minGRU-pytorch")
pytestmark = pytest.mark.usefixtures("quick_compile")
D, N = 4, 6


def pair(name):
    """Our cell, and theirs, which has the candidate and the gates in one matrix (outputs, inputs), and no biases."""
    from minGRU_pytorch.minGRU import minGRU
    from minGRU_pytorch.minLSTM import minLSTM

    kind, matrix = {
        "mingru": (minGRU, "to_hidden_and_gate.weight"),
        "minlstm": (minLSTM, "to_hidden_and_f_i_gate.weight"),
    }[name]
    cell = shake(cells.get(name)(D, N, rngs=0))
    for layer in ("candidate", "out", *cell.gates):
        getattr(cell, layer).bias[...] *= 0
    p = cell_parameters(cell)
    into = np.concatenate([p[f"{layer}/kernel"] for layer in ("candidate", *cell.gates)], -1)
    module = kind(D, expansion_factor=N / D)
    return cell, with_tensors(module, {matrix: into.T, "to_out.weight": p["out/kernel"].T})


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_log_space_form(name):
    (cell, module), x = pair(name), inputs(D)
    y, state = jax.jit(lambda x: cell(x))(x)
    theirs, last = module(torch.tensor(x), return_next_prev_hidden=True)
    assert_same(y, theirs)
    assert_same(state, last[:, 0])


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_steps(name):
    (cell, module), x, found, state = pair(name), inputs(D), [], None
    for t in range(x.shape[1]):
        y, state = module(torch.tensor(x[:, t : t + 1]), state, return_next_prev_hidden=True)
        found.append(y)
    assert_same(outputs(cell, x), torch.cat(found, 1))


def test_a_state_carried_into_the_log_space_form():
    """Of minGRU alone: their minLSTM applies the g of the candidate to the state that it is given."""
    (cell, module), x = pair("mingru"), inputs(D)
    _, state = module(torch.tensor(x[:, :15]), return_next_prev_hidden=True)
    theirs = module(torch.tensor(x[:, 15:]), state)
    assert_same(outputs(cell, x)[:, 15:], theirs)
