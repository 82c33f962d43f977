"""An operator: a family of maps closed under composition."""

import jax.numpy as jnp
from jax import Array

import mru


class MaxPlus(mru.Operator):
    """h -> max(h + a, b)."""

    a: Array
    b: Array

    def compose(self, earlier):
        """The map `self . earlier`."""
        return MaxPlus(earlier.a + self.a, jnp.maximum(earlier.b + self.a, self.b))

    def apply(self, h):
        """The state after each step, given the state before it."""
        return jnp.maximum(h + self.a, self.b)
