"""Recurrent PPO, and the success rates in long mazes: each quantity against its definition."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import recurrent_ppo, t_maze
from benchmarks.recurrent_ppo import Playing, Settings, Steps
from tasks._t_maze_environment import TMazeEnvironment

MAZES, STEPS = 6, 40


def played_by(model, rules, playing=None, seed=0):
    if playing is None:
        mazes = jax.vmap(rules.reset)(jax.random.split(jax.random.key(seed), MAZES))
        playing = Playing(mazes, model.initial_state((MAZES,)), jnp.ones(MAZES, bool))
    return recurrent_ppo.play(model, rules, playing, jax.random.key(seed + 1), STEPS)


def leaking(cell):
    """An agent that is far from uniform; a BMRU leaks as it does while it is trained."""
    model = recurrent_ppo.agent(cell, 8, 0)
    model.head.kernel[...] *= 100
    for _, variable in nnx.to_flat_state(nnx.state(model)):
        assert variable[...].dtype != jnp.float64
    if cell == "bmru":
        model.blocks[0].cells[0].epsilon[...] = jnp.float32(0.6)
    return model


@pytest.mark.parametrize("cell", ["bmru", "pmru", "gru", "lru"])
def test_the_parallel_call_says_what_was_said_while_playing(cell):
    model, rules = leaking(cell), TMazeEnvironment(2, 9)
    playing, first, _ = played_by(model, rules)
    assert first.ended.sum(0).min() > 1
    before = playing.state
    _, second, _ = played_by(model, rules, playing, seed=5)
    assert not second.starts[0].all()  # some episodes go on from the steps before, with the state carried
    log_probabilities, value = recurrent_ppo.look_back(model, second, before)
    said = np.take_along_axis(np.asarray(log_probabilities), np.asarray(second.action).T[..., None], -1)[..., 0]
    np.testing.assert_allclose(said, second.log_probability.T, atol=2e-5)
    np.testing.assert_allclose(value, second.value.T, atol=2e-5)


def test_an_episode_remembers_nothing_of_the_one_before():
    model, rules = leaking("gru"), TMazeEnvironment(2, 9)
    _, played, _ = played_by(model, rules)
    begins = np.flatnonzero(np.asarray(played.starts[:, 0]))
    assert len(begins) > 2
    state = model.initial_state()
    for t in range(begins[1], begins[2]):
        outputs, state = model.step(played.observation[t, 0], state)
        expected = jax.nn.log_softmax(outputs[:4])[played.action[t, 0]]
        np.testing.assert_allclose(played.log_probability[t, 0], expected, atol=1e-5)


def test_advantages_are_the_weighted_sums_of_surprises():
    rng, discount, trace, (time, mazes) = np.random.default_rng(0), 0.9, 0.8, (30, 5)
    value, reward = rng.normal(size=(2, time, mazes))
    after = rng.normal(size=mazes)
    ended = rng.random((time, mazes)) < 0.15
    cut = ended & (rng.random((time, mazes)) < 0.5)
    assert cut.any()
    assert (ended & ~cut).any()
    expected = np.zeros((time, mazes))
    for m in range(mazes):
        for t in range(time):
            if cut[t, m]:
                continue
            weight = 1.0
            for k in range(t, time):
                if cut[k, m]:
                    break
                following = 0.0 if ended[k, m] else (value[k + 1, m] if k + 1 < time else after[m])
                expected[t, m] += weight * (reward[k, m] + discount * following - value[k, m])
                if ended[k, m]:
                    break
                weight *= discount * trace
    nothing = jnp.zeros((time, mazes))
    float32 = {"value": jnp.float32(value), "reward": jnp.float32(reward)}
    played = Steps(nothing, nothing, nothing, nothing, ended=ended, cut=cut, success=nothing, **float32)
    found = recurrent_ppo.advantages(played, jnp.float32(after), discount, trace)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_loss_is_that_of_ppo():
    settings, (time, mazes) = Settings(clip=0.2, entropy=0.03, value=0.7), (12, 3)
    model, rules = leaking("pmru"), TMazeEnvironment(2, 9)
    mazes = jax.vmap(rules.reset)(jax.random.split(jax.random.key(0), 3))
    playing = Playing(mazes, model.initial_state((3,)), jnp.ones(3, bool))
    _, played, _ = recurrent_ppo.play(model, rules, playing, jax.random.key(1), time)
    rng = np.random.default_rng(0)
    advantage = rng.normal(size=(time, 3))
    # As if an older policy had acted: ratios on both sides of both bounds.
    older = np.asarray(played.log_probability, np.float64) + rng.normal(size=(time, 3)) * 0.5
    outputs = np.asarray(model(played.observation.swapaxes(0, 1), reset=played.starts.T)[0], np.float64)
    logits, value = outputs[..., :4].swapaxes(0, 1), outputs[..., 4].T
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    z = (advantage - advantage.mean()) / advantage.std()
    total = 0.0
    for t in range(time):
        for m in range(3):
            ratio = np.exp(log_p[t, m, played.action[t, m]] - older[t, m])
            total -= min(ratio * z[t, m], np.clip(ratio, 0.8, 1.2) * z[t, m])
            total += 0.7 * (value[t, m] - advantage[t, m] - float(played.value[t, m])) ** 2
            total += 0.03 * (np.exp(log_p[t, m]) * log_p[t, m]).sum()
    old = played._replace(log_probability=jnp.float32(older))
    found = recurrent_ppo.loss(model, old, jnp.float32(advantage), playing.state, settings)
    np.testing.assert_allclose(found, total / (time * 3), rtol=1e-4)
