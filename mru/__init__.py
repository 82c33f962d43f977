"""Memory recurrent units and state-space models in JAX/Flax, built on one associative scan."""

from mru import cells
from mru.checkpoint import load
from mru.model import SequenceBlock, SequenceModel
from mru.operators import Affine, Clamp, Latch, Play, Relay
from mru.optimizer import adamw
from mru.scan import scan

__all__ = [
    "Affine",
    "Clamp",
    "Latch",
    "Play",
    "Relay",
    "SequenceBlock",
    "SequenceModel",
    "adamw",
    "cells",
    "load",
    "scan",
]
