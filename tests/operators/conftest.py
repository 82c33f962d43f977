"""All tests here compile programs of a few steps, and ask for no speed."""

import pytest


@pytest.fixture(autouse=True)
def _quickly(quick_compile):
    """What the fixture says, for each of them."""
