"""T-maze, the environment: an agent walks the corridor itself, and is paid for the right arm at the far end.

Pure functions of one maze, in JAX: `jax.vmap` makes many of them.

Source: Bakker 2001, "Reinforcement learning with long short-term memory"; as in Lambrechts et al. 2023, arXiv
2106.01001.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# What a cell shows: the cue, which says the arm, in the first cell; the junction in the last; the corridor between.
SEEN_UP, SEEN_DOWN, SEEN_CORRIDOR, SEEN_JUNCTION = range(4)
# Actions. The right arm is UP for the cue SEEN_UP and DOWN for SEEN_DOWN, which are the same numbers.
UP, DOWN, LEFT, RIGHT = range(4)

PAID, FINED = 4.0, -0.1


def observation(place: Any, arm: Any, corridor: int | Array, xp: ModuleType = jnp) -> Any:
    """One-hot {up, down, corridor, junction}, float32 (..., 4).

    Args:
        place: The cell, int (...): 0 is the first, `corridor` the junction.
        arm: The right arm, int (...): `UP` or `DOWN`.
        corridor: L, moves from the first cell to the junction, at least 1.
        xp: Module of the arrays, `jax.numpy` or `numpy`.
    """
    inside = xp.where(place == corridor, SEEN_JUNCTION, SEEN_CORRIDOR)
    return xp.eye(4, dtype=np.float32)[xp.where(place == 0, arm, inside)]


class Maze(NamedTuple):
    """Where an agent is in its episode.

    Attributes:
        place: The cell, int32: 0 is the first, L the junction.
        arm: The right arm, int32: `UP` or `DOWN`.
        time: Actions taken so far, int32.
    """

    place: Array
    arm: Array
    time: Array


class Outcome(NamedTuple):
    """What an action led to.

    Attributes:
        reward: float32.
        ended: The episode is over, bool.
        cut: It is over by its limit alone, bool.
        success: The right arm was taken, bool.
    """

    reward: Array
    ended: Array
    cut: Array
    success: Array


@dataclass(frozen=True)
class TMazeEnvironment:
    """The rules.

    The actions are up, down, left and right. Left and right move by a cell. At the junction up and down take an arm,
    which ends the episode: the reward is 4 for the right one and -0.1 for the other. An action against a wall (up or
    down in the corridor, left in the first cell, right at the junction) leaves the agent where it is, with a reward of
    -0.1. All other rewards are 0.

    Attributes:
        corridor: L, moves from the first cell to the junction, at least 1; an integer, also a traced one.
        limit: Actions after which an episode is cut.
    """

    corridor: int | Array
    limit: int | Array

    def reset(self, key: Array) -> Maze:
        """A new episode: the agent in the first cell, each arm the right one half of the time."""
        return Maze(jnp.int32(0), jax.random.bernoulli(key).astype(jnp.int32), jnp.int32(0))

    def observe(self, maze: Maze) -> Array:
        """What the agent sees: one-hot {up, down, corridor, junction}, float32 (4,)."""
        return observation(maze.place, maze.arm, self.corridor)

    def step(self, maze: Maze, action: Array) -> tuple[Maze, Outcome]:
        """Take an action, int32.

        Returns:
            The maze after it, which is the last of its episode where that is over, and what the action led to.
        """
        vertical, time = (action == UP) | (action == DOWN), maze.time + 1
        arrived = vertical & (maze.place == self.corridor)
        success = arrived & (action == maze.arm)
        move = (action == RIGHT).astype(jnp.int32) - (action == LEFT)
        place = jnp.clip(maze.place + move, 0, self.corridor)
        stuck = (place == maze.place) & ~arrived
        reward = jnp.where(success, PAID, jnp.where(arrived | stuck, FINED, 0.0))
        cut = ~arrived & (time >= self.limit)
        return Maze(place, maze.arm, time), Outcome(reward.astype(jnp.float32), arrived | cut, cut, success)

    def step_or_reset(self, key: Array, maze: Maze, action: Array) -> tuple[Maze, Outcome]:
        """Take an action, and begin a new episode where this one is over by it."""
        after, outcome = self.step(maze, action)
        anew = self.reset(key)
        return jax.tree.map(lambda new, old: jnp.where(outcome.ended, new, old), anew, after), outcome
