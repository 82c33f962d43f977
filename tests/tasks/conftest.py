"""Prepared arrays for tasks, without a disk; and a small set on one."""

import pytest
from made_set import DATA

from tasks._datasets import SETS
from tasks._datasets.base import DataSet


@pytest.fixture
def arrays_are(monkeypatch):
    """Gives tasks these arrays in the place of the prepared ones."""
    return lambda arrays: monkeypatch.setattr(DataSet, "load", lambda *_: dict(arrays))


@pytest.fixture
def use(monkeypatch):
    """Puts a set among the known ones."""
    return lambda dataset: monkeypatch.setitem(SETS, dataset.name, dataset)


@pytest.fixture
def source(tmp_path):
    """A folder with its original."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "numbers.gz").write_bytes(DATA)
    return str(tmp_path / "source")


@pytest.fixture
def data_dir(tmp_path):
    return str(tmp_path / "data")
