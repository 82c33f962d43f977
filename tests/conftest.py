"""Puts `reference` on the path of every test below, and makes hypothesis draw the same examples in each run."""

import hypothesis
import jax
import pytest

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
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
