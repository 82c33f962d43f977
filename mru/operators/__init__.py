"""The maps that scans are made of, one file each."""

from mru.operators.base import Affine, Clamp, Latch, Operator, Play, Relay, lowered, pytree

__all__ = ["Affine", "Clamp", "Latch", "Operator", "Play", "Relay", "lowered", "pytree"]
