"""Stacks of cells, from token or feature to logits."""

from mru.model.sequence import ModelState, SequenceBlock, SequenceModel

__all__ = ["ModelState", "SequenceBlock", "SequenceModel"]
