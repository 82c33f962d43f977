"""minGRU, the gated recurrent unit whose gates depend on the input alone."""

from __future__ import annotations

from flax import nnx
from jax import Array

from mru.cells._minimal import MinimalCell
from mru.operators import Affine, Operator


class MinGRU(MinimalCell, name="mingru"):
    """z = sigma(W_z x + b_z), h_t = (1 - z) h_{t-1} + z h~, h~ = g(W_h x + b_h), y = W_o h + b_o.

    g(u) = u + 1/2 for u >= 0 and sigma(u) below, which keeps the state positive, as in the source's log-space form;
    or g(u) = u (`linear_candidate`). The states are computed by a scan in either form; a computation in log space gives
    nothing that this does not, see `mru/cells/_minimal.py`.

    Source: Feng et al. 2024, arXiv 2410.01201.
    """

    gates = ("gate",)
    gate: nnx.Linear

    def operator(self, x: Array) -> Operator:
        """h -> (1 - z) h + z h~."""
        z = nnx.sigmoid(self.gate(x))
        return Affine(1 - z, z * self.new(x))
