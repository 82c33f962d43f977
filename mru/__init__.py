"""Memory recurrent units and state-space models in JAX/Flax, built on one associative scan."""

from mru import cells
from mru.model import SequenceBlock, SequenceModel
from mru.operators import Affine, Clamp, Latch, Relay
from mru.scan import scan

__all__ = ["Affine", "Clamp", "Latch", "Relay", "SequenceBlock", "SequenceModel", "cells", "scan"]
