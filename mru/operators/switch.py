"""The affine map whose coefficient is 0 or 1: a latch that is differentiated as an affine map."""

from __future__ import annotations

from jax import Array

from mru.operators.affine import Affine


class Switch(Affine):
    """`h -> a * h + b` with a in {0, 1}: it holds where a = 1 and b = 0, writes where a = 0, and counts elsewhere.

    It computes as its base class does, exactly. That it is one says what its steps are: holds and writes, which have a
    rate and a duration, and no decay, which would have a time constant.

    Example:
        >>> import jax.numpy as jnp, mru
        >>> from mru.operators import Switch
        >>> op = Switch(a=jnp.array([[0.0], [1.0], [1.0]]), b=jnp.array([[2.0], [0.0], [3.0]]))
        >>> print(mru.scan(op)[:, 0])  # write 2, hold it, add 3
        [2. 2. 5.]
        >>> print(op.holds(jnp.zeros((3, 1)))[:, 0])
        [False  True False]
    """

    def holds(self, h: Array) -> Array:
        """Where nothing is written or added."""
        return (self.a == 1) & (self.b == 0)
