"""Stacks of cells, from token or feature to logits."""

from mru.model.blocks import SequenceBlock
from mru.model.quantization import quantized
from mru.model.sequence import ModelState, SequenceModel

__all__ = ["ModelState", "SequenceBlock", "SequenceModel", "quantized"]
