"""Memory recurrent units and state-space models in JAX/Flax, built on one associative scan."""

import importlib.metadata

from mru import cells, dynamics
from mru.engine.front import scan
from mru.model import SequenceBlock, SequenceModel, quantized
from mru.operators import Affine, Clamp, Latch, Operator, Play, Relay
from mru.training.load import load
from mru.training.optimizer import adamw

__all__ = [
    "Affine",
    "Clamp",
    "Latch",
    "Operator",
    "Play",
    "Relay",
    "SequenceBlock",
    "SequenceModel",
    "__version__",
    "adamw",
    "cells",
    "dynamics",
    "load",
    "quantized",
    "scan",
]

try:
    __version__ = importlib.metadata.version("mru-jax")
except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
