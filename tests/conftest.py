"""Tests run on the CPU, hypothesis repeats its examples, and there is a trained run to read."""

import atexit
import os
import shutil
import tempfile

import hypothesis
import jax
import pytest
from compiling import XLA_FLAGS

# On the CPU, unless JAX_PLATFORMS says otherwise: many bounds of rounding and memory are those of programs for a CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
# Not twice, as the processes of xdist inherit it: programs kept under other flags are not found.
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys(f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}".split()))
# Programs that runs of train.py compile are shared by the tests, and not left behind with the user's own.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mru-tests-")
atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])

hypothesis.settings.register_profile("mru", derandomize=True, deadline=None, max_examples=30)
hypothesis.settings.load_profile("mru")


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_programs():
    """The hundreds of programs of one file are of no use to the next, and keep gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def quick_compile():
    """Skips XLA's optimisations, for tests of many small programs: compiling is most of their time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where a file keeps compiled programs, if most of its runs are of a few."""
    from train_helpers import compiled_in

    folder = tmp_path_factory.mktemp("cache")
    with compiled_in(folder):
        yield folder


@pytest.fixture(scope="session")
def finished():
    """(workdir, argv, epsilon at each save, what was said) of one finished run, which many tests read."""
    from train_helpers import finished_run

    return finished_run()


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of that run to spoil, and the command that goes on with it."""
    workdir, argv, *_ = finished
    shutil.copytree(workdir, tmp_path / "run")
    return tmp_path / "run", [*argv[:2], "--workdir", str(tmp_path / "run")]
