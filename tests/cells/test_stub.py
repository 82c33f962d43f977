"""`mru/cells/__init__.pyi` says to type checkers what `mru/cells/__init__.py` finds when it runs."""

import inspect
from pathlib import Path

import pytest

from mru import cells

STUB = Path(cells.__file__).with_suffix(".pyi")
HEAD = (
    "# Written by `pytest tests/cells/test_stub.py` from the files of this folder, for type checkers and editors.\n\n"
)
# What is no class does not say where it is from.
SHARED = {
    "REGISTRY": "mru.cells._base",
    "State": "mru.operators.base",
}
IMPORT = "from {} import {} as {}\n"


def expected():
    """The text: an import for everything that `mru.cells` takes from its files, and its functions as they are."""
    exported = {name: getattr(cells, name) for name in cells.__all__}
    own = [x for x in exported.values() if inspect.isfunction(x)]
    places = sorted((SHARED.get(n) or x.__module__, n) for n, x in exported.items() if x not in own)
    # Constants, then classes, as ruff sorts them.
    places.sort(key=lambda place: (place[0], not place[1].isupper(), place[1].lower()))
    functions = [f"def {f.__name__}{inspect.signature(f)}: ...\n".replace("'", "") for f in own]
    return HEAD + "".join(IMPORT.format(module, n, n) for module, n in places) + "\n" + "".join(functions)


def test_type_checkers_see_every_cell():
    """Where a file of a cell came or went, this test writes the stub anew, and fails once to say so."""
    text = expected()
    assert "from mru.cells.pmru import PMRU as PMRU\n" in text
    if not STUB.exists() or STUB.read_text() != text:
        STUB.write_text(text)
        pytest.fail(f"{STUB} was not up to date and has been written anew: commit it with your change")
