"""The maze against a plain loop over the rules, as Bakker 2001 and Lambrechts et al. 2023 state them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks._t_maze_environment import Maze, TMazeEnvironment

UP, DOWN, LEFT, RIGHT = range(4)


def walked(corridor, limit, arm, actions):
    """What is seen before each action, and (reward, ended, cut, success) of each, until the episode is over."""
    place, rows = 0, []
    for number, action in enumerate(actions, 1):
        seen = [arm == UP, arm == DOWN, False, False] if place == 0 else [False, False, place < corridor, False]
        seen[3] = place == corridor
        success, ended, reward = False, False, 0.0
        if place == corridor and action in (UP, DOWN):
            success, ended = action == arm, True
            reward = 4.0 if success else -0.1
        elif action == RIGHT and place < corridor:
            place += 1
        elif action == LEFT and place > 0:
            place -= 1
        else:
            reward = -0.1
        cut = not ended and number == limit
        rows.append((np.float32(seen).tolist(), np.float32(reward), ended or cut, cut, success))
        if ended or cut:
            break
    return rows


@pytest.mark.parametrize(("corridor", "limit"), [(1, 5), (2, 30), (4, 60)])
def test_a_walk_has_the_rewards_and_observations_of_the_rules(corridor, limit):
    rules, rng = TMazeEnvironment(corridor, limit), np.random.default_rng(0)
    arms = np.arange(40) % 2
    actions = rng.choice(4, size=(limit, 40), p=[0.15, 0.15, 0.25, 0.45])

    def one(mazes, action):
        seen = jax.vmap(rules.observe)(mazes)
        mazes, outcome = jax.vmap(rules.step)(mazes, action)
        return mazes, (seen, *outcome)

    zero = jnp.zeros(40, jnp.int32)
    found = jax.lax.scan(one, Maze(zero, jnp.int32(arms), zero), jnp.int32(actions))[1]
    ends = set()
    for i, arm in enumerate(arms):
        expected = walked(corridor, limit, arm, actions[:, i])
        for t, row in enumerate(expected):
            assert (found[0][t, i].tolist(), *(x[t, i] for x in found[1:])) == row
        ends.add(tuple(expected[-1][2:]))
    assert ends == {(True, False, True), (True, False, False), (True, True, False)}


def test_a_new_episode_begins_in_the_first_cell_with_either_cue():
    rules = TMazeEnvironment(3, 10)
    keys = jax.random.split(jax.random.key(0), 1000)
    many = jax.jit(jax.vmap(rules.step_or_reset, (0, None, None)))
    for arm in (UP, DOWN):
        junction = Maze(jnp.int32(3), jnp.int32(arm), jnp.int32(7))
        after, outcome = many(keys, junction, jnp.int32(UP))
        assert outcome.ended.all()
        assert outcome.success.all() == (arm == UP)
        assert not after.place.any()
        assert not after.time.any()
        assert abs(float(after.arm.mean()) - 0.5) < 2.5 / np.sqrt(1000)
        inside, outcome = many(keys, junction, jnp.int32(LEFT))
        assert not outcome.ended.any()
        assert {tuple(row) for row in np.stack(inside, -1).tolist()} == {(2, arm, 8)}
