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
# # An operator and a cell of your own
#
# A recurrence runs in parallel here if its maps are **closed under composition**: two steps, one after the other, are
# again one map of the same family. This notebook builds such a family that the library does not have, a *saturating
# counter*, proves its composition with pencil and paper, makes it a cell of 40 lines, tests it as the library tests its
# own cells, trains it, and looks at what it has learned.
#
# A counter adds, and stops at its ends:
#
# $$h_t = \min(\max(h_{t-1} + a_t,\ l_t),\ u_t), \qquad l_t \le u_t.$$
#
# With $a = 0$ it is the `Clamp` of the library, with $l = -\infty$, $u = \infty$ a plain sum. The ends are what makes
# it robust: a clicker that goes from 0 to 8 forgets how far it *would* have gone.

# %%
# %matplotlib inline
import itertools

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from flax import nnx

import mru
from mru.plots import states, style

matplotlib.rcParams.update(style.SETTINGS | {"figure.dpi": 110})

# %% [markdown]
# ## 1. Two steps are one step
#
# Take step 1 with $(a_1, l_1, u_1)$, then step 2 with $(a_2, l_2, u_2)$, and write
# $\operatorname{clip}_l^u(h) = \min(\max(h, l), u)$.
#
# Adding a number shifts a clip and its ends:
#
# $$\operatorname{clip}_{l}^{u}(h) + a = \operatorname{clip}_{l+a}^{u+a}(h+a).$$
#
# So the addition of step 2 can be moved in front of the clip of step 1:
#
# $$f_2(f_1(h)) = \operatorname{clip}_{l_2}^{u_2}\!\big(\operatorname{clip}_{l_1+a_2}^{u_1+a_2}(h + a_1 + a_2)\big).$$
#
# Two clips in a row are one clip. What comes out of the first lies in $[l_1+a_2,\ u_1+a_2]$, and a clip never changes
# the order of two numbers, so the ends of the result are the ends of the first, clipped by the second:
#
# $$a = a_1 + a_2, \qquad l = \operatorname{clip}_{l_2}^{u_2}(l_1 + a_2),
# \qquad u = \operatorname{clip}_{l_2}^{u_2}(u_1 + a_2).$$
#
# And $\operatorname{clip}_{l_2}^{u_2}(l_1 + a_2)$ is just $f_2(l_1)$: **the new ends are where step 2 takes the old
# ones**. That is the whole operator: its fields, how it acts, how two of them compose.


# %%
class Counter(mru.Operator):
    """h -> min(max(h + a, lo), hi), fields (..., T, N)."""

    a: jax.Array
    lo: jax.Array
    hi: jax.Array

    def compose(self, earlier):
        """The map `self . earlier`."""
        return Counter(earlier.a + self.a, self.apply(earlier.lo), self.apply(earlier.hi))

    def apply(self, h):
        """The state after each step, given the state before it."""
        return jnp.minimum(jnp.maximum(h + self.a, self.lo), self.hi)

    def holds(self, h):
        """Where a step leaves the state as it is; it may be left out, and is for counting writes."""
        return self.apply(h) == h


# %% [markdown]
# Was the algebra right? A scan in parallel uses `compose` for everything, a loop uses only `apply`. So we let a plain
# NumPy loop in 64 bits judge both. The scan adds in another order, hence the tolerance.

# %%
rng = np.random.default_rng(0)
low, high = np.sort(rng.normal(size=(2, 3, 100, 5)), axis=0)  # (batch, time, channels), low below high
op = Counter(*(jnp.asarray(x, jnp.float32) for x in (rng.normal(size=low.shape), low, high)))


def loop(op, h):
    """Every state, step by step."""
    a, lo, hi = (np.asarray(x, np.float64) for x in (op.a, op.lo, op.hi))
    found = []
    for t in range(a.shape[-2]):
        h = np.minimum(np.maximum(h + a[:, t], lo[:, t]), hi[:, t])
        found.append(h)
    return np.stack(found, -2)


for method in ("sequential", "associative", "auto"):
    h = mru.scan(op, jnp.full((3, 5), 0.5), method=method)
    np.testing.assert_allclose(h, loop(op, np.full((3, 5), 0.5)), atol=1e-5)

# %% [markdown]
# A parallel scan groups the steps as it likes, so it must not matter how: composition must be **associative**,
# $(f_3 f_2) f_1 = f_3 (f_2 f_1)$. If `compose` really composes maps it is, as both sides take $h$ through the same
# three steps.

# %%
first, second, third = (Counter(op.a[:, t], op.lo[:, t], op.hi[:, t]) for t in (0, 1, 2))
one = third.compose(second).compose(first)
other = third.compose(second.compose(first))
for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
    np.testing.assert_allclose(left, right, atol=1e-6)

# %% [markdown]
# ## 2. A cell
#
# A cell says two things: which map each input makes, and what comes out of the states. Ours adds
# $a = W x + b$ and saturates at $0$ and at a learned cap:
#
# $$h_t = \min(\max(h_{t-1} + W x_t + b,\ 0),\ \mathrm{softplus}(\kappa)), \qquad y_t = W_o h_t + b_o.$$


# %%
class CounterCell(mru.cells.ScanCell):
    """h_t = min(max(h_{t-1} + W x + b, 0), softplus(cap)), y = W_o h + b_o: a counter that saturates."""

    def __init__(self, features, state_size, *, cap=4.0, method="auto", dtype=None, rngs):
        """`cap` is where that of every channel starts, before the softplus."""
        super().__init__(features, state_size, method=method)
        self.cap = mru.cells.StateParam(jnp.full(state_size, cap, jnp.float32))
        self.increment = nnx.Linear(features, state_size, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(state_size, features, dtype=dtype, rngs=rngs)

    def operator(self, x):
        """The maps of all steps, fields (..., T, N), given the inputs (..., T, D)."""
        a = self.increment(x)
        return Counter(a, jnp.zeros_like(a), jnp.broadcast_to(nnx.softplus(self.cap[...]), a.shape))

    def readout(self, h, x):
        """The outputs (..., T, D), given the states (..., T, N) and the inputs."""
        return self.out(h)


# %% [markdown]
# `StateParam` says that this parameter belongs to the update of a state: `mru.adamw` then leaves it without weight
# decay. A `name="counter"` behind the base class would make the cell known to config files; README shows how to ship
# it in a package.
#
# ## 3. The test of a cell
#
# For every cell of the library these are **the same numbers**: the call on the whole sequence, the loop of `step`, the
# call in two chunks with the state carried over, and the call on packed sequences against a call for each. That is
# the first test of a cell (`tests/cells/test_contract.py`), and our cell must pass it too.

# %%
cell = CounterCell(features=3, state_size=4, cap=1.0, rngs=nnx.Rngs(0))
x = jnp.asarray(rng.normal(size=(2, 20, 3)), jnp.float32)
y, last = cell(x)

# A loop of `step` ...
state, found = cell.initial_state((2,)), []
for t in range(20):
    y_t, state = cell.step(x[:, t], state)
    found.append(y_t)
np.testing.assert_allclose(np.stack(found, 1), y, atol=1e-5)
np.testing.assert_allclose(state, last, atol=1e-5)

# ... two chunks ...
early, middle = cell(x[:, :7])
late, end = cell(x[:, 7:], middle)
np.testing.assert_allclose(np.concatenate([early, late], 1), y, atol=1e-5)
np.testing.assert_allclose(end, last, atol=1e-5)

# ... and three sequences packed in one row: they start at 0, 7 and 12.
starts = jnp.broadcast_to(jnp.isin(jnp.arange(20), jnp.array([7, 12])), (2, 20))
packed, _ = cell(x, reset=starts)
for begin, stop in itertools.pairwise((0, 7, 12, 20)):
    np.testing.assert_allclose(packed[:, begin:stop], cell(x[:, begin:stop])[0], atol=1e-5)

# %% [markdown]
# The gradient. The library runs the backward pass as one scan of its own, derived from `apply`. Independent of that
# is a plain loop in 64 bits and finite differences: nudge each increment by $\pm\delta$ and see what becomes of the
# loss. Where the counter neither gains nor loses at an end, the derivative is 1; where it sits at an end it is 0.
# (Only exactly at a kink there is no derivative, and random numbers do not land there.)

# %%
weight = rng.normal(size=op.a.shape)
scanned = jax.grad(lambda op: (weight * mru.scan(op, jnp.full((3, 5), 0.5))).sum())(op)


def nudged(name, place, by):
    """The loss by the loop, with one entry of one field changed."""
    fields = {n: np.array(getattr(op, n), np.float64) for n in ("a", "lo", "hi")}
    fields[name][place] += by
    return (weight * loop(Counter(**fields), np.full((3, 5), 0.5))).sum()


nudge, places = 1e-6, [tuple(rng.integers(size) for size in low.shape) for _ in range(200)]
for name in ("a", "lo", "hi"):
    differences = [(nudged(name, p, nudge) - nudged(name, p, -nudge)) / (2 * nudge) for p in places]
    exact = [float(getattr(scanned, name)[p]) for p in places]
    np.testing.assert_allclose(exact, differences, atol=1e-4)
    assert any(exact)

# %% [markdown]
# ## 4. Train it
#
# A toy task made for it: **count the clicks, up to 8**. At each of 60 steps a click comes with a probability that
# differs from example to example, together with two channels of noise that mean nothing. The target at *every* step is
# the number of clicks so far, but never more than 8.

# %%
CAP, STEPS = 8, 60


def clicks(rng, number, steps=STEPS):
    """Inputs (number, steps, 3): clicks of 0 or 1 and two noises; targets (number, steps), the count up to the cap."""
    rate = rng.uniform(0.02, 0.4, size=(number, 1))
    click = (rng.random((number, steps)) < rate).astype(np.float32)
    noise = rng.normal(size=(number, steps, 2)).astype(np.float32)
    return np.concatenate([click[..., None], noise], -1), np.minimum(click.cumsum(1), CAP)


# %% [markdown]
# The model is the bare cell, and the first of its outputs is the answer: nothing else could do the counting. For
# comparison an LRU, the linear recurrence, of the same sizes: it can sum, but it has nothing to saturate with. The
# optimiser is the library's AdamW, whose weight decay lets what is not needed go to 0.


# %%
def answer(cell, x):
    """The count at every step, (..., T)."""
    return cell(x)[0][..., 0]


def train(cell, steps=600, rate=2e-2):
    """Train a cell in place; the mean squared error of each training step."""
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)
    adam = mru.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=0.3)

    def loss(params, x, target):
        return jnp.square(answer(nnx.merge(graphdef, params, rest), x) - target).mean()

    @jax.jit
    def step(params, state, x, target):
        value, gradient = jax.value_and_grad(loss)(params, x, target)
        updates, state = adam.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, rng, losses = adam.init(params), np.random.default_rng(1), []
    for _ in range(steps):
        params, state, value = step(params, state, *clicks(rng, 64))
        losses.append(float(value))
    nnx.update(cell, params)
    return np.array(losses)


# %%
cells = {
    "counter": CounterCell(features=3, state_size=4, rngs=nnx.Rngs(0)),
    "LRU": mru.cells.LRU(features=3, state_size=4, rngs=nnx.Rngs(0)),
}
losses = {name: train(cell) for name, cell in cells.items()}


def errors(cell, steps):
    """How far the count is off, (256, steps), on fresh examples."""
    x, target = clicks(np.random.default_rng(2), 256, steps)
    return np.abs(np.asarray(answer(cell, x)) - target)


off = {name: [errors(cell, steps) for steps in (STEPS, 10 * STEPS)] for name, cell in cells.items()}
for name, (trained, longer) in off.items():
    print(f"{name:8} off by {trained.mean():.3f} at {STEPS} steps, by {longer.mean():.3f} at {10 * STEPS}")

# %% [markdown]
# The counter is off by less than 0.05 on average, and its nearest whole number is right at more than 99 % of the steps,
# also on sequences ten times as long as those it was trained on. The LRU is off by more than one click, and by more
# than three at the longer ones: a leaky sum settles where the clicks balance the leak, not at 8.

# %%
assert off["counter"][0].mean() < 0.05
assert off["counter"][1].mean() < 0.05
assert (off["counter"][1] < 0.5).mean() > 0.99
assert off["LRU"][0].mean() > 1
assert off["LRU"][1].mean() > 3

# %%
x, target = clicks(np.random.default_rng(4), 1)
figure, (left, right) = style.panels(style.PAGE, 2.4, columns=2)
for number, (name, cell) in enumerate(cells.items()):
    left.plot(losses[name], label=name, **style.line(number, points=len(losses[name])))
    right.plot(answer(cell, x)[0], label=name, **style.line(number, points=STEPS))
right.step(np.arange(STEPS), target[0], where="mid", color=style.BLACK, linewidth=0.8, label="clicks, up to 8")
style.logarithmic(left, "y")
left.set(xlabel="training step", ylabel="mean squared error", title="learning")
right.set(xlabel="step t", ylabel="count", title="one fresh example")
style.legend_below(figure, right)
figure

# %% [markdown]
# ## 5. Look at it
#
# What did it learn? The solution by hand is $W = (w, 0, 0)$, $b = 0$ and a cap at $8w$. Look at the channel that the
# readout listens to most:

# %%
counter = cells["counter"]
used = int(jnp.argmax(jnp.abs(counter.out.kernel[:, 0])))
w, b = counter.increment.kernel[:, used], float(counter.increment.bias[used])
cap = float(nnx.softplus(counter.cap[used]))
print(f"W = {w}, b = {b:.1e}, cap = {cap:.3f} = {cap / w[0]:.2f} clicks")
np.testing.assert_allclose(cap / w[0], CAP, atol=0.1)
np.testing.assert_allclose(w[1:], 0, atol=1e-3)
assert 0 < abs(b) < 1e-3

# %% [markdown]
# It found the solution, up to a small rest in $b$. While nothing clicks the state moves by $b$ at every step. That is
# nothing in 60 steps. But what of 10,000? Let 60 steps of clicks be followed by steps without a click, only noise, and
# ask for the count again. The state is carried from chunk to chunk, so memory does not grow.


# %%
def off_after(cell, waits, rows=64):
    """How far the count is off, mean, after so many steps without a click (multiples of 1,000)."""
    x, target = clicks(np.random.default_rng(5), rows)
    graphdef, variables = nnx.split(cell)

    @jax.jit
    def quiet(h, key):
        x = jax.random.normal(key, (rows, 1000, 3)).at[..., 0].set(0)
        y, h = nnx.merge(graphdef, variables)(x, h)
        return y[:, -1, 0], h

    y, h = cell(x)
    y, found = y[:, -1, 0], []
    for chunk in range(max(waits) // 1000 + 1):
        if chunk:
            y, h = quiet(h, jax.random.key(chunk))
        if 1000 * chunk in waits:
            found.append(float(np.abs(y - target[:, -1]).mean()))
    return found


WAITS = [0, 1000, 10_000, 100_000]
drift = off_after(counter, WAITS)
print("counter, off by", ", ".join(f"{e:.4f} after {w:,}" for e, w in zip(drift, WAITS)))
assert drift[0] < 0.05
assert drift[3] > 0.5

# %% [markdown]
# After 100,000 steps it is off by more than half a click. The counter has a continuum of states of rest, but at *one*
# input only, $a = 0$; the slightest other input moves it. A memory recurrent unit has a whole **band** of inputs at
# which it rests. The hysteresis loop shows the difference: drive the click input up and down, slower and slower. If
# there is a band, the state lags behind by the width of the band, however slow the drive. If there is none, the loop
# closes.

# %%
SPEEDS = (0.1, 0.01, 0.001)
click = jnp.array([1.0, 0.0, 0.0])  # the direction of the input that is driven


def areas(cell, unit):
    """The area of a unit's loop at each speed."""
    return [float(mru.dynamics.hysteresis_loop(cell, click, amplitude=1, speed=s).area[unit]) for s in SPEEDS]


plain = areas(counter, used)
print("counter, area of the loop", ", ".join(f"{a:.2f} at speed {s}" for a, s in zip(plain, SPEEDS)))
assert plain[2] < 0.2 * plain[0]

# %% [markdown]
# The area falls to 0 about as the square root of the speed. (Why the root? The drive $u$ crosses 0 at speed $s$, so
# after $t$ steps the state has gone up by $w s t^2 / 2$. It needs $t = \sqrt{2 \cdot 8 / s}$ steps to reach the cap,
# and by then the drive is at $s t = \sqrt{16\,s}$.)
#
# ## 6. A band makes it a memory
#
# So give the increment a band in which it counts as nothing, and no bias, so that an input of 0 lies in the middle:
#
# $$a_t = \operatorname{shrink}_{\theta}(W x_t), \qquad
# \operatorname{shrink}_\theta(v) = \operatorname{sgn}(v)\,\max(|v| - \theta,\ 0).$$
#
# The operator stays as it is. Only the gate in front of it changes.


# %%
class HoldingCounter(CounterCell):
    """A `CounterCell` whose increment is 0 where |W x| is below `band`."""

    band = 0.5

    def __init__(self, features, state_size, *, rngs, **options):
        super().__init__(features, state_size, rngs=rngs, **options)
        self.increment = nnx.Linear(features, state_size, use_bias=False, rngs=rngs)

    def operator(self, x):
        """The maps of all steps, fields (..., T, N), given the inputs (..., T, D)."""
        op = super().operator(x)
        return Counter(jnp.sign(op.a) * jnp.maximum(jnp.abs(op.a) - self.band, 0), op.lo, op.hi)


holding = HoldingCounter(features=3, state_size=4, rngs=nnx.Rngs(0))
train(holding)
used_here = int(jnp.argmax(jnp.abs(holding.out.kernel[:, 0])))
held = off_after(holding, WAITS)
banded = areas(holding, used_here)
print("holding, off by", ", ".join(f"{e:.4f} after {w:,}" for e, w in zip(held, WAITS)))
print("holding, area of the loop", ", ".join(f"{a:.2f} at speed {s}" for a, s in zip(banded, SPEEDS)))
assert held[0] < 0.05
assert held[0] == held[1] == held[2] == held[3]

# %% [markdown]
# The error after 100,000 steps is the same as after none, **bit for bit**, and the loop stays open: its area goes to
# $2\,(\theta/w)$, the width of the band in units of the drive, times the height, the cap.

# %%
w, cap = float(holding.increment.kernel[0, used_here]), float(nnx.softplus(holding.cap[used_here]))
np.testing.assert_allclose(banded[2], 2 * holding.band / w * cap, rtol=0.15)

# %%
figure, axes = style.panels(style.PAGE, 2.6, columns=2, sharey=True)
for axis, (title, cell, unit) in zip(axes, [("counter", counter, used), ("with a band", holding, used_here)]):
    for number, speed in enumerate(SPEEDS):
        loop_ = mru.dynamics.hysteresis_loop(cell, click, amplitude=1, speed=speed)
        axis.plot(loop_.drive, loop_.state[:, unit], label=f"speed {speed}", **style.line(number, points=1000))
    axis.set(xlabel="drive: the click input", ylabel="state h", title=title, xticks=[-1, -0.5, 0, 0.5, 1])
style.legend_below(figure, axes[0])
figure

# %% [markdown]
# Because `Counter` says where it `holds`, the measures for latches work on it too. The channel that counts should
# write where the count changes and nowhere else. It does, but for one thing: the learned cap is a little above 8
# clicks, so that a ninth click still moves the state by what is left.

# %%
x, target = clicks(np.random.default_rng(6), 64)
write = np.asarray(mru.dynamics.writes(holding, x)[..., used_here])
counting = np.diff(target, axis=1, prepend=0) > 0  # the clicks that change the count
agree = (write == counting).mean()
print(f"writes where the count changes, and only there: {agree:.1%} of the steps")
print(mru.dynamics.diagnose(holding, x).sentence)
assert write[counting].all()
assert (target[write & ~counting] == CAP).all()
assert agree > 0.97

# %%
found = {}
holding(x[0], capture=found)
states.write_raster(found["write"], inputs=x[0, :, :1], title="Writes of the holding counter; input: the clicks")

# %% [markdown]
# ## Questions to try
#
# 1. Drop only the bias of the plain counter, without a band. How much of the drift is left, and where does it come
#    from?
# 2. Replace `apply` by a counter that wraps around, $h \to (h + a) \bmod m$ for $h \in [0, m)$. What is its
#    composition? What is its derivative, and what could you train with it?
# 3. Is $h \to \max(h + a, b)$ a special case of `Counter`? And `Clamp`? And `Affine`?
# 4. Is $h \to \tanh(w h + x)$ closed under composition? Compose two of them and say why not.
# 5. Swap the two maps in `compose`. Which assertion of this notebook fails first, and which method of `mru.scan` still
#    gives the right states?
# 6. Let the task count up *and* down, with a second kind of click. What must change in the cell?
