"""Fixtures of the tests of configs."""

import jax
import pytest

import train


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, where runs/ would appear."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nothing_compiles(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("this must not be reached")

    monkeypatch.setattr(train, "Trainer", refuse)
    monkeypatch.setattr(jax.distributed, "initialize", refuse)
