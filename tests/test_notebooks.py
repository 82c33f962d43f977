"""The notebooks: each has the form that all have, and runs from its first cell to its last."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
LIMIT = 400  # seconds each; quiet cores need a quarter of it
LARGEST = 150_000  # bytes of a figure


def cells(path):
    """The header of a notebook, and its cells as pairs: whether it is text, and what stands in it."""
    header, *found = re.split(r"^# %%", path.read_text(), flags=re.M)
    split = (cell.partition("\n") for cell in found)
    return header, [("[markdown]" in first, body.strip()) for first, _, body in split]


def test_there_are_notebooks():
    assert NOTEBOOKS
    assert not [path.name for path in NOTEBOOKS if not re.fullmatch(r"\d\d_[a-z_]+\.py", path.name)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path):
    header, found = cells(path)
    assert re.match(r"# ---\n# jupyter:\n(#  .*\n)*#     name: python3\n(#  .*\n)*# ---\n\s*$", header)
    assert "ipynb" not in header  # no copy with outputs is kept beside it
    text = [body for is_text, body in found if is_text]
    code = "\n".join(body for is_text, body in found if not is_text)
    assert found[0][0], "it begins with text"
    assert found[0][1].startswith("# # ")
    assert "# %matplotlib inline" in code, "figures are shown where their cell stands"
    assert text[-1].startswith("# ## Questions to try")
    assert any(isinstance(node, ast.Assert) or _is_numpy_assertion(node) for node in ast.walk(ast.parse(code)))


def _is_numpy_assertion(node):
    return isinstance(node, ast.Attribute) and node.attr.startswith("assert_")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_walls_of_code(path):
    lengths = {body: len(body.splitlines()) for is_text, body in cells(path)[1] if not is_text}
    assert not [body for body, lines in lengths.items() if lines > 30]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    for name in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(name, reason='notebooks run with jupytext and nbclient: pip install -e ".[notebooks]"')
    # A process of its own: its kernel ends with it, also at the time limit.
    command = [sys.executable, "notebooks/execute.py", str(path), "--figures", str(tmp_path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    shown = list(tmp_path.glob("*.png"))
    assert shown
    assert not [figure.name for figure in shown if figure.stat().st_size > LARGEST]


def test_what_fails_is_shown(tmp_path):
    pytest.importorskip("jupytext", reason='notebooks run with jupytext and nbclient: pip install -e ".[notebooks]"')
    for cell, said in (("assert 1 + 1 == 3", "AssertionError"), ("import warnings\nwarnings.warn('old')", "old")):
        (tmp_path / "wrong.py").write_text(f"# %%\n{cell}\n")
        command = [sys.executable, "notebooks/execute.py", str(tmp_path / "wrong.py")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 1
        assert cell.splitlines()[-1] in done.stderr
        assert said in done.stderr
