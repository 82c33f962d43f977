"""A package of somebody else's, `tests/other_package`: its operator, cell and task, from outside of this repository."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import XLA_FLAGS

import mru

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "tests" / "other_package"
T, N = 11, 3


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package as pip installs it: the modules, and the metadata that its pyproject.toml says."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copytree(PACKAGE / "maxplus", site / "maxplus", ignore=shutil.ignore_patterns("__pycache__"))
    about = site / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, names in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
    ]
    about.joinpath("entry_points.txt").write_text("\n".join(lines))
    return site


def run(site, *command, **environment):
    paths = os.pathsep.join(map(str, (site, ROOT)))
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": paths, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true", **environment},
        cwd=site,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_readme_shows_every_file():
    text = (ROOT / "README.md").read_text()
    section = text.split("## Your own cell and task, in your own package")[1].split("\n## ")[0]
    shown = dict(re.findall(r"^`([\w./]+)`[^\n]*:\n\n```\w+\n(.*?)^```", section, re.S | re.M))
    parts = [*PACKAGE.glob("*"), *PACKAGE.glob("maxplus/*")]  # a wheel built from here leaves a copy in build/
    files = [path for path in parts if path.suffix in (".py", ".toml", ".yaml") and path.stat().st_size]
    assert len(files) == 5
    assert shown == {str(path.relative_to(PACKAGE)): path.read_text() for path in files}


def test_cell_and_task_train_from_a_config_by_name(site, tmp_path):
    run(site, ROOT / "train.py", "--config", PACKAGE / "peak.yaml", "--workdir", tmp_path / "run")
    program = """
import json, sys, jax.numpy as jnp, mru
model = mru.load(sys.argv[1])
kinds = [[type(cell).__module__ for cell in block.cells] for block in model.blocks]
assert kinds == [["maxplus.cell"], ["maxplus.cell", "mru.cells.lru"]], kinds
summary = json.load(open(sys.argv[1] + "/summary.json"))
print(summary["task"]["name"], summary["test"]["mse"])
"""
    task, error = run(site, "-c", program, tmp_path / "run").split()
    assert task == "peak"
    assert float(error) < 0.1  # half of what the best constant has


def test_the_cell_is_that_of_the_package(site, tmp_path):
    program = """
import jax.numpy as jnp, mru, numpy as np
assert "maxplus" in mru.cells.names()
from flax import nnx
cell = mru.cells.get("maxplus")(2, 3, decay=0.5, rngs=nnx.Rngs(0))
x = np.random.default_rng(0).normal(size=(7, 2))
w, b = (np.asarray(cell.candidate.kernel[...], float), np.asarray(cell.candidate.bias[...], float))
h, states = np.zeros(3), []
for t in range(7):
    h = np.maximum(h - np.log1p(np.exp(0.5)), x[t] @ w + b)
    states.append(h)
out = np.array(states) @ np.asarray(cell.out.kernel[...], float) + np.asarray(cell.out.bias[...], float)
y, last = cell(jnp.asarray(x, jnp.float32))
np.testing.assert_allclose(y, out, rtol=1e-5, atol=1e-5)
np.testing.assert_allclose(last, states[-1], rtol=1e-5, atol=1e-5)
"""
    run(site, "-c", program)


# The operator, against a loop in float64


def loop(a, b, h0, reset, reverse, g):
    """The states of h -> max(h + a, b) and the gradients of their product with g, by the chain rule."""
    states, before = np.zeros_like(b), np.zeros_like(b)
    order = range(T - 1, -1, -1) if reverse else range(T)
    h = h0
    for t in order:
        before[:, t] = h = np.where(reset[:, t, None], h0, h)
        states[:, t] = h = np.maximum(h + a[:, t], b[:, t])
    da, db, dh0, carried = np.zeros_like(a), np.zeros_like(b), np.zeros_like(h0), np.zeros_like(h0)
    for t in reversed(order):
        carried = carried + g[:, t]
        through = before[:, t] + a[:, t] > b[:, t]
        da[:, t], db[:, t] = np.where(through, carried, 0), np.where(through, 0, carried)
        carried = np.where(through, carried, 0)
        dh0 += np.where(reset[:, t, None], carried, 0)
        carried = np.where(reset[:, t, None], 0, carried)
    return states, da, db, dh0 + carried


def operands(seed=0, time=T):
    rng = np.random.default_rng(seed)
    a, b, g = -abs(rng.normal(size=(2, time, N))), rng.normal(size=(2, time, N)), rng.normal(size=(2, time, N))
    reset = np.zeros((2, time), bool)
    reset[0, [0, 4]] = reset[1, 7] = True
    return a, b, rng.normal(size=(2, N)), reset, g


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", ["sequential", "associative"])
def test_operator_is_the_loop(site, method, reverse, monkeypatch):
    monkeypatch.syspath_prepend(site)
    from maxplus.operator import MaxPlus

    a, b, h0, reset, g = operands()
    for cuts in (np.zeros_like(reset), reset):

        def scan(a, b, h0, cuts=cuts):
            return mru.scan(MaxPlus(a, b), h0, reset=jnp.asarray(cuts), reverse=reverse, method=method)

        h, pullback = jax.vjp(scan, *(jnp.asarray(v, jnp.float32) for v in (a, b, h0)))
        expected = loop(a, b, h0, cuts, reverse, g)
        for mine, theirs in zip((h, *pullback(jnp.asarray(g, jnp.float32))), expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


SHARDED = """
import jax, jax.numpy as jnp, mru, numpy as np, sys
from jax.sharding import NamedSharding, PartitionSpec as P
from maxplus.operator import MaxPlus
sys.path.insert(0, sys.argv[1])
import test_other_package as reference
reference.T = 16
mesh = jax.make_mesh((8,), ("seq",), axis_types=(jax.sharding.AxisType.Auto,))
a, b, h0, reset, g = reference.operands(1, 16)
along = NamedSharding(mesh, P(None, "seq", None))
place = lambda v: jax.device_put(jnp.asarray(v, jnp.float32), along)
for reverse in (False, True):
    with jax.set_mesh(mesh):
        f = lambda a, b, h0, r: mru.scan(MaxPlus(a, b), h0, reset=r, reverse=reverse)
        run = jax.jit(lambda a, b, h0, r, g: (f(a, b, h0, r), jax.vjp(lambda *x: f(*x, r), a, b, h0)[1](g)))
        h, grads = run(place(a), place(b), jnp.asarray(h0, jnp.float32), jnp.asarray(reset), place(g))
    for mine, theirs in zip((h, *grads), reference.loop(a, b, h0, reset, reverse, g), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
print(jax.device_count())
"""


def test_operator_over_eight_devices(site):
    flags = {"XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    assert run(site, "-c", SHARDED, ROOT / "tests", **flags).strip() == "8"
