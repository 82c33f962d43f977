"""The maps that scans are made of, one file each."""

from mru.operators.affine import Affine
from mru.operators.base import KernelOperator, Operator, field
from mru.operators.clamp import Clamp
from mru.operators.latch import Latch
from mru.operators.pairwise import Pairwise
from mru.operators.play import Play
from mru.operators.relay import Relay
from mru.operators.switch import Switch

__all__ = ["Affine", "Clamp", "KernelOperator", "Latch", "Operator", "Pairwise", "Play", "Relay", "Switch", "field"]
