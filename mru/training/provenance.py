"""Which versions, which commit and which devices made a number."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import subprocess
import sys

import jax


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("mru-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """The git commit of this source tree, marked if the tree has changes; outside a repository, that in $GIT_COMMIT."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        here = pathlib.Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GIT_COMMIT")


def device() -> str:
    """The devices of the run, such as "2 x NVIDIA H200"."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
