"""What an installed package has and needs."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib

from flax import nnx

import mru
from mru.training import checkpoint

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {"tensorflow-datasets": "tensorflow_datasets", "pillow": "PIL", "scikit-learn": "sklearn"}


def module_names(requirements):
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in requirements]
    return {MODULES.get(name, name) for name in names}


def test_the_library_needs_nothing_of_the_extras(tmp_path):
    arguments = {"inputs": 3, "outputs": 2, "cells": ["lru", "pmru"], "width": 4, "state_size": 4}
    state = nnx.state(mru.SequenceModel(**arguments, rngs=nnx.Rngs(0)))
    with checkpoint.Writer(tmp_path) as writer:
        arrays = checkpoint.on_host(checkpoint.flatten(state))
        writer.save(1, model=arrays, train=arrays, about={"model": arguments}, best=1)
    hidden = module_names(PROJECT["optional-dependencies"]["train"])
    assert "grain" in hidden
    assert not hidden & module_names(PROJECT["dependencies"])
    program = f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); exec(open(sys.argv.pop(1)).read())"
    command = [sys.executable, "-c", program, str(ROOT / "tests" / "base_install.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    ours = [name for name in mru.cells.names() if not name.startswith("test_")]  # tests have cells of their own
    assert f"{len(ours)} cells" in done.stdout


def test_version():
    assert mru.__version__ in (PROJECT["version"], "0+unknown")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{PROJECT['version']}]" in changelog
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_commands_of_contributing_are_those_of_ci():
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for command in ("ruff check . && ruff format --check .", "mypy"):
        assert f"\n    {command}\n" in contributing
        assert command in (ROOT / ".ci" / "run").read_text()
    named = re.findall(r"`((?:mru|tasks|tests|configs|results)/[\w./]+)`", contributing)
    assert len(named) > 5
    assert not [path for path in named if "NAME" not in path and "CELL" not in path and not (ROOT / path).exists()]
