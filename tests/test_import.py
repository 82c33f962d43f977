import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mru

ROOT = Path(__file__).parents[1]
HEAVY = ["tensorflow_datasets", "tensorflow", "matplotlib", "sklearn", "grain", "orbax", "tensorboardX"]


def modules_after(statement):
    code = f"import sys; {statement}; print(*sorted(set(m.split('.')[0] for m in sys.modules)))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_import_pulls_in_nothing_heavy():
    """Beyond what Flax itself imports, and nothing of the tasks or the command line."""
    added = modules_after("import mru") - modules_after("import jax; from flax import nnx")
    assert "mru" in added
    assert not added & {*HEAVY, "tasks", "train"}


def test_public_names():
    assert sorted(mru.__all__) == list(mru.__all__)
    for name in mru.__all__:
        assert getattr(mru, name) is not None
    for name in mru.cells.__all__:
        assert getattr(mru.cells, name) is not None


@pytest.fixture
def registry():
    held = mru.cells.REGISTRY._classes
    before = dict(held)
    yield
    held.clear()
    held.update(before)


def test_a_cell_in_a_users_file_is_found_by_name(registry, tmp_path, monkeypatch):
    (tmp_path / "my_cell.py").write_text(
        textwrap.dedent("""
            import jax.numpy as jnp
            from flax import nnx
            from mru import Affine, cells

            class Average(cells.ScanCell, name="average"):
                def __init__(self, features, state_size, *, rate=0.5, method="auto", dtype=None, rngs):
                    super().__init__(features, features, method=method)
                    self.rate = nnx.Param(jnp.full(features, rate))

                def operator(self, x):
                    return Affine(1 - self.rate[...], self.rate[...] * x)

                def readout(self, h, x):
                    return h
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    import my_cell

    assert mru.cells.get("average") is my_cell.Average
    assert "average" in mru.cells.names()
    taken = "cell name 'average' is taken by my_cell:Average; .*Other needs another name"
    with pytest.raises(ValueError, match=taken):
        type("Other", (mru.cells.ScanCell,), {}, name="average")
    y, state = my_cell.Average(1, 1, rngs=nnx.Rngs(0))(jnp.array([[4.0], [8.0]]))
    np.testing.assert_allclose(y, [[2], [5]])
    np.testing.assert_allclose(state, [5])
    model = mru.SequenceModel(
        3, 2, cells=["average+lru"], width=4, state_size=4, options={"average": {"rate": 0.25}}, rngs=nnx.Rngs(0)
    )
    np.testing.assert_array_equal(model.blocks[0].cells[0].rate[...], 0.25)
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    state, step = model.initial_state((2,)), jax.jit(lambda x, state: model.step(x, state))
    for t in range(5):
        logits, state = step(x[:, t], state)
    np.testing.assert_allclose(logits, jax.jit(lambda x: model(x)[0])(x), rtol=1e-4, atol=1e-5)
