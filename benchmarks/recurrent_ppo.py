"""Recurrent PPO: a policy that acts by `step` and learns from what it did by the parallel call.

An update plays the mazes on for some steps, and then learns from them in several epochs (Schulman et al. 2017, arXiv
1707.06347). The model has no memory but its state: while playing it is carried from step to step, and where an episode
is over it starts anew. To learn, the model runs over the same steps at once, from the state that it had before them and
with `reset` at the beginnings of episodes, so that it says of each step what it said then.

Shapes: B mazes, T steps of an update.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

import mru
from mru.training import schedules
from mru.training.optimizer import adamw
from tasks._t_maze_environment import Maze, TMazeEnvironment

ACTIONS = 4
# Other ramps than a cell's own. An agent acts with the leak of its BMRU, so that a leak that falls changes what it does
# while it learns; and as what it needs is one write and then holds, the gradient passes without a leak.
SCHEDULES = {"bmru": {"epsilon": {"start": 0.0, "begin": 0.0, "finish": 0.0}}}


class Settings(NamedTuple):
    """How it is learned.

    Attributes:
        updates: Updates of the whole training.
        mazes: B.
        steps: T.
        epochs: Times that an update goes through its steps.
        parts: Into how many parts, of whole mazes, an epoch divides them, each for one step of the optimiser.
        rate: Learning rate of Adam, which falls linearly to 0.
        discount: Of the reward a step later.
        trace: Lambda of the generalised advantage estimate.
        clip: How far from 1 a ratio of probabilities may go before its gradient is cut.
        entropy: Weight of the entropy of the policy.
        value: Weight of the squared error of the value. It is small, as what lies ahead in a corridor depends on how
            far the agent has come, which nothing shows: the error never ends, and asks memory to count instead of hold.
        norm: Largest global norm of the gradient.
    """

    updates: int = 120
    mazes: int = 32
    steps: int = 128
    epochs: int = 4
    parts: int = 4
    rate: float = 1e-3
    discount: float = 0.98
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.05
    norm: float = 0.5


class Playing(NamedTuple):
    """What is carried from step to step.

    Attributes:
        mazes: Fields (B,).
        state: State of the model, before the resets that are due.
        starts: Where an episode begins, bool (B,).
    """

    mazes: Maze
    state: Any
    starts: Array


class Steps(NamedTuple):
    """Steps that were played, fields (T, B) and observations (T, B, 4); see `Outcome` for the last four."""

    observation: Array
    starts: Array
    action: Array
    log_probability: Array
    value: Array
    reward: Array
    ended: Array
    cut: Array
    success: Array


def agent(cell: str, width: int, seed: int) -> mru.SequenceModel:
    """One block of a cell. The outputs are the logits of the actions and, last, the value."""
    model = mru.SequenceModel(
        4, ACTIONS + 1, cells=[cell], width=width, state_size=width, pooling="none", rngs=nnx.Rngs(seed)
    )
    # At first every action is about as likely as any other (Andrychowicz et al. 2021, arXiv 2006.05990).
    model.head.kernel[...] *= 0.01
    return model


def act(model: mru.SequenceModel, x: Array, state: Any, starts: Array) -> tuple[Array, Array, Any]:
    """One step: log-probabilities of the actions (B, 4), value (B,), and the state.

    Args:
        model: The agent.
        x: Observations (B, 4).
        state: Of the model, after the step before.
        starts: Where an episode begins, so that this state is not used, bool (B,).
    """

    def chosen(new: Array, old: Array) -> Array:
        return jnp.where(starts.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    state = jax.tree.map(chosen, model.initial_state(starts.shape), state)
    outputs, state = model.step(x, state)
    return jax.nn.log_softmax(outputs[..., :ACTIONS]), outputs[..., ACTIONS], state


def play(
    model: mru.SequenceModel, rules: TMazeEnvironment, playing: Playing, key: Array, steps: int
) -> tuple[Playing, Steps, Array]:
    """Play all mazes on for some steps, each action drawn from the policy.

    Returns:
        What is carried on, the steps, and the value (B,) of what is seen after them.
    """

    def one(playing: Playing, key: Array) -> tuple[Playing, Steps]:
        draw, *anew = jax.random.split(key, 1 + len(playing.starts))
        x = jax.vmap(rules.observe)(playing.mazes)
        log_probabilities, value, state = act(model, x, playing.state, playing.starts)
        action = jax.random.categorical(draw, log_probabilities)
        mazes, outcome = jax.vmap(rules.step_or_reset)(jnp.stack(anew), playing.mazes, action)
        played = Steps(x, playing.starts, action, taken(log_probabilities, action), value, *outcome)
        return Playing(mazes, state, outcome.ended), played

    playing, played = jax.lax.scan(one, playing, jax.random.split(key, steps))
    after = act(model, jax.vmap(rules.observe)(playing.mazes), playing.state, playing.starts)[1]
    return playing, played, after


def taken(log_probabilities: Array, action: Array) -> Array:
    """Log-probability (...) of the action that was taken, int (...), of those of all (..., 4)."""
    return jnp.take_along_axis(log_probabilities, action[..., None], -1)[..., 0]


def advantages(played: Steps, after: Array, discount: float, trace: float) -> Array:
    """The generalised advantage estimate (T, B), Schulman et al. 2016, arXiv 1506.02438.

    A_t = d_t + discount trace A_{t+1} with d_t = r_t + discount V_{t+1} - V_t, where what comes after the end of an
    episode counts 0. What would have come after the step that the limit cuts is not known: there A_t = 0, and what the
    step led to is taken to be worth what was expected of it.
    """
    following = jnp.concatenate([played.value[1:], after[None]])
    ahead = jnp.where(played.ended, 0.0, discount)
    surprise = played.reward + ahead * following - played.value

    def back(later: Array, here: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        surprise, ahead, cut = here
        now = jnp.where(cut, 0.0, surprise + ahead * trace * later)
        return now, now

    return jax.lax.scan(back, jnp.zeros_like(after), (surprise, ahead, played.cut), reverse=True)[1]


def look_back(model: mru.SequenceModel, played: Steps, state: Any) -> tuple[Array, Array]:
    """What the model says of steps that were played, in one parallel call.

    Args:
        model: The agent.
        played: The steps.
        state: Of the model, before the first of them.

    Returns:
        Log-probabilities of all actions (B, T, 4) and values (B, T).
    """
    outputs, _ = model(played.observation.swapaxes(0, 1), state, reset=played.starts.T)
    return jax.nn.log_softmax(outputs[..., :ACTIONS]), outputs[..., ACTIONS]


def loss(model: mru.SequenceModel, played: Steps, advantage: Array, state: Any, s: Settings) -> Array:
    """The clipped objective of PPO, the error of the value, and the entropy."""
    log_probabilities, value = look_back(model, played, state)
    ratio = jnp.exp(taken(log_probabilities, played.action.T) - played.log_probability.T)
    returns, advantage = (advantage + played.value).T, advantage.T
    scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    gain = jnp.minimum(ratio * scaled, jnp.clip(ratio, 1 - s.clip, 1 + s.clip) * scaled)
    entropy = -jnp.sum(jnp.exp(log_probabilities) * log_probabilities, -1)
    return jnp.mean(s.value * (value - returns) ** 2 - gain - s.entropy * entropy)


def learn(carry: tuple[Any, Any], mazes: Array, model_of: Callable, transform: Any, given: Any, s: Settings) -> Any:
    """A step of the optimiser on some of the mazes, as a body of `jax.lax.scan`.

    Args:
        carry: Parameters, and the state of the optimiser.
        mazes: Which, int (n,).
        model_of: parameters -> the agent.
        transform: The optimiser.
        given: The steps that were played, their advantages, and the state of the model before them, of all mazes.
        s: The settings.
    """
    params, optimizer = carry
    played, advantage = jax.tree.map(lambda x: x[:, mazes], given[:2])
    state = jax.tree.map(lambda x: x[mazes], given[2])
    gradient = jax.grad(lambda params: loss(model_of(params), played, advantage, state, s))(params)
    updates, optimizer = transform.update(gradient, optimizer, params)
    return (optax.apply_updates(params, updates), optimizer), None


def trainer(cell: str, width: int, rules: TMazeEnvironment, s: Settings) -> tuple[Callable, Callable]:
    """(start, train): both compiled once for all seeds.

    Returns:
        start: seed -> the variables of a new agent, (parameters, the others).
        train: (parameters, others, key) -> the parameters with which most of the episodes of an update were successes,
            the last of them if there are several, once all schedules have arrived; the others; and the episodes and
            successes of each update.
    """
    graphdef, _, abstract = nnx.split(nnx.eval_shape(lambda: agent(cell, width, 0)), nnx.Param, ...)
    ramps = schedules.ramps(abstract, SCHEDULES.get(cell, {}))
    settled = max((ramp.arrival(s.updates) for ramp in ramps.values()), default=0)
    rate = optax.linear_schedule(s.rate, 0.0, s.updates * s.epochs * s.parts)
    transform = adamw(rate, weight_decay=0.0, clip=s.norm)

    def update(carry: Any, number: Array, others: Any, key: Array) -> tuple[Any, tuple[Array, Array]]:
        params, optimizer, playing, best = carry
        key, shuffle = jax.random.split(jax.random.fold_in(key, number))
        others = schedules.set_to(others, ramps, number, s.updates)

        def model_of(params: Any) -> mru.SequenceModel:
            return nnx.merge(graphdef, params, others)

        before = playing.state
        playing, played, after = play(model_of(params), rules, playing, key, s.steps)
        counts = played.ended.sum(), played.success.sum()
        share = jnp.where(number >= settled, counts[1] / jnp.maximum(counts[0], 1), -1.0)
        best = jax.tree.map(lambda new, old: jnp.where(share >= best[0], new, old), (share, params), best)
        given = played, advantages(played, after, s.discount, s.trace), before
        orders = jax.vmap(lambda key: jax.random.permutation(key, s.mazes))(jax.random.split(shuffle, s.epochs))
        step = functools.partial(learn, model_of=model_of, transform=transform, given=given, s=s)
        (params, optimizer), _ = jax.lax.scan(step, (params, optimizer), orders.reshape(s.epochs * s.parts, -1))
        return (params, optimizer, playing, best), counts

    def train(params: Any, others: Any, key: Array) -> tuple[Any, Any, tuple[Array, Array]]:
        begin, key = jax.random.split(key)
        mazes = jax.vmap(rules.reset)(jax.random.split(begin, s.mazes))
        state = nnx.merge(graphdef, params, others).initial_state((s.mazes,))
        playing = Playing(mazes, state, jnp.ones(s.mazes, bool))
        carry = (params, transform.init(params), playing, (jnp.float32(-1), params))
        numbered = functools.partial(update, others=others, key=key)
        (*_, (_, best)), counts = jax.lax.scan(numbered, carry, jnp.arange(s.updates))
        return best, schedules.set_to(others, ramps, jnp.int32(s.updates), s.updates), counts

    return lambda seed: nnx.split(agent(cell, width, seed), nnx.Param, ...)[1:], jax.jit(train)
