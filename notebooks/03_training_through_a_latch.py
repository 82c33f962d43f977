# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---


# %% [markdown]
# # Training through a latch
#
# A latch is a step: write or hold, all or nothing. Training by gradients wants slopes, and a step has none; and it
# wants a path from the loss back to the input that mattered, and every write cuts that path. This notebook shows both
# problems, what is done about them (a surrogate derivative, and a leak that is taken away during training), how to
# see that a latch has failed, and what is different in the play of the PMRU.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from flax import nnx

import mru
from mru.operators import surrogate
from mru.plots import states, style
from mru.training import schedules

matplotlib.rcParams.update(style.SETTINGS | {"figure.dpi": 110})

# %% [markdown]
# ## 1. A slope for a step
#
# A BMRU writes where $|c| \ge \beta$. With the step $H(u)$, which is 1 for $u \ge 0$ and 0 below, this is $z = H(|c|
# - \beta)$. The derivative of $H$ is 0 everywhere but at $u = 0$: the chain rule through it gives 0, and nothing is
# learned about when to write.
#
# The remedy is to lie in the backward pass. Forward, $H$ stays exact. Backward we take the slope of a smooth step of
# width $1/w$ in its place, its **surrogate**:
#
# $$s(u) = \frac12 + \frac1\pi\arctan(\pi w u), \qquad s'(u) = \frac{w}{1 + (\pi w u)^2}.$$
#
# In JAX this takes one line: add $s$, and subtract it again with its gradient stopped. The value is that of $H$, and
# the derivative that of $s$.


# %%
def step(u, w=1.0):
    """H(u), with the derivative of the smooth step."""
    smooth = 0.5 + jnp.arctan(jnp.pi * w * u) / jnp.pi
    hard = (u >= 0).astype(u.dtype)
    return hard + smooth - jax.lax.stop_gradient(smooth)


u = jnp.linspace(-3, 3, 601)
by_hand, of_library = (jax.vmap(jax.value_and_grad(f))(u) for f in (step, surrogate.step))
np.testing.assert_allclose(by_hand[0], of_library[0], atol=1e-6)
np.testing.assert_allclose(by_hand[1], of_library[1], rtol=1e-5)

# %%
figure, (left, right) = style.panels(style.PAGE, 2.4, columns=2)
left.plot(u, of_library[0], color=style.BLACK, label="forward: H(u)")
left.plot(u, 0.5 + np.arctan(np.pi * u) / np.pi, "--", color=style.GREY, label="backward: s(u), w = 1")
left.set(xlabel="u", ylabel="step")
left.legend(loc="lower right")
for number, w in enumerate((0.5, 1.0, 2.0)):
    right.plot(u, surrogate.slope(u, w), label=f"w = {w:g}", **style.line(number, len(u)))
right.set(xlabel="u", ylabel="surrogate derivative")
right.legend()
figure

# %% [markdown]
# The surrogate has long tails: at $u = -20$ its slope is still $0.00025$. So a channel that is far from its threshold
# feels a little of the loss, and can come back. But a surrogate is not a derivative. Here a BMRU and a PMRU read 30
# random numbers, and we turn one screw of each: the threshold of one, the radius of the other. What comes out of the
# BMRU is a staircase, and its true slope is 0. The PMRU is continuous, and its slope is what autodiff says, almost
# everywhere.

# %%
x = np.random.default_rng(4).normal(size=(30, 1)).astype(np.float32)


def relay_end(beta):
    """Mean state of a relay with this threshold."""
    return mru.scan(mru.Relay(x, jnp.broadcast_to(beta, x.shape)), jnp.zeros(1)).mean()


def play_end(r):
    """Mean state of a play with this radius."""
    return mru.scan(mru.Clamp(x - r, x + r), jnp.zeros(1)).mean()


screw = jnp.linspace(0.1, 2.0, 400)
relay_value, relay_slope = jax.vmap(jax.value_and_grad(relay_end))(screw)
play_value, play_slope = jax.vmap(jax.value_and_grad(play_end))(screw)

# %%
figure, axes = style.panels(style.PAGE, 3.4, rows=2, columns=2, sharex=True)
for column, (name, value, slope) in enumerate(
    (("BMRU, threshold", relay_value, relay_slope), ("PMRU, radius", play_value, play_slope))
):
    axes[column].plot(screw, value, color=style.BLACK)
    axes[column].set(title=f"{name}: mean state", ylabel="value")
    axes[column + 2].plot(screw, slope, color=style.VERMILLION, label="autodiff")
    true = np.diff(value) / np.diff(screw)
    true = np.where(np.abs(np.diff(value)) < 0.02, true, np.nan)  # a jump has no slope
    axes[column + 2].plot(screw[1:], true, "--", color=style.BLUE, label="true slope, between jumps")
    axes[column + 2].set(xlabel=name.split(", ")[1], ylabel="slope")
axes[2].legend()
figure

# %%
differences = np.diff(play_value) / np.diff(screw)
agree = np.isclose(differences, play_slope[1:], atol=2e-3) | np.isclose(differences, play_slope[:-1], atol=2e-3)
assert agree.mean() > 0.9  # elsewhere a kink lies between the two points
assert np.abs(np.diff(play_value)).max() < 0.01  # no jumps
flat = np.diff(relay_value) == 0
assert flat.mean() > 0.9  # the relay: flat, but for a few jumps
assert (np.abs(relay_slope) > 0).all()  # which the surrogate does not say

# %% [markdown]
# ## 2. Every write cuts the gradient
#
# Now the second problem. One step of a latch is $h_t = z_t v_t + (1 - z_t)\,h_{t-1}$, so
#
# $$\frac{\partial h_t}{\partial h_{t-1}} = 1 - z_t = \begin{cases}1 & \text{hold}\\0 & \text{write.}\end{cases}$$
#
# Over many steps these factors are multiplied. While the latch holds the gradient passes unchanged, for a million
# steps if it need be: it neither vanishes nor explodes. But a single write makes it exactly 0. This is as it should
# be: what was overwritten is gone, and has no influence. But at the beginning of training a latch writes all the
# time, so **no loss ever tells it that something long ago was worth holding**.
#
# The remedy is a **leak** $\varepsilon$ through the write, as if the write left a part of the old state:
#
# $$h_t = z_t\,(v_t + \varepsilon\,h_{t-1}) + (1 - z_t)\,h_{t-1}, \qquad
# \frac{\partial h_T}{\partial h_{T-k}} = \varepsilon^{\,\text{number of writes in between}}.$$
#
# At $\varepsilon = 1$ the gradient passes everything; but the unit is then no latch any more, it adds up what it
# writes. So training begins with $\varepsilon = 1$, takes it down to 0, and goes on with an exact latch.

# %%
T = 100
c = np.random.default_rng(5).normal(size=(T, 1)).astype(np.float32)
write = np.abs(c[:, 0]) >= 1.8


def end(h, k, epsilon):
    """The last state of a leaking relay, given the state k steps before the end."""
    relay = mru.Relay(c[T - k :], jnp.full((k, 1), 1.8), jnp.float32(epsilon))
    return mru.scan(relay, h)[-1, 0]


gradient = {}
for epsilon in (1.0, 0.9, 0.5, 0.0):
    by_jax = np.array([jax.grad(end)(jnp.zeros(1), k, epsilon)[0] for k in (1, 10, 20, 50, 100)])
    writes = np.cumsum(write[::-1])  # among the last k steps
    gradient[epsilon] = epsilon ** writes.astype(float)
    np.testing.assert_allclose(by_jax, gradient[epsilon][[0, 9, 19, 49, 99]], rtol=1e-5)
print(f"{write.sum()} writes in {T} steps")

# %%
figure, (axis,) = style.panels(4.6, 2.6)
for number, (epsilon, values) in enumerate(gradient.items()):
    axis.step(np.arange(1, T + 1), values, where="post", label=rf"$\epsilon$ = {epsilon:g}", **style.line(number, T))
axis.set(xlabel="lag k (steps)", ylabel=r"gradient $\partial h_T / \partial h_{T-k}$", ylim=(-0.05, 1.08))
axis.set_title("Each drop is a write")
style.legend_below(figure, axis)
figure

# %% [markdown]
# ## 3. Gradient against lag, for every cell
#
# How much does the last state depend on the input $k$ steps before, as training sees it? `mru.dynamics.sensitivity`
# finds the norm of this gradient for all lags by one backward pass. Here for every cell of the library as it is
# initialised, with noise as the input, the hardest case for a latch. For BMRU also with the leak that training begins
# with.

# %%
noise = jax.random.normal(jax.random.key(0), (16, 200, 8))
names = ["bmru", "cmru", "alpha_cmru", "fq_bmru", "pmru", "lru", "s5", "mingru"]
cells = {name: mru.cells.get(name)(features=8, state_size=32, rngs=nnx.Rngs(0)) for name in names}
cells["bmru, leak 1"] = mru.cells.BMRU(8, 32, rngs=nnx.Rngs(0))
cells["bmru, leak 1"].epsilon[...] = jnp.float32(1)
seen = {name: np.asarray(mru.dynamics.sensitivity(cell, noise)) for name, cell in cells.items()}

# %%
order = sorted(seen, key=lambda name: -seen[name][50])
states.sensitivity({name: np.where(seen[name] > 1e-8, seen[name], 0) for name in order}, title="All lags")

# %% [markdown]
# (What is below $10^{-8}$ is drawn as 0.) Those that end are hard to see there. Their first 30 lags:

# %%
cut = [name for name in order if (seen[name] == 0).any()]
states.sensitivity({name: seen[name][:30] for name in cut}, title="The first 30 lags of those that end")

# %% [markdown]
# There are three kinds.
#
# - **Counters**, CMRU and the BMRU with its leak at 1: flat. What was once written stays in the sum for ever, and so
#   does its gradient. Nothing is forgotten, also not what should be.
# - **Linear models**, LRU and S5: an exponential, slower the longer their time constants. minGRU, which starts with
#   time constants of two steps, is gone first.
# - **Latches and plays**, BMRU, FQ-BMRU *and* PMRU: exactly 0 beyond the last overwrite. In noise, untrained, they
#   look back 25 steps at most.
#
# So the clamp of a PMRU blocks gradients as well. Let us be clear about this, as it is easily said that a play "has
# gradients". It has no schedule for another reason: its derivative is true (section 1). When a clamp overwrites the
# state, the gradient goes to the bound, $c \pm r$, and says exactly what a slightly wider band would have changed.
# Training can widen the band a little, hold a little longer, and see the loss fall a little. A relay has no little.

# %%
assert seen["cmru"].min() > 0.5 * seen["cmru"].max()
assert seen["bmru, leak 1"].min() > 0.5 * seen["bmru, leak 1"].max()
for name in ("bmru", "fq_bmru", "pmru"):
    assert (seen[name][30:] == 0).all()
assert (seen["lru"] > 0).all()
assert (seen["s5"] > 0).all()

# %% [markdown]
# ## 4. With the leak and without
#
# The task is copy-first: read 500 random numbers, and say the first one at the end. A constant answer has an error of
# 1, the variance of the numbers. Two layers of 16 units, 300 steps of training, three seeds: small and short, so the
# errors stay far from what longer training reaches (see `results/copy_first`).
#
# A cell declares the leak as a scheduled scalar. `schedules.ramps` finds it in a model, and `schedules.set_to` gives
# it the value that is due at a step: 1 until a tenth of the training, then down to 0 at half of it.

# %%
LENGTH, STEPS, BATCH, SEEDS = 500, 300, 16, (0, 1, 2)
tx = mru.adamw(optax.warmup_cosine_decay_schedule(5e-5, 5e-3, 15, STEPS, 5e-5), weight_decay=0.0)


def numbers(key, count):
    """Sequences (count, LENGTH, 1); the target is the first number."""
    return jax.random.normal(key, (count, LENGTH, 1))


def error(model, x):
    """Mean squared error."""
    y, _ = model(x)
    return jnp.mean((y[:, 0] - x[:, 0, 0]) ** 2)


def models(cell):
    """One for each of SEEDS."""
    common = {"cells": [cell, cell], "width": 16, "state_size": 16, "pooling": "last"}
    return [mru.SequenceModel(1, 1, **common, rngs=nnx.Rngs(seed)) for seed in SEEDS]


# %% [markdown]
# A training step is the usual one, and all steps are one `lax.scan`.


# %%
def all_steps(graph, params, rest, ramps, key):
    """The parameters after the last step, and the loss before each."""

    def one(carry, i):
        params, moments = carry
        x = numbers(jax.random.fold_in(key, i), BATCH)
        now = schedules.set_to(rest, ramps, i, STEPS)
        loss, gradient = jax.value_and_grad(lambda params: error(nnx.merge(graph, params, now), x))(params)
        updates, moments = tx.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), loss

    (params, _), losses = jax.lax.scan(one, (params, tx.init(params)), jnp.arange(STEPS))
    return params, losses


def trained(cell, leak):
    """Pairs of a model and its losses, one for each seed."""
    graphs, params, rests = zip(*(nnx.split(model, nnx.Param, ...) for model in models(cell)))
    ramps = schedules.ramps(rests[0], {"epsilon": {"begin": 0.1, "finish": 0.5}}) if leak else {}
    run = jax.jit(lambda params, key: all_steps(graphs[0], params, rests[0], ramps, key))
    ends = [run(start, jax.random.key(seed)) for start, seed in zip(params, SEEDS)]
    return [(nnx.merge(graphs[0], params, rests[0]), np.asarray(losses)) for params, losses in ends]


# %%
KINDS = {"BMRU with leak": ("bmru", True), "BMRU without": ("bmru", False), "PMRU": ("pmru", False)}
runs = {label: trained(cell, leak) for label, (cell, leak) in KINDS.items()}

# %%
test = numbers(jax.random.key(1000), 256)
final = {label: [float(error(model, test)) for model, _ in found] for label, found in runs.items()}
for label, values in final.items():
    print(f"{label:15} test error {', '.join(f'{value:.2f}' for value in values)}")
assert np.mean(final["BMRU without"]) > 2 * np.mean(final["BMRU with leak"])
assert min(final["BMRU without"]) > 0.8  # chance, in every seed
assert min(final["PMRU"]) < 0.5

# %%
figure, (axis,) = style.panels(5.0, 3.0)
for number, (label, found) in enumerate(runs.items()):
    smooth = np.array([np.convolve(losses, np.ones(20) / 20, "valid") for _, losses in found])
    look = style.line(number, smooth.shape[1])
    axis.plot(np.arange(20, STEPS + 1), smooth.mean(0), label=f"{label}: mean, min to max of 3 seeds", **look)
    axis.fill_between(
        np.arange(20, STEPS + 1), smooth.min(0), smooth.max(0), color=look["color"], alpha=0.2, linewidth=0
    )
axis.axhline(1, color=style.GREY, linestyle=":", linewidth=1)
axis.axvspan(0.1 * STEPS, 0.5 * STEPS, color=style.GREY, alpha=0.1, linewidth=0)
axis.set(
    xlabel="step", ylabel="loss, mean of 20 steps", title="Copy-first, T = 500 (shaded: the leak goes from 1 to 0)"
)
style.legend_below(figure, axis)
figure

# %% [markdown]
# Without the leak the BMRU stays near chance in all three seeds. With it the loss falls while the leak is large, when
# the model is still a counter, and most of what was learned survives as the leak goes: in one seed the loss jumps up
# once more when it is gone. The PMRU learns without any schedule, later, and then at least as well.
#
# That is a result for this length and this many steps, not a law. In shorter sequences, or with more steps, a BMRU
# often learns without the leak too, only later and less well: at $T = 200$ and 1,600 steps it does. And in sequences
# of $T = 1000$, with 300 steps, a PMRU failed in one of three seeds, as its clamps block gradients as well. The
# gradient must meet, by luck, some unit that holds for long enough, and the longer the sequence the less luck there
# is. So near the edge it is seed, and even rounding, that decides: never judge such a method by one run.
#
# ## 5. Blocked and dead latches, and how to see them
#
# What became of the latch that did not learn? `mru.dynamics.diagnose_layers` looks at when the units of each layer
# write, and says in one sentence whether some **hold**, or all are **blocked** (overwritten too soon) or **dead**
# (they never write).

# %%
verdicts = {}
for label, found in runs.items():
    verdicts[label] = []
    for model, _ in found:
        looked = mru.dynamics.diagnose_layers(model, test)
        verdicts[label].append(list(looked.values())[1].verdict)
    print(f"{label}, the last seed")
    for name, diagnosis in looked.items():
        print(f"    {name}: {diagnosis.sentence}")
print(verdicts)
assert verdicts["BMRU with leak"] == ["holds"] * 3
assert verdicts["BMRU without"].count("blocked") >= 2

# %% [markdown]
# A "blocked" first layer is no failure: its units are the gates of the second, which hold. That *no* layer holds is.
#
# How does a model that learned do it? We look at when the units of its second layer write: how often in the first
# five steps of a sequence, and how often later. In the raster, of the first 60 steps of one sequence, each row is a
# unit and each dark dot a write.

# %%
model = runs["BMRU with leak"][0][0]
cell, given = mru.dynamics.layer(model, "1/0/BMRU", test)
write = np.asarray(mru.dynamics.writes(cell, given))  # (sequences, time, units)
early, late = write[:, :5].any(1).mean(0), write[:, 5:].any(1).mean(0)
print("unit, sequences in which it writes in steps 1 to 5, and after them")
for unit in np.argsort(late, kind="stable"):
    print(f"{unit:4} {early[unit]:6.0%} {late[unit]:6.0%}")
memory = (early > 0.1) & (late < 0.1)
assert memory.any()

# %%
example = np.argmax(write[:, :5][..., memory].any(1).sum(-1))  # where the most of these write
states.write_raster(write[example, :60], inputs=test[example, :60], title="Second layer of a BMRU that learned")

# %% [markdown]
# Some units write at the beginning of some sequences, depending on what the first number is, and hardly ever again:
# they hold it, as a code of bits. Others write all the time.
#
# The other failure is a **dead** latch, the commonest of all: its threshold is so high that nothing reaches it. It
# says the same whatever it reads. Let us make one of each kind, and look at what training could do about it.

# %%
dead = {"BMRU": mru.cells.BMRU(8, 32, rngs=nnx.Rngs(0)), "PMRU": mru.cells.PMRU(8, 32, rngs=nnx.Rngs(0))}
dead["BMRU"].threshold.bias[...] = jnp.full(32, 20.0)
dead["PMRU"].radius.bias[...] = jnp.full(32, 20.0)
alive = {"BMRU": mru.cells.BMRU(8, 32, rngs=nnx.Rngs(0)), "PMRU": mru.cells.PMRU(8, 32, rngs=nnx.Rngs(0))}


def pull(cell):
    """Norm of the gradient of the mean squared output by the weights of the candidate, or of the centre."""
    gradient = nnx.grad(lambda cell: jnp.mean(cell(noise)[0] ** 2))(cell)
    return float(jnp.linalg.norm((gradient.candidate if "candidate" in gradient else gradient.centre).kernel[...]))


for name, cell in dead.items():
    statistics = mru.dynamics.write_statistics(cell, noise)
    assert np.asarray(statistics.dead).all()
    assert mru.dynamics.diagnose(cell, noise).verdict == "dead"
    print(f"{name}: {mru.dynamics.diagnose(cell, noise).sentence}")
    print(f"    gradient of the weights: {pull(cell):.1e}, of a cell that is alive {pull(alive[name]):.1e}")
assert 0.02 < pull(dead["BMRU"]) / pull(alive["BMRU"]) < 0.2
assert pull(dead["PMRU"]) == 0

# %% [markdown]
# Here the lie of the surrogate is of use. The dead BMRU still feels a little, from the long tail of the surrogate,
# and may come back. The dead PMRU has a true derivative, and the truth is 0: as its radius can not matter, nothing
# pulls on it, and it never comes back. A true gradient is worth much, but not everything.
#
# Runs of `train.py` write the rate of writes, the fraction of dead units and the mean hold time of every latch layer
# to the log at each evaluation, so that both failures are seen while they happen.

# %% [markdown]
# ## Questions to try
#
# 1. Set the width $w$ of the surrogate to 0.2 and to 5 (`cell.width[...] = jnp.float32(5)`). How does the gradient of
#    the dead BMRU change? Which would you start training with?
# 2. Let the leak end later: `"finish": 0.9`. Is the final error better or worse? Why is a model selected only once
#    the leak is 0?
# 3. Train with `LENGTH = 100`. Who needs the leak now?
# 4. Start the BMRU with larger thresholds, so that it writes rarely. Do you still need the leak? What do you risk?
# 5. Find the sensitivity of a *trained* model: `mru.dynamics.sensitivity(model, test, error_of_each)` with a function
#    from outputs (B, 1) to errors (B,). At which lag does it have its peak?
# 6. A counter (CMRU) never blocks a gradient. Train it on copy-first. What is the price of never forgetting?
