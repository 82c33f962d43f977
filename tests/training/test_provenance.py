import subprocess
import sys

import jax
import numpy as np
import pytest

from mru.training import provenance


def test_versions_name_what_runs():
    found = provenance.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert {"mru-jax", "jaxlib", "flax", "optax", "orbax-checkpoint"} <= set(found)
    assert all(isinstance(version, str) and version for version in found.values())


def git(folder, *command):
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder that takes the place of the one `provenance` lies in."""
    folder = tmp_path / "source"
    folder.mkdir()
    monkeypatch.setattr(provenance, "__file__", str(folder / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    return folder


def test_commit_of_the_source_tree(source, monkeypatch):
    monkeypatch.setenv("GIT_COMMIT", "not asked")
    git(source, "init", "-q")
    (source / "a").write_text("1")
    git(source, "add", "a")
    git(source, "commit", "-qm", "x")
    git(source, "tag", "v1")  # which would hide the hash
    head = git(source, "rev-parse", "HEAD")
    assert provenance.commit() == head
    (source / "a").write_text("2")
    assert provenance.commit() == f"{head}-dirty"


def test_commit_outside_a_repository(source, monkeypatch):
    assert provenance.commit() is None
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert provenance.commit() == "abc"


def test_commit_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert provenance.commit() == "abc"
