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
# # Hybrids: who integrates, who holds
#
# A fading memory adds up what it hears and loses it with time. A persistent memory keeps what it has, but a latch that
# jumps between two states adds up badly. This notebook gives them a task that needs both, builds a hybrid by hand,
# trains one, and then takes it apart to see which half does what.

# %%
# %matplotlib inline
import dataclasses
import math

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from flax import nnx

import mru
from mru.plots import states, style
from mru.training import schedules
from tasks.evidence import Evidence

matplotlib.rcParams.update(style.SETTINGS | {"figure.dpi": 110})

# %% [markdown]
# ## 1. The task
#
# A noisy signal. For the first $C = 30$ steps it is $x_t = \pm m + \text{noise}$ with $m = 0.4$ and noise of standard
# deviation $s = 1$, then for 100 steps it is noise alone. At the last step a flag asks: was it $+m$ or $-m$? One sample
# says little, so the cue must be **integrated**; then the decision must be **held**, while noise goes on.
#
# The best anyone can do is the sign of the sum over the cue. The sum has mean $\pm m C$ and standard deviation
# $s\sqrt C$, so this is wrong with probability
#
# $$\Phi\!\left(-\frac{m\,C}{s\sqrt C}\right) = \Phi\!\left(-\frac{m}{s}\sqrt C\right),
# \qquad \Phi(-z) = \tfrac12 \operatorname{erfc}(z/\sqrt2).$$

# %%
task = Evidence(cue=30, delay=100, mean=0.4, noise=1.0)
DELAYS = (100, 1000)  # as trained, and ten times as long


def fresh(delay, number=1000):
    """Inputs (number, T, 2), signal and flag, and classes (number,), never used in training."""
    batch = dataclasses.replace(task, delay=delay).examples("test", np.arange(number))
    return batch["inputs"], batch["targets"]


best = 0.5 * math.erfc(task.mean * math.sqrt(task.cue) / task.noise / math.sqrt(2))
x, target = fresh(100)
by_sum = ((x[:, : task.cue, 0].sum(1) > 0) != target).mean()
print(f"the best possible error is {best:.4f}; the sign of the sum is wrong in {by_sum:.4f} of 1,000 examples")
assert abs(by_sum - best) < 4 * math.sqrt(best / 1000)  # four standard deviations of such a count

# %% [markdown]
# ## 2. A hybrid by hand
#
# Two affine channels and a latch will do.
#
# - An **integrator** that leaks: $s_t = a\,s_{t-1} + x_t$.
# - A **clock**: $k_t = a\,k_{t-1}$ with $k_0 = 1$. It fades in a known way, so it tells how long ago the sequence
#   began.
# - A **latch** that copies the sign of the integrator while the clock is above a threshold, and holds from then on.
#
# The latch must know when to stop listening, and the clock says when. So a fading memory is good for two things here.


# %%
def by_hand(signal, a=0.98):
    """Integrator, clock and latch over signals (..., T); states (..., T) of each."""
    signal = jnp.asarray(signal)[..., None]  # one channel
    leak = jnp.full_like(signal, a)
    integrator = mru.scan(mru.Affine(leak, signal))
    clock = mru.scan(mru.Affine(leak, jnp.zeros_like(signal)), jnp.ones((*signal.shape[:-2], 1)))
    listens = (clock > a ** (task.cue + 0.5)).astype(jnp.float32)
    latch = mru.scan(mru.Latch(listens, jnp.sign(integrator)))
    return integrator[..., 0], clock[..., 0], latch[..., 0]


def loop(signal, a=0.98):
    """The last states, of one signal, as one would say it in words."""
    s, k, h = 0.0, 1.0, 0.0
    for x in signal.astype(float):
        s, k = a * s + x, a * k
        if k > a ** (task.cue + 0.5):
            h = np.sign(s)
    return s, k, h


for example in x[:5, :, 0]:
    np.testing.assert_allclose([h[-1] for h in by_hand(example)], loop(example), rtol=1e-4, atol=1e-6)

# %%
for delay in DELAYS:
    x, target = fresh(delay)
    integrator, _, latch = by_hand(x[..., 0])
    wrong = {name: ((h[:, -1] > 0) != target).mean() for name, h in (("integrator", integrator), ("latch", latch))}
    print(
        f"delay {delay:5}: error of the integrator alone {wrong['integrator']:.3f}, of the latch {wrong['latch']:.3f}"
    )
    assert wrong["latch"] < 0.04
    assert wrong["integrator"] > 0.2

# %% [markdown]
# The integrator alone has forgotten most of it after 100 steps, under the noise that came since. Behind it, the latch
# does not care how long it has to wait.
#
# ## 3. Train three stacks
#
# Now let networks find it: a hybrid with S5, a state-space model, below BMRU, and for comparison two layers of S5 and
# two of BMRU. All have 16 channels a layer. The S5 of the hybrid starts with steps that give it time constants of 10 to
# 40 steps, enough for the cue and too short for the delay; the pure stack has the usual start, with up to 2,000.
#
# BMRU is trained with a leak $\varepsilon$ that lets gradients pass through its writes. It falls from 1 to 0 between a
# tenth and half of the training, so that the model that we look at afterwards is an exact latch.


# %%
def make(cells, **options):
    """A small model."""
    sizes = {"width": 16, "state_size": 16, "pooling": "last"}
    return mru.SequenceModel(2, 2, cells=cells, **sizes, options=options, rngs=nnx.Rngs(0))


# %%
def train(model, steps=1200, batch=32, rate=5e-3):
    """Train in place; the loss of each step, and the leak at the end of training (0 where there is none)."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    leaks = any(hasattr(cell, "epsilon") for cell in mru.dynamics.layers(model).values())
    ramps = schedules.ramps(rest, {"epsilon": {"begin": 0.1, "finish": 0.5}} if leaks else {})
    adam = mru.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=0.1, state_lr_factor=0.3)

    @jax.jit
    def step(params, state, data, number):
        now = schedules.set_to(rest, ramps, number, steps)

        def loss(params):
            logits, _ = nnx.merge(graphdef, params, now)(data["inputs"])
            return task.loss(logits, data).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = adam.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = adam.init(params), []
    for number in range(steps):
        data = task.examples("train", np.arange(number * batch, (number + 1) * batch))
        params, state, value = step(params, state, data, number)
        losses.append(float(value))
    nnx.update(model, params)
    return np.array(losses), max((float(ramp(steps, steps)) for ramp in ramps.values()), default=0.0)


# %%
models = {
    "S5, BMRU": make("s5,bmru", s5={"step_min": 0.05, "step_max": 0.2}),
    "S5, S5": make("s5,s5"),
    "BMRU, BMRU": make("bmru,bmru"),
}
losses = {}
for name, model in models.items():
    losses[name], leak = train(model)
    assert leak == 0

# %%
run = jax.jit(lambda graphdef, variables, x: nnx.merge(graphdef, variables)(x)[0], static_argnums=0)


def error(model, delay):
    """Fraction of wrong decisions on fresh examples."""
    x, target = fresh(delay)
    return float((run(*nnx.split(model), x).argmax(-1) != target).mean())


errors = {name: [error(model, delay) for delay in DELAYS] for name, model in models.items()}
for name, (trained, longer) in errors.items():
    print(f"{name:11} error {trained:.3f} at a delay of 100, {longer:.3f} at 1,000")

# %% [markdown]
# The hybrid is wrong in less than 10 % of the examples at both delays. Two layers of S5 are even better at the delay of
# training, since they can integrate as well as anyone can, but at ten times the delay they guess. Two layers of BMRU
# hold what they have, equally well at both delays, but it is wrong more often: adding up thirty samples with
# switches of two states is hard. (The figure shows it in an odd way: as long as it leaks, at the beginning, its loss is
# low. With $\varepsilon = 1$ the state is a sum of writes, $h_t = h_{t-1} + \operatorname{sgn}(c_t)$, which integrates.
# As the leak goes, between steps 120 and 600, so does this ability.)

# %%
assert max(errors["S5, BMRU"]) < 0.1
assert errors["S5, S5"][0] < 0.04
assert errors["S5, S5"][1] > 0.3
assert min(errors["BMRU, BMRU"]) > max(errors["S5, BMRU"]) + 0.03
assert abs(errors["BMRU, BMRU"][0] - errors["BMRU, BMRU"][1]) < 0.06
assert losses["BMRU, BMRU"][90:120].mean() < losses["BMRU, BMRU"][-100:].mean() - 0.1

# %%
figure, (left, right) = style.panels(style.PAGE, 2.5, columns=2, gridspec_kw={"width_ratios": (3, 2)})
for number, name in enumerate(models):
    smooth = np.convolve(losses[name], np.ones(50) / 50, "valid")
    left.plot(np.arange(len(smooth)) + 50, smooth, label=name, **style.line(number, points=len(smooth)))
    right.plot(DELAYS, errors[name], **style.line(number, points=2))
for axis, level in ((left, math.log(2)), (right, 0.5)):
    axis.axhline(level, color=style.GREY, linestyle=":", linewidth=1, label="chance")
left.plot([], [], color=style.BLACK, linewidth=0.8, label="best possible error")
right.axhline(best, color=style.BLACK, linewidth=0.8)
left.set(xlabel="training step", ylabel="loss, mean of 50 steps", title="training at a delay of 100", ylim=(0, 1))
right.set(xlabel="delay", ylabel="error", title="fresh examples", ylim=(0, 0.56))
style.logarithmic(right, "x")
style.legend_below(figure, left)
figure

# %% [markdown]
# ## 4. Look inside
#
# `capture` gives what happens in every layer while a model reads: here its states and writes for one example, at a
# delay of 200 so that there is some waiting to see.

# %%
hybrid = models["S5, BMRU"]
x, target = fresh(200)
found = {}
hybrid(x[0], capture=found)
print(", ".join(found))

# %%
states.state_raster(
    found["0/0/S5/state"], inputs=x[0, :, :1], title="S5: modulus of the states; the cue is steps 0 to 30"
)

# %%
states.state_raster(found["1/0/BMRU/state"], inputs=x[0, :, :1], title="BMRU: states of the same example")

# %%
states.write_raster(found["1/0/BMRU/write"], inputs=x[0, :, :1], title="BMRU: writes of the same example")

# %% [markdown]
# The states of S5 come and go with the noise, from the first step to the last. Many units of BMRU do too: they write
# again and again. But some write at the beginning only, and then hold to the end. `write_statistics` finds them, over
# many examples: they have a low rate. Do they know the answer? That is, does the sign of their state at the end say the
# class (or its opposite, the readout does not mind which)?

# %%
cell, given = mru.dynamics.layer(hybrid, "1/0/BMRU", x)
rate = np.asarray(mru.dynamics.write_statistics(cell, given).rate)
captured = {}
cell(given, capture=captured)
knows = np.abs(((captured["state"][:, -2] > 0) == target[:, None]).mean(0) - 0.5) + 0.5
for unit in np.argsort(rate):
    print(f"unit {unit:2}: writes at {rate[unit]:6.1%} of the steps, its sign says the class in {knows[unit]:.1%}")
print(mru.dynamics.diagnose(cell, given).sentence)

# %% [markdown]
# The three units that know it best are right in more than 85 % of the examples, and all of them are quiet: they write
# at less than a quarter of the steps. A low rate is not enough, as some other quiet units know nothing. But it is
# needed: no unit that writes at more than 30 % of the steps knows the answer.

# %%
knowing = np.argsort(-knows)[:3]
assert knows[knowing].min() > 0.85
assert rate[knowing].max() < 0.25
assert knows[rate > 0.3].max() < 0.65

# %% [markdown]
# How do these units know when to stop listening? By hand we gave the latch a clock. Look for one: take the slowest
# channel of S5, and the mean of its state over many examples. What depends on the signal averages out, as the two
# classes are equally frequent. What is left is the same in each example, and depends on the time alone.

# %%
s5, s5_given = mru.dynamics.layer(hybrid, "0/0/S5", x)
slow = int(np.argmax(mru.dynamics.time_constants(s5)))
s5_captured = {}
s5(s5_given, capture=s5_captured)
clock = np.asarray(s5_captured["state"][..., slow])
middle, spread = np.abs(clock.mean(0)), clock.std(0)
threshold = np.abs(np.asarray(captured["threshold"]))[..., knowing].mean((0, 2))
candidate = np.abs(np.asarray(captured["candidate"]))[..., knowing].mean((0, 2))
writes = np.asarray(captured["write"])[..., knowing].mean((0, 2))

# %%
figure, axes = style.panels(style.PAGE, 2.4, columns=3, sharex=True)
t = np.arange(len(middle) - 1)  # without the step of the query
panels = (
    {"mean": middle, "standard deviation": spread},
    {"threshold": threshold, "|candidate|": candidate},
    {"": writes},
)
for axis, curves in zip(axes, panels):
    for number, (name, curve) in enumerate(curves.items()):
        axis.plot(t, curve[:-1], label=name, **style.line(number, points=len(t)))
    axis.axvspan(0, task.cue, color=style.SKY, alpha=0.25, linewidth=0)
    axis.set(xlabel="step t (blue: the cue)", ylim=(0, None))
    if len(curves) > 1:
        axis.legend()
axes[0].set_title(f"S5, channel {slow}: over examples")
axes[1].set_title("BMRU, the three that know: mean")
axes[2].set_title("their rate of writes")
figure

# %% [markdown]
# It has found the clock too. The slowest channel of S5 fills up like a capacitor, in every example in much the same
# way, from the first step on. As it does, the thresholds of the three units go up, until the candidates no longer reach
# them. The units listen most around the end of the cue, and 70 steps later they have stopped.

# %%
print(f"the clock at the end: mean {middle[-2]:.1f}, standard deviation {spread[-2]:.1f}")
print(
    f"rate of writes {writes[20:40].mean():.2f} around the end of the cue, {writes[100:-1].mean():.4f} after step 100"
)
assert middle[-2] > 3 * spread[-2]
assert middle[10] < middle[-2] / 2
assert threshold[100:-1].mean() > 1.4 * threshold[20:40].mean()
assert writes[20:40].mean() > 0.15
assert writes[100:-1].mean() < 0.02

# %% [markdown]
# What does each layer as a whole know, at each time? We ask with a **linear probe**: fit the class by least squares
# from the states of a layer at time $t$, on half of the examples, and count how often the fit is right on the other
# half. With $Z$ the states with a 1 appended and $y = \pm1$, the weights are
# $w = (Z^\top Z + \lambda I)^{-1} Z^\top y$.


# %%
def probe(h, target):
    """Accuracy (T,) of a linear probe of the class, on the second half of the examples; h (examples, T, N)."""
    h = np.concatenate([h.real, h.imag] if np.iscomplexobj(h) else [h], -1)
    z = np.concatenate([h, np.ones_like(h[..., :1])], -1).swapaxes(0, 1).astype(np.float64)  # (T, examples, N + 1)
    half, y = len(target) // 2, 2.0 * target - 1
    fit, rest = z[:, :half], z[:, half:]
    gram = fit.swapaxes(1, 2) @ fit + 1e-3 * half * np.eye(z.shape[-1])
    w = np.linalg.solve(gram, fit.swapaxes(1, 2) @ y[:half, None])
    return ((rest @ w)[..., 0] * y[half:] > 0).mean(1)


TIMES = np.unique(np.geomspace(1, 1030, 80).astype(int)) - 1
inside = ("0/0/S5/state", "1/0/BMRU/state")


@jax.jit
def look(variables, x):
    """The states of both layers at some times."""
    found = {}
    nnx.merge(nnx.graphdef(hybrid), variables)(x, capture=found)
    return [found[name][:, TIMES] for name in inside]


x, target = fresh(1000)
known = {name: probe(np.asarray(h), target) for name, h in zip(inside, look(nnx.state(hybrid), x))}

# %%
figure, (axis,) = style.panels(1.5 * style.COLUMN, 2.9)
for number, (name, accuracy) in enumerate(known.items()):
    axis.plot(TIMES + 1, accuracy, label=f"from the states of {name.split('/')[2]}", **style.line(number, points=80))
axis.axvspan(1, task.cue, color=style.SKY, alpha=0.25, linewidth=0, label="cue")
axis.axhline(1 - best, color=style.BLACK, linewidth=0.8, label="best possible after the cue")
axis.axhline(0.5, color=style.GREY, linestyle=":", linewidth=1, label="chance")
axis.set(xlabel="step t", ylabel="accuracy of a linear probe", title="Who knows the answer, and when", ylim=(0.4, 1.02))
style.logarithmic(axis, "x")
style.legend_below(figure, axis)
figure

# %% [markdown]
# There it is. While the cue lasts, S5 knows more and more, and BMRU follows. Then S5 forgets, and at the end it knows
# nothing. BMRU stays where it is. **S5 integrates, BMRU holds.**

# %%
fades, stays = (known[name] for name in inside)
peak = np.searchsorted(TIMES, task.cue)
print(f"end of the cue: S5 {fades[peak]:.3f}, BMRU {stays[peak]:.3f}")
print(f"end of the delay: S5 {fades[-2]:.3f}, BMRU {stays[-2]:.3f}")
assert fades[peak] > 0.9
assert fades[-2] < 0.6
assert stays[-2] > 0.9

# %% [markdown]
# ## 5. Take one half away
#
# Knowing is not yet using. So we break the trained hybrid in three ways, and measure the error again:
#
# - without S5: the block's cell contributes nothing (its output matrices are zero);
# - without BMRU: the same for the other cell;
# - BMRU frozen: its thresholds are so high that it never writes, and keeps its initial state.


# %%
def broken(how):
    """A copy of the hybrid with one half out of work."""
    model = nnx.clone(hybrid)
    s5, bmru = mru.dynamics.layers(model).values()
    silenced = {"without S5": [s5.c, s5.d], "without BMRU": [bmru.out.kernel, bmru.out.bias], "BMRU frozen": []}
    for parameter in silenced[how]:
        parameter[...] = jnp.zeros_like(parameter[...])
    if how == "BMRU frozen":
        bmru.threshold.bias[...] = jnp.full_like(bmru.threshold.bias[...], 1e6)
    return model


for how in ("without S5", "without BMRU", "BMRU frozen"):
    errors[how] = [error(broken(how), delay) for delay in DELAYS]
for how in ("S5, BMRU", "without S5", "without BMRU", "BMRU frozen"):
    print(f"{how:12} error {errors[how][0]:.3f} at a delay of 100, {errors[how][1]:.3f} at 1,000")
    assert how == "S5, BMRU" or min(errors[how]) > 0.35

# %% [markdown]
# Each of the halves is needed, already at the delay of training. Without S5 there is nothing worth holding, and without
# BMRU nothing is left at the end of what S5 found out: with time constants of a few tens of steps it can not do the
# other's work. The pure stacks show that this division of labour is what *this* start of the parameters leads to: an S5
# with long time constants does learn to bridge a delay of 100 by itself. It fails at the delay that it has not seen.
#
# And honestly: at the delay of training, the best of the three stacks was the one without any persistent memory.

# %% [markdown]
# ## Questions to try
#
# 1. Give the S5 of the hybrid its usual start, with time constants up to 2,000. Who holds now? What is left of the
#    error at 1,000 when BMRU is frozen?
# 2. Swap the layers: BMRU below, S5 above. What do you expect, and why?
# 3. Put them side by side in one block, `cells="s5+bmru"`. Why is that harder?
# 4. Take PMRU for BMRU. It has a continuum of states, and needs no leak.
# 5. Let the cue come at a random time. Does the clock still help? What else could tell the latch to listen?
# 6. Train it for twice as long with seeds 0 to 4 (`rngs=nnx.Rngs(seed)`). Is the clock there each time?
