"""Memory that outlasts its training: agents that learned in a T-maze of length 20, in mazes of length up to 10,000.

python -m benchmarks.t_maze --cells bmru pmru gru lru --seeds 3 --out results/t_maze.json

The maze is that of Bakker 2001 and Lambrechts et al. 2023 (see `tasks/_t_maze_environment.py`): a cue in the first cell
says which arm to take at the far end of a corridor. An agent is one block of a cell, learned by recurrent PPO
(`benchmarks/recurrent_ppo.py`) with the same settings for every cell, and is that of the update with the most
successes. The settings were chosen with BMRU on seeds from 100 on, at the length of training: it soon finds the way
there with many of them, but with some it may lose it again, which is why the best update is kept.

Of each length there are 200 episodes, half with each cue, of at most twice as many actions as the shortest way has.
"success" is that of the policy that takes the likeliest action. As nothing is then left to chance, the episodes of a
cue are all alike. "sampled" is that of the policy as it was trained, which draws its actions.
"""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import mru
from benchmarks.measure import parser, positive, report, whole
from benchmarks.recurrent_ppo import Settings, act, agent, trainer
from mru.plots import style
from tasks._t_maze_environment import DOWN, UP, Maze, TMazeEnvironment

LENGTHS = (20, 100, 1000, 10000)
EPISODES = 200
# Actions of an episode in training, for each cell of the corridor.
PATIENCE = 10
CHANCE = 0.5


def successes(model: Any, length: Array, key: Array, sampled: Array) -> Array:
    """Which episodes ended in the right arm, bool (EPISODES,), half of them with each cue.

    Args:
        model: The agent.
        length: L of the maze, int32.
        key: For the actions, if they are drawn.
        sampled: Draw the actions from the policy, bool; or else take the likeliest.
    """
    rules = TMazeEnvironment(length, 2 * (length + 1))

    def ongoing(carry: Any) -> Array:
        return ~carry[2].all()

    def one(carry: Any) -> Any:
        mazes, state, over, found, key = carry
        key, draw = jax.random.split(key)
        x = jax.vmap(rules.observe)(mazes)
        log_probabilities, _, state = act(model, x, state, mazes.time == 0)
        drawn = jax.random.categorical(draw, log_probabilities)
        mazes, outcome = jax.vmap(rules.step)(mazes, jnp.where(sampled, drawn, log_probabilities.argmax(-1)))
        # Mazes whose episode is over are walked on in, but no longer count.
        return mazes, state, over | outcome.ended, found | (outcome.success & ~over), key

    zero, nowhere = jnp.zeros(EPISODES, jnp.int32), jnp.zeros(EPISODES, bool)
    mazes = Maze(zero, jnp.where(jnp.arange(EPISODES) % 2 == 0, UP, DOWN), zero)
    carry = (mazes, model.initial_state((EPISODES,)), nowhere, nowhere, key)
    return jax.lax.while_loop(ongoing, one, carry)[3]


def evaluator(cell: str, width: int) -> Callable[..., dict[str, dict[str, float]]]:
    """(parameters, others, seed) -> the success rate of both policies at each length, compiled once for all seeds."""
    graphdef = nnx.split(nnx.eval_shape(lambda: agent(cell, width, 0)))[0]

    @jax.jit
    def rate(params: Any, others: Any, length: Array, key: Array, sampled: Array) -> Array:
        return successes(nnx.merge(graphdef, params, others), length, key, sampled).mean()

    def evaluate(params: Any, others: Any, seed: int) -> dict[str, dict[str, float]]:
        key = jax.random.fold_in(jax.random.key(seed), 1)
        at = functools.partial(rate, params, others)
        return {
            name: {str(length): round(float(at(length, key, sampled)), 4) for length in LENGTHS}
            for name, sampled in (("success", False), ("sampled", True))
        }

    return evaluate


def rows(cells: list[str], seeds: range, width: int, corridor: int, settings: Settings) -> Iterator[dict[str, Any]]:
    """Each cell and seed: what was learned, and the success rates at each length.

    Args:
        cells: Registry names.
        seeds: Seeds of the parameters, the mazes and the actions.
        width: D, and N of the cell.
        corridor: L of the mazes in training.
        settings: Those of PPO.
    """
    rules = TMazeEnvironment(corridor, PATIENCE * corridor)
    for cell in cells:
        start, train = trainer(cell, width, rules, settings)
        evaluate = evaluator(cell, width)
        for seed in seeds:
            began = time.perf_counter()
            variables = start(seed)
            params, others, (episodes, right) = jax.block_until_ready(train(*variables, jax.random.key(seed)))
            trained = time.perf_counter()
            yield {
                "cell": cell,
                "seed": seed,
                "parameters": sum(x.size for x in jax.tree.leaves(params)),
                "width": width,
                "trained_at": corridor,
                **settings._asdict(),
                "actions": settings.updates * settings.steps * settings.mazes,
                # Of every tenth update, with drawn actions.
                "training_success": [round(float(x), 3) for x in np.asarray(right / jnp.maximum(episodes, 1))[9::10]],
                **evaluate(params, others, seed),
                "train_seconds": round(trained - began, 1),
                "evaluate_seconds": round(time.perf_counter() - trained, 1),
            }


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    rates = ", ".join(f"L = {int(length):,}: {rate:.3f}" for length, rate in row["success"].items())
    return (
        f"{row['cell']:6} seed {row['seed']}: success {rates}; sampled at L = {LENGTHS[-1]:,}: "
        f"{row['sampled'][str(LENGTHS[-1])]:.3f}; {row['train_seconds']:.0f} s"
    )


@style.styled
def draw(found: list[dict[str, Any]], out: pathlib.Path) -> None:
    """The success rate of each cell against the length; bands from the worst to the best seed."""
    figure, (axis,) = style.panels(style.COLUMN, 2.8)
    for number, cell in enumerate(dict.fromkeys(row["cell"] for row in found)):
        rates = np.array([list(row["success"].values()) for row in found if row["cell"] == cell])
        look = style.line(number, len(LENGTHS))
        axis.plot(LENGTHS, rates.mean(0), label=cell, **look)
        axis.fill_between(LENGTHS, rates.min(0), rates.max(0), color=look["color"], alpha=0.15, linewidth=0)
    style.logarithmic(axis, "x")
    trained = found[0]["trained_at"]
    axis.axvline(trained, color=style.GREY, linewidth=0.8, linestyle=":")
    axis.text(1.1 * trained, 0, "length of training", color=style.GREY, fontsize=style.SMALL, va="bottom")
    axis.axhline(CHANCE, color=style.GREY, linewidth=0.8, linestyle=":")
    axis.text(LENGTHS[-1], CHANCE - 0.02, "chance", color=style.GREY, fontsize=style.SMALL, ha="right", va="top")
    axis.set(xlabel="length L of the maze", ylabel="success rate", ylim=(-0.03, 1.05))
    style.legend_below(figure, axis)
    style.save(figure, out.parent, out.stem)


def main() -> None:
    """The command line."""
    standard = Settings()
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--cells", nargs="+", default=["bmru", "pmru", "gru", "lru"], help="registry names")
    arguments.add_argument("--seeds", type=whole(1), default=3, help="seeds of each cell")
    arguments.add_argument("--first_seed", type=whole(0), default=0, help="the first of them")
    arguments.add_argument("--updates", type=whole(1), default=standard.updates, help="updates of PPO")
    arguments.add_argument("--rate", type=positive, default=standard.rate, help="learning rate of Adam")
    given = arguments.parse_args()
    if unknown := [cell for cell in given.cells if cell not in mru.cells.names()]:
        arguments.error(f"--cells {unknown[0]}, allowed: {', '.join(mru.cells.names())}")
    seeds, settings = range(given.first_seed, given.first_seed + given.seeds), standard._replace(updates=given.updates)
    settings = settings._replace(rate=given.rate)
    report(rows(given.cells, seeds, 32, 20, settings), line, given.out, draw)


if __name__ == "__main__":
    main()
