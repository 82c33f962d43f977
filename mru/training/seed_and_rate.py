"""The seed and the learning rate of a run, which the functions of a train step take as values."""

from __future__ import annotations

from typing import NamedTuple

import jax


class SeedAndRate(NamedTuple):
    """What one program can be given of runs that it trains side by side (`benchmarks/together.py`).

    Attributes:
        key: Key of the seed.
        lr: Learning rate at its peak.
    """

    key: jax.Array
    lr: jax.Array | float

    # Steps, each of which has a key too, are below 2^31.
    @property
    def writing_key(self) -> jax.Array:
        """For the noise of what is written."""
        return jax.random.fold_in(self.key, 2**32 - 1)

    @property
    def feedback_key(self) -> jax.Array:
        """For the random matrices of feedback alignment."""
        return jax.random.fold_in(self.key, 2**32 - 2)

    @property
    def augmentation_key(self) -> jax.Array:
        """For what augments the examples."""
        return jax.random.fold_in(self.key, 2**32 - 3)
