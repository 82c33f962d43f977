"""T-maze, the supervised form: a sign at the entrance says which way to turn at the far end of a corridor.

Source: Bakker 2001, "Reinforcement learning with long short-term memory"; as in Lambrechts et al. 2023, "Warming up
recurrent neural networks to maximise reachable multistability greatly improves learning", arXiv 2106.01001.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from tasks._t_maze_environment import observation
from tasks.base import Generated, accuracy, cross_entropy


@dataclass(frozen=True)
class TMaze(Generated, name="t_maze"):
    """What an agent sees on its way to the junction of a T-maze of length L: one-hot, float32 (n, L + 1, 4).

    The channels are {up, down, corridor, junction}. The first cell shows `up` or `down`, each half of the time and
    never again; the L - 1 cells after it the corridor, the last the junction. The target, int32 (n,), is the action at
    the junction: 0 for up, 1 for down. There are two different examples only. The metric is the success rate; chance
    is 1/2.

    Attributes:
        corridor: L, moves from the first cell to the junction.
    """

    corridor: int = 20
    retention: tuple[int, ...] = (20, 200, 2000, 10000)

    features: ClassVar[int] = 4
    outputs: ClassVar[int] = 2
    pooling: ClassVar[str] = "last"
    metric: ClassVar[str] = "success"
    goal: ClassVar[str] = "max"
    chance: ClassVar[float] = 0.5
    retention_option: ClassVar[str] = "corridor"
    retention_axis: ClassVar[str] = "length L of the maze"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("corridor", 1, bits=30)

    @property
    def length(self) -> int:
        """Time steps T: the first cell and one more after each move."""
        return self.corridor + 1

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        targets = (self._uniform(split, indices, 1)[:, 0] < 0.5).astype(np.int32)
        inputs = observation(np.arange(self.length), targets[:, None], self.corridor, np)
        return {"inputs": inputs, "targets": targets}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, 2)` against actions `(B,)`."""
        return cross_entropy(outputs, batch["targets"])

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`success`, float32 `(B,)`: 1 where the action is right."""
        return {"success": accuracy(outputs, batch["targets"])}
