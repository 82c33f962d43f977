"""The maps that scans are made of, one file each."""

from mru.operators.affine import Affine
from mru.operators.base import KernelOperator, Operator, field
from mru.operators.clamp import Clamp
from mru.operators.latch import Latch
from mru.operators.pair_affine import PairAffine
from mru.operators.play import Play
from mru.operators.relay import Relay
from mru.operators.route import Gather, Route, ScoredRoute
from mru.operators.selective import Selective
from mru.operators.switch import Switch

__all__ = [
    "Affine",
    "Clamp",
    "Gather",
    "KernelOperator",
    "Latch",
    "Operator",
    "PairAffine",
    "Play",
    "Relay",
    "Route",
    "ScoredRoute",
    "Selective",
    "Switch",
    "field",
]
