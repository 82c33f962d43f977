"""All tests here compile programs of small cells, and ask for no speed."""

import pytest


@pytest.fixture(autouse=True)
def _quickly(quick_compile):
    """What the fixture says, for each of them."""
