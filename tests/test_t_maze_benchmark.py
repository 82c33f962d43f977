"""Recurrent PPO, and the success rates in long mazes: each quantity against its definition."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train_helpers import ROOT

from benchmarks import recurrent_ppo, t_maze
from benchmarks.recurrent_ppo import Playing, Settings, Steps
from tasks._t_maze_environment import Maze, TMazeEnvironment

pytestmark = pytest.mark.usefixtures("quick_compile")

MAZES, STEPS, RULES = 6, 40, TMazeEnvironment(2, 9)


@functools.cache
def leaking(cell):
    """An agent that is far from uniform, as (graph, variables); a BMRU leaks as it may while it is trained."""

    def made():
        model = recurrent_ppo.agent(cell, 8, 0)
        model.head.kernel[...] *= 100
        if cell == "bmru":
            model.blocks[0].cells[0].epsilon[...] = jnp.float32(0.6)
        return nnx.state(model)

    return nnx.split(nnx.eval_shape(lambda: recurrent_ppo.agent(cell, 8, 0)))[0], jax.jit(made)()


@functools.cache
def program(cell):
    """(playing, key) -> `play`, and what `look_back` says of it; and where playing begins."""
    graph, variables = leaking(cell)

    @jax.jit
    def run(playing, key):
        model = nnx.merge(graph, variables)
        after, played, _ = recurrent_ppo.play(model, RULES, playing, key, STEPS)
        return after, played, recurrent_ppo.look_back(model, played, playing.state)

    arms = jnp.arange(MAZES, dtype=jnp.int32) % 2
    state = nnx.merge(graph, variables).initial_state((MAZES,))
    return run, Playing(Maze(0 * arms, arms, 0 * arms), state, jnp.ones(MAZES, bool))


@pytest.mark.parametrize("cell", ["bmru", "gru"])
def test_the_parallel_call_says_what_was_said_while_playing(cell):
    run, beginning = program(cell)
    playing, first, _ = run(beginning, jax.random.key(0))
    assert first.ended.sum(0).min() > 1
    assert not playing.starts.all()
    for given in (beginning, playing):  # the latter with a state that is carried
        _, played, (log_probabilities, value) = run(given, jax.random.key(5))
        taken = np.take_along_axis(np.asarray(log_probabilities), np.asarray(played.action).T[..., None], -1)[..., 0]
        np.testing.assert_allclose(taken, played.log_probability.T, atol=2e-5)
        np.testing.assert_allclose(value, played.value.T, atol=2e-5)
    assert len(np.unique(taken.round(3))) > 20


def test_an_episode_remembers_nothing_of_the_one_before():
    run, beginning = program("gru")
    _, played, _ = run(beginning, jax.random.key(0))
    begins = np.flatnonzero(np.asarray(played.starts[:, 0]))
    assert len(begins) > 2
    model = nnx.merge(*leaking("gru"))
    alone = jax.jit(lambda x: jax.nn.log_softmax(model(x)[0][..., :4]))(played.observation[begins[1] : begins[2], 0])
    said = alone[np.arange(len(alone)), played.action[begins[1] : begins[2], 0]]
    np.testing.assert_allclose(played.log_probability[begins[1] : begins[2], 0], said, atol=2e-5)


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
    settings, rng = Settings(clip=0.2, entropy=0.03, value=0.7), np.random.default_rng(0)
    run, beginning = program("gru")
    _, played, (log_p, value) = run(beginning, jax.random.key(0))
    log_p, value = np.float64(log_p).swapaxes(0, 1), np.float64(value).T
    advantage = rng.normal(size=(STEPS, MAZES))
    # As if an older policy had acted: ratios on both sides of both bounds.
    older = np.float64(played.log_probability) + rng.normal(size=(STEPS, MAZES)) * 0.5
    scaled = (advantage - advantage.mean()) / advantage.std()
    total = 0.0
    for t in range(STEPS):
        for m in range(MAZES):
            ratio = np.exp(log_p[t, m, played.action[t, m]] - older[t, m])
            total -= min(ratio * scaled[t, m], np.clip(ratio, 0.8, 1.2) * scaled[t, m])
            total += 0.7 * (value[t, m] - advantage[t, m] - float(played.value[t, m])) ** 2
            total += 0.03 * (np.exp(log_p[t, m]) * log_p[t, m]).sum()
    old = played._replace(log_probability=jnp.float32(older))

    graph, variables = leaking("gru")

    @jax.jit
    def found(old, advantage):
        return recurrent_ppo.loss(nnx.merge(graph, variables), old, advantage, beginning.state, settings)

    np.testing.assert_allclose(found(old, jnp.float32(advantage)), total / (STEPS * MAZES), rtol=1e-4)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cells", "bmru", "nosuch"], "--cells nosuch, allowed: alpha_cmru"),
        (["--seeds", "0"], "argument --seeds: expected an integer >= 1, got 0"),
        (["--updates", "0"], "argument --updates: expected an integer >= 1, got 0"),
        (["--rate", "nan"], "argument --rate: expected a finite number above 0, got nan"),
        (["--out", "tests"], "argument --out: expected a file, got the folder tests"),
        (["--out", "/proc/nowhere/x.json"], "argument --out: /proc/nowhere can not be made"),
    ],
)
def test_bad_arguments_end_in_one_line_before_anything_is_trained(monkeypatch, capsys, argv, message):
    monkeypatch.setattr(sys, "argv", ["t_maze", *argv])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="2"):
        t_maze.main()
    assert message in capsys.readouterr().err.splitlines()[-1]
