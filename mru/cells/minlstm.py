"""minLSTM, the LSTM whose gates depend on the input alone."""

from __future__ import annotations

from flax import nnx
from jax import Array

from mru.cells._minimal import MinimalCell
from mru.operators import Affine, Operator


class MinLSTM(MinimalCell, name="minlstm"):
    """f = sigma(W_f x + b_f), i = sigma(W_i x + b_i), h_t = f' h_{t-1} + i' h~, h~ = g(W_h x + b_h), y = W_o h + b_o.

    f' = f / (f + i) and i' = i / (f + i) add up to 1, so that the state is a moving average. They are computed as
    sigma(log f - log i) and sigma(log i - log f), which divide by nothing that may round to zero.

    g(u) = u + 1/2 for u >= 0 and sigma(u) below, which keeps the state positive, as in the source's log-space form;
    or g(u) = u (`linear_candidate`). The states are computed by a scan in either form; a computation in log space gives
    nothing that this does not, see `mru/cells/_minimal.py`.

    Source: Feng et al. 2024, arXiv 2410.01201.
    """

    gates = ("forget_gate", "input_gate")
    forget_gate: nnx.Linear
    input_gate: nnx.Linear

    def operator(self, x: Array) -> Operator:
        """h -> f' h + i' h~."""
        # log f = -softplus(-u) for f = sigma(u).
        difference = nnx.softplus(-self.input_gate(x)) - nnx.softplus(-self.forget_gate(x))
        return Affine(nnx.sigmoid(difference), nnx.sigmoid(-difference) * self.new(x))
