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
# # What is a memory recurrent unit?
#
# A recurrent network has a state, a few numbers that it carries from one step of a sequence to the next. Most states
# fade: whatever happened long ago leaves a smaller and smaller trace. A **memory recurrent unit** (MRU) does not
# fade. What it has written stays, bit for bit, until it writes again.
#
# This notebook gets there in four steps: a neuron with two states of rest, a clock inside it that runs until it
# rests, the two simple maps that are left of it, and the reason why a whole sequence of such maps is one parallel
# scan.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import nnx

import mru
from mru.plots import style

matplotlib.rcParams.update(style.SETTINGS | {"figure.dpi": 110})

# %% [markdown]
# ## 1. A neuron with two states of rest
#
# Take one neuron that excites itself with a gain $g$, and gets an input $x$:
#
# $$\dot h = -h + \tanh(x + g\,h).$$
#
# It rests where $\dot h = 0$, that is where $h = \tanh(x + g h)$. We can not solve this for $h$, but we can for $x$:
#
# $$x(h) = \operatorname{artanh}(h) - g\,h.$$
#
# For $g \le 1$ this curve only rises, so each input has one state of rest. For $g > 1$ it folds: it falls in the
# middle, and an input in the right range meets it three times. The folds are where $x'(h) = 1/(1-h^2) - g = 0$:
#
# $$h^* = \pm\sqrt{1 - 1/g}, \qquad \beta = g\,|h^*| - \operatorname{artanh}|h^*|.$$
#
# For $|x| < \beta$ there are three states of rest. The middle one repels: there the slope of $\dot h$ in $h$ is
# positive. So two are left that hold.

# %%
GAIN = 2.0


def rests_at(h, gain):
    """The input at which h is a state of rest."""
    return np.arctanh(h) - gain * h


def fold(gain):
    """Half the width of the band of inputs in which there are two stable states of rest."""
    h = np.sqrt(1 - 1 / gain)
    return gain * h - np.arctanh(h)


BETA = fold(GAIN)
print(f"g = {GAIN}: two stable states for |x| < {BETA:.4f}")

# %% [markdown]
# On a computer time goes in steps. One step of size $\eta$ of the equation above is
# $h \leftarrow (1-\eta)\,h + \eta\tanh(x + g h)$. As a cell of this library it is a `RecurrentCell`: we say how it is
# updated, and what comes out.


# %%
class Neuron(mru.cells.RecurrentCell):
    """h -> (1 - rate) h + rate tanh(x + gain h), one input and one state."""

    def __init__(self, gain, rate):
        super().__init__(features=1, state_size=1)
        self.gain, self.rate = gain, rate

    def update(self, x, h):
        return (1 - self.rate) * h + self.rate * jnp.tanh(x + self.gain * h)

    def readout(self, h, x):
        return h


# %% [markdown]
# `mru.dynamics.equilibria` starts a cell in many states, runs it on under a constant input, and counts where it ends.
# Inside the band there are two ends, outside there is one. All of them lie on the curve, and attract (the spectral
# radius of the step is below 1).

# %%
neuron = Neuron(GAIN, rate=0.2)
for x, expected in ((0.0, 2), (0.9 * BETA, 2), (1.1 * BETA, 1)):
    found = mru.dynamics.equilibria(neuron, jnp.array([x]))
    assert found.number[0] == expected
    assert (found.radius < 1).all()
    np.testing.assert_allclose(rests_at(found.states[:, 0].astype(float), GAIN), x, atol=1e-3)
    print(f"x = {x:.3f}: ends at h = {np.unique(found.states.round(3))}")

# %%
h = np.tanh(np.linspace(-4, 4, 401))
figure, (left, right) = style.panels(style.PAGE, 2.6, columns=2)
for number, x in enumerate((0.0, 0.5, 1.0)):
    left.plot(h, -h + np.tanh(x + GAIN * h), label=f"x = {x:g}", **style.line(number, len(h)))
left.axhline(0, color=style.GREY, linewidth=0.6)
left.set(xlabel="state h", ylabel="dh/dt", title="It rests where the curve crosses 0")
left.legend()
stable = GAIN * (1 - h**2) < 1
for sign in (-1, 1):
    branch = stable & (h * sign > 0)
    label = "attracts" if sign > 0 else None
    right.plot(rests_at(h[branch], GAIN), h[branch], color=style.BLUE, linewidth=2, label=label)
right.plot(rests_at(h[~stable], GAIN), h[~stable], "--", color=style.VERMILLION, label="repels")
right.plot([BETA, -BETA], np.sqrt(1 - 1 / GAIN) * np.array([-1, 1]), "o", color=style.BLACK, label="folds")
right.set(xlabel="input x", ylabel="state of rest h", xlim=(-1.2, 1.2), title=f"Two stable states for |x| < {BETA:.3f}")
right.legend(loc="lower right")
figure

# %% [markdown]
# ## 2. A clock inside the neuron
#
# The neuron needs time to move from one state of rest to the other. If each step of a sequence gives it one small
# update only, a short input ends before the neuron has moved. So give it a clock of its own: between two steps of the
# sequence, repeat the update until the state does not change any more. This is `mru.dynamics.InnerClock`.
#
# All that happens on the way to rest, the transient, is thrown away. This is the idea of De Geeter, Lambrechts, Ernst
# and Drion (2026, [arXiv 2601.09495](https://arxiv.org/abs/2601.09495)), and what gave the units their name: **an MRU
# is a recurrent cell whose inner clock has run to convergence at each step.**

# %%
pulses = np.zeros((120, 1), np.float32)
pulses[10:12], pulses[50:90], pulses[100:102] = 1.0, -1.0, 0.4

slow, _ = Neuron(GAIN, rate=0.1)(pulses)
settled, _ = mru.dynamics.InnerClock(Neuron(GAIN, rate=0.1))(pulses)

# %%
figure, (above, below) = style.panels(style.PAGE, 3.0, rows=2, sharex=True, gridspec_kw={"height_ratios": (1, 2)})
above.axhspan(-BETA, BETA, color=style.SKY, alpha=0.25, linewidth=0)
above.step(range(120), pulses[:, 0], where="post", color=style.BLACK)
above.set(ylabel="input x", yticks=(-1, 0, 1), title="The band in which the neuron has two states of rest is shaded")
below.step(range(120), slow[:, 0], where="post", label="one update a step", **style.line(1, 120))
below.step(range(120), settled[:, 0], where="post", label="inner clock run to rest", **style.line(0, 120))
below.axhline(0, color=style.GREY, linewidth=0.6)
below.set(xlabel="step", ylabel="state h")
below.legend(loc="upper right")
figure

# %% [markdown]
# With the inner clock the neuron is at rest in every step: two steps of the first pulse are enough to take it up.
# With one update a step those two only push it off the middle, from where it drifts up by itself, and it is still on
# its way when the long pulse comes. That one it follows 19 steps late. The last pulse, 0.4, stays inside the band,
# and moves neither of them to the other side.

# %%
assert settled[11, 0] > 0.95  # after a pulse of two steps it is up
assert slow[11, 0] < 0.3  # one update a step: not yet
assert settled[50, 0] < -0.95  # one step into the long pulse it is down
assert np.argmax(slow[50:, 0] < 0) == 19
assert np.sign(settled[99, 0]) == np.sign(settled[119, 0])  # |x| < beta changes no sign

# %% [markdown]
# ## 3. What is left: a relay
#
# With the clock run to rest, the exact value of $h$ follows from the input and **which** of the two states it sits
# in. One bit is left, its sign. And the rule for the bit is simple:
#
# - $x \ge \beta$: the lower state does not exist, the bit becomes $+1$;
# - $x \le -\beta$: the upper state does not exist, the bit becomes $-1$;
# - between them the neuron stays in the state where it is.
#
# An engineer calls this a *relay*, or a *latch*: set, reset, hold. Here it is as a loop, and the signs of the neuron
# with its inner clock are the same at each of 400 random inputs.


# %%
def relay(x, beta, h):
    """Write the sign of x where |x| >= beta, else hold; a loop."""
    states = []
    for value in x:
        h = np.sign(value) if abs(value) >= beta else h
        states.append(h)
    return np.array(states)


x = 0.5 * np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32)
rest, _ = mru.dynamics.InnerClock(Neuron(GAIN, rate=0.5), iterations=10_000)(x)
first = np.argmax(np.abs(x) >= BETA)  # before its first write the relay has no state yet
np.testing.assert_array_equal(np.sign(rest[first:, 0]), relay(x[first:, 0], BETA, 0.0))

# %% [markdown]
# The **BMRU** (bistable MRU) is this relay with a candidate $c$ and a threshold $\beta$ that are learned, linear
# functions of the input:
#
# $$c_t = W_c x_t + b_c,\quad \beta_t = |W_\beta x_t + b_\beta|,\qquad
# h_t = \begin{cases}\operatorname{sgn}(c_t) & |c_t| \ge \beta_t\\ h_{t-1} & \text{else.}\end{cases}$$
#
# The differential equation is gone, and so are the tanh and the recurrent weight. Only its fold is left, as $\beta$.
# The cell in the library gives the same states as the loop:

# %%
bmru = mru.cells.BMRU(features=3, state_size=4, rngs=nnx.Rngs(0))
inputs = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
inside = {}
bmru(inputs, capture=inside)  # `capture` gets what happens inside a cell
c, beta = np.asarray(bmru.candidate(inputs)), np.abs(bmru.threshold(inputs))
start = np.asarray(bmru.initial_state())  # learned: drawn from {-1, +1}
for channel in range(4):
    loop, h = [], start[channel]
    for t in range(200):
        h = np.sign(c[t, channel]) if abs(c[t, channel]) >= beta[t, channel] else h
        loop.append(h)
    np.testing.assert_array_equal(inside["state"][:, channel], loop)

# %% [markdown]
# The **FQ-BMRU** (first-quadrant BMRU, [arXiv 2605.15216](https://arxiv.org/abs/2605.15216)) is a relay with two
# thresholds on the same side and the states $0$ and $\alpha$: a *Schmitt trigger*.
#
# ## 4. More than one bit: the play
#
# A relay holds one bit a channel. Can a unit hold a real number, and just as exactly? It needs a whole line of states
# of rest. Take a band $[c - r, c + r]$, and let the state fall down the slope of half its squared distance to the
# band:
#
# $$\dot h = -\frac{d}{dh}\,\tfrac12\operatorname{dist}\big(h, [c-r, c+r]\big)^2
#          = -\big(h - \operatorname{clip}(h, c-r, c+r)\big).$$
#
# Inside the band the slope is 0, so **every** value there is a state of rest. Outside, the distance shrinks as
# $e^{-s}$, until the state sits on the nearer edge. Run to convergence this is nothing but
#
# $$h_t = \operatorname{clip}(h_{t-1},\ c_t - r_t,\ c_t + r_t).$$
#
# It is the *play operator* of hysteresis theory, also called backlash: a rod in a slot that is moved by $c$ and has
# $r$ of play on either side. With learned $c_t$ and $r_t$ it is the **PMRU** (play MRU), the unit that this project
# adds.


# %%
class Flow(mru.cells.RecurrentCell):
    """A step of the gradient flow on half the squared distance to [x - 1, x + 1]."""

    def __init__(self):
        super().__init__(features=1, state_size=1)

    def update(self, x, h):
        return h - 0.5 * (h - jnp.clip(h, x - 1, x + 1))

    def readout(self, h, x):
        return h


x = 2 * np.random.default_rng(2).normal(size=(400, 1)).astype(np.float32)
converged, _ = mru.dynamics.InnerClock(Flow())(x)
clipped = mru.scan(mru.Clamp(x - 1, x + 1))
np.testing.assert_allclose(converged, clipped, atol=1e-5)

# %% [markdown]
# Now count the states of rest of the two cells under a constant input. 64 histories of small inputs end in 2
# different states of a relay channel, and in 64 different ones of a play channel: a continuum, as far as 64 can tell.
# The spectral radius is 1 in the play: it does not pull a disturbed state back, it keeps the disturbance too.


# %%
def one_input(layer, kernel, bias):
    """Set a linear layer by hand: kernel * x + bias in each channel."""
    layer.kernel[...] = jnp.full_like(layer.kernel[...], kernel)
    layer.bias[...] = jnp.full_like(layer.bias[...], bias)


relay_cell = mru.cells.BMRU(1, 1, rngs=nnx.Rngs(0))
one_input(relay_cell.candidate, 1, 0)  # c = x
one_input(relay_cell.threshold, 0, 1)  # beta = 1

play_cell = mru.cells.PMRU(1, 1, rngs=nnx.Rngs(0))
one_input(play_cell.centre, 1, 0)  # c = x
one_input(play_cell.radius, 0, np.log(np.expm1(1)))  # r = softplus(...) = 1

# %%
held = mru.dynamics.equilibria(relay_cell, jnp.zeros(1), starts=64, scale=0.5)
written = mru.dynamics.equilibria(relay_cell, jnp.full(1, 1.5), starts=64, scale=0.5)  # outside of the band
line = mru.dynamics.equilibria(play_cell, jnp.zeros(1), starts=64, scale=0.5)
print(f"relay: {held.number[0]} states inside its band, {written.number[0]} outside; play: {line.number[0]}")
assert (held.number[0], written.number[0], line.number[0]) == (2, 1, 64)
np.testing.assert_array_equal(line.radius, 1)

# %% [markdown]
# ## 5. Memory as a loop: hysteresis
#
# How do we see that a unit remembers? Sweep its input slowly up, down, and up again, and plot the state against the
# input. If the state is a function of the input, the way up and the way down are one line. If it depends on where the
# input has been, they differ, and enclose an **area**. This is *hysteresis*, Greek for lagging behind.
#
# But a unit that fades lags as well. The test that separates the two is to **sweep more slowly**: what is only
# slow catches up, and its loop closes. A memory does not care about the speed.
#
# With $A$ the amplitude of the sweep and $v$ its speed, the areas are known in advance:
#
# | unit | its loop | area |
# |---|---|---|
# | relay, $\beta$ | from $-\beta$ to $\beta$, and from $-1$ to $1$ | $2\beta\cdot 2$ |
# | Schmitt trigger, gap $\delta$, height $\alpha$ | $\delta$ wide, $\alpha$ high | $\delta\,\alpha$ |
# | play, $r$ | a parallelogram, $2r$ wide, $2(A-r)$ high | $4\,r\,(A-r)$ |
# | linear, $h \leftarrow \lambda h + (1-\lambda)x$ | lags $\tau = \lambda/(1-\lambda)$ steps | $\approx 4A\tau v$ |
#
# The last row: a state that follows a ramp $\tau$ steps late is off by $\tau v$, on the whole
# way of $2A$, up and down.

# %%
trigger_cell = mru.cells.FQBMRU(1, 1, rngs=nnx.Rngs(0))
one_input(trigger_cell.candidate, 1, 0)
trigger_cell.lower_threshold[...], trigger_cell.gap[...] = jnp.full(1, 0.5), jnp.full(1, 1.0)
trigger_cell.alpha[...] = jnp.full(1, 2.0)

LAMBDA = 0.9
linear_cell = mru.cells.LRU(1, 1, r_min=LAMBDA - 1e-6, r_max=LAMBDA, max_phase=1e-6, rngs=nnx.Rngs(0))
linear_cell.b[...] = jnp.array([[[1.0], [0.0]]])  # real part 1, imaginary part 0
linear_cell.log_gamma[...] = jnp.log(1 - jnp.abs(linear_cell.eigenvalues()))  # a constant input comes out as it is

# %%
AMPLITUDE, SPEEDS = 3.0, (0.3, 0.03, 0.003, 0.0003)
CELLS = {"BMRU": relay_cell, "FQ-BMRU": trigger_cell, "PMRU": play_cell, "LRU": linear_cell}
loops = {
    name: [mru.dynamics.hysteresis_loop(cell, amplitude=AMPLITUDE, speed=speed) for speed in SPEEDS]
    for name, cell in CELLS.items()
}
areas = {name: np.array([loop.area[0] for loop in found]) for name, found in loops.items()}
print("speed   " + "".join(f"{speed:>9}" for speed in SPEEDS))
for name, values in areas.items():
    print(f"{name:8}" + "".join(f"{value:9.3f}" for value in values))

# %%
for name, expected in {"BMRU": 4.0, "FQ-BMRU": 2.0, "PMRU": 8.0}.items():
    # Steps as wide as the speed are drawn as ramps: that is all that the speed changes.
    assert (np.abs(areas[name] - expected) <= 2.1 * np.array(SPEEDS) + 1e-3).all()
tau = LAMBDA / (1 - LAMBDA)
np.testing.assert_allclose(areas["LRU"][2:], 4 * AMPLITUDE * tau * np.array(SPEEDS[2:]), rtol=0.03)
assert (areas["LRU"][1:] < 0.6 * areas["LRU"][:-1]).all()  # each slower sweep encloses less
np.testing.assert_allclose(areas["LRU"], [8.3, 2.9, 0.32, 0.032], rtol=0.02)

# %% name="hysteresis_loops"
figure = matplotlib.figure.Figure(figsize=(style.PAGE, 4.2), layout="constrained")
axes = figure.subplot_mosaic([["BMRU", "FQ-BMRU", "PMRU"], ["LRU", "area", "area"]])
for name, found in loops.items():
    for number, (loop, speed) in enumerate(zip(found[:3], SPEEDS)):
        look = {"linewidth": (2.6, 1.4, 0.9)[number], "linestyle": ("-", "--", "-")[number]}
        colour = (style.SKY, style.VERMILLION, style.BLACK)[number]
        axes[name].plot(loop.drive, loop.state[:, 0].real, color=colour, label=f"speed {speed:g}", **look)
    axes[name].set(xlabel="input u", ylabel="state h", title=f"{name}: {'memory' if name != 'LRU' else 'lag'}")
for number, (name, values) in enumerate(areas.items()):
    axes["area"].plot(SPEEDS, values, label=name, **style.line(number, len(SPEEDS)))
style.logarithmic(axes["area"], "x")
style.logarithmic(axes["area"], "y")
axes["area"].set(xlabel="speed of the sweep (change of u in a step)", ylabel="enclosed area")
axes["area"].legend()
style.legend_below(figure, axes["LRU"])
figure

# %% [markdown]
# BMRU, FQ-BMRU and PMRU enclose their area at any speed: 4, 2 and 8. What is left of a difference at the highest
# speed is the width of one step of the drive. The LRU encloses 8.3 at a speed of 0.3, more than any of them: one loop
# alone proves nothing. But at 0.03 it is 2.9, at 0.003 it is 0.32, at 0.0003 it is 0.032: ten times slower, ten times
# less. The loops of the three are *memory*, that of the LRU is *lag*.
#
# An LRU as it is initialised has longer time constants, up to 1,000 steps, so its largest loop closes later. But it
# closes:

# %%
random_lru = mru.cells.LRU(1, 32, rngs=nnx.Rngs(0))
largest = [mru.dynamics.hysteresis_loop(random_lru, speed=speed).area.max() for speed in (0.003, 0.0003, 0.00003)]
print("largest of 32 channels:", *(f"{area:.3f}" for area in largest))
np.testing.assert_allclose(largest[1] / largest[2], 10, rtol=0.05)

# %% [markdown]
# ## 6. Why the update composes
#
# A neuron with a tanh must be run one step after the other: $\tanh(x_2 + g\tanh(x_1 + g h))$ is no tanh of this form
# any more, and after a thousand steps it is a thousand of them inside each other. A latch stays a latch. A step is
# described by two things, whether it writes and what. Do one step, then another:
#
# - the later one writes: it does not matter what was before; together they write the later value;
# - the later one holds: together they do what the earlier one does.
#
# So two steps are again one step of the same kind. Here are both rules, and nothing else is needed:


# %%
def apply(step, h):
    """The state after a step."""
    write, value = step
    return jnp.where(write, value, h)


def compose(earlier, later):
    """The one step that does what `earlier` and then `later` do."""
    return earlier[0] | later[0], jnp.where(later[0], later[1], earlier[1])


# %% [markdown]
# Composition is *associative*: of three steps it does not matter whether the first two or the last two are put
# together first. So a sequence can be cut anywhere, the parts composed at the same time, and the results put
# together: `jax.lax.associative_scan` does this. It gives, for each $t$, the composition of all steps up to $t$,
# which we then apply to the first state. The numbers are the same as those of a loop and of `mru.scan`. Not about the
# same: the same.

# %%
T = 1000
rng = np.random.default_rng(3)
write, value, h0 = rng.random((T, 8)) < 0.05, rng.normal(size=(T, 8)).astype(np.float32), np.float32(rng.normal(size=8))

composed = jax.lax.associative_scan(compose, (write, value))
by_hand = apply(composed, h0)

loop, h = [], h0
for t in range(T):
    h = np.where(write[t], value[t], h)
    loop.append(h)

np.testing.assert_array_equal(by_hand, loop)
np.testing.assert_array_equal(by_hand, mru.scan(mru.Latch(write, value), h0))

# %% [markdown]
# How few rounds does it take? Let each step compose itself with the one before it, then the result with what lies two
# before, then four, eight, ... After $k$ rounds each step knows what the last $2^k$ steps do together, so 64 steps
# need 6 rounds. (The `associative_scan` goes up and down a tree instead, which needs twice the rounds but less work.)

# %%
T, RATE = 64, 0.08
write, value = rng.random(T) < RATE, np.sign(rng.normal(size=T))
rounds = [(write, value)]
for k in range(6):
    write, value = rounds[-1]
    nothing = np.zeros(2**k, bool), np.zeros(2**k)  # what lies before the first step: hold
    shifted = tuple(np.concatenate([pad, old[: T - 2**k]]) for pad, old in zip(nothing, (write, value)))
    rounds.append(tuple(map(np.asarray, compose(shifted, (write, value)))))

final = jax.lax.associative_scan(compose, rounds[0])
np.testing.assert_array_equal(apply(rounds[-1], 0.0), apply(final, 0.0))

# %%
figure, (axis,) = style.panels(style.PAGE, 2.2)
picture = np.array([np.where(write, value, 0) for write, value in rounds])
axis.imshow(picture, cmap=style.DIVERGING, vmin=-1.3, vmax=1.3, aspect="auto", extent=(0, T, 6.5, -0.5))
axis.set(xlabel="step t", ylabel="round", yticks=range(7))
axis.set_title("What the last $2^k$ steps do together: write +1 (purple), write -1 (orange), hold (white)")
figure

# %% [markdown]
# Each write spreads to the right, 1, 2, 4, ... steps a round, until it meets a later one. White columns that stay
# white are the steps before the first write: there the first state is still held.
#
# Clamps compose too. To clip into $[l_1, u_1]$ and then into $[l_2, u_2]$ is to clip once, into the first band's ends
# clipped by the second. So does $h \leftarrow a h + b$, which is what LRU, S5 and the other linear models are. Each
# is an `mru.Operator`, and one engine scans them all:

# %%
first, second = mru.Clamp(jnp.array([-1.0]), jnp.array([0.5])), mru.Clamp(jnp.array([0.0]), jnp.array([2.0]))
both = second.compose(first)
h = jnp.linspace(-3, 3, 101)[:, None]
np.testing.assert_array_equal(both.apply(h), jnp.clip(jnp.clip(h, -1, 0.5), 0, 2))
print(f"clip into [-1, 0.5], then into [0, 2]: clip into [{both.lo[0]}, {both.hi[0]}]")

# %% [markdown]
# ## In short
#
# A bistable neuron, with an inner clock run to rest, is a relay. A flow onto a band, run to rest, is a play. Both
# keep what they hold for any number of steps, and no sweep is slow enough to close their loop. And both are maps that
# compose, so that a sequence of any length is one scan.

# %% [markdown]
# ## Questions to try
#
# 1. Let the gain of the neuron come down to 1. What happens to the band, and to the area of the loop of its
#    `InnerClock`? What is left at a gain of 0.9?
# 2. Drive the neuron *without* its inner clock through a hysteresis loop, `mru.dynamics.hysteresis_loop(Neuron(2.0,
#    0.1))`, at several speeds. Its area does not go to 0 either. What does it go to?
# 3. Sweep the play cell with an amplitude below its radius. Why is there no loop?
# 4. Put a small loop into a large one: let the drive turn around half way. Which of the four cells remember where
#    it turned?
# 5. `mru.scan(mru.Latch(write, value), h0, reverse=True)` runs from the last step to the first. Do the same by hand.
# 6. Try to write `compose` for the step $h \leftarrow \max(h + a, b)$. Notebook 06 trains such a cell.
