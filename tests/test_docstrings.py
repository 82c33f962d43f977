"""The examples in the docstrings of `mru` give what they say; their numbers were worked out by hand from the equations.

pytest's own `--doctest-modules` would import every file of tests as a module, also those that are meant to fail.
"""

import doctest
import importlib
import pkgutil

import pytest

import mru

MODULES = ["mru", *(found.name for found in pkgutil.walk_packages(mru.__path__, "mru."))]
BASES = (mru.operators.Operator, mru.operators.KernelOperator)
OPERATORS = [getattr(mru.operators, name) for name in mru.operators.__all__ if name != "field"]
MOST_USED = [mru.scan, mru.cells.Cell.step, mru.SequenceModel, *(kind for kind in OPERATORS if kind not in BASES)]


def found(name):
    """The tests of a module, by the names of what they stand in."""
    if name.startswith("mru.plots"):
        pytest.importorskip("matplotlib", reason='mru.plots needs matplotlib: pip install -e ".[train]"')
    return {test.name: test for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))}


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    for test in found(name).values():
        said = []
        doctest.DocTestRunner().run(test, out=said.append)
        assert not said, "".join(said)


@pytest.mark.parametrize("thing", MOST_USED, ids=lambda thing: thing.__qualname__)
def test_the_most_used_things_have_an_example(thing):
    assert f"{thing.__module__}.{thing.__qualname__}" in found(thing.__module__)
