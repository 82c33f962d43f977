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
# # Fading and persistent memory
#
# Two families of units remember in two ways. **Linear recurrences and state-space models** (here LRU, S5 and minGRU)
# let every input fade a little at each step. **Memory recurrent units** (here BMRU and PMRU) hold what they wrote
# exactly, until they write again. This notebook measures the difference, on cells as they are initialised: how fast
# the first forget, how long the second hold, how many things each can tell apart in the end, and what becomes of each
# when a state has 8 significant bits instead of 24.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import nnx

import mru
from mru.plots import states, style

matplotlib.rcParams.update(style.SETTINGS | {"figure.dpi": 110})

NAMES = {"LRU": "lru", "S5": "s5", "minGRU": "mingru", "BMRU": "bmru", "PMRU": "pmru"}
CELLS = {label: mru.cells.get(name)(features=1, state_size=16, rngs=nnx.Rngs(0)) for label, name in NAMES.items()}
noise = np.random.default_rng(0).normal(size=(2000, 1)).astype(np.float32)  # (time, features)

# %% [markdown]
# ## 1. How fast a state fades
#
# The first three cells have an affine update, one number $a$ a channel and step:
#
# $$h_t = a_t\,h_{t-1} + b_t.$$
#
# Start it twice, in $h_0$ and in $h_0'$, and give both the same inputs. The $b_t$ drop out of the difference:
#
# $$|h_t - h_t'| = |a_t|\,|a_{t-1}| \cdots |a_1|\;|h_0 - h_0'|.$$
#
# With a constant $|a| < 1$ this is $|a|^t$, which is $1/e$ after about $\tau = 1/(1-|a|)$ steps, the **time
# constant**. After ten time constants less than a twenty-thousandth is left. There is no way around it: with $|a| <
# 1$ the past fades, with $|a| > 1$ it explodes.
#
# In the LRU $a = \lambda$ is a learned complex number. We run the cell twice and compare with $|\lambda|^t$.

# %%
lru = CELLS["LRU"]
here, there = {}, {}
lru(noise, jnp.zeros(16, jnp.complex64), capture=here)
lru(noise, jnp.ones(16, jnp.complex64), capture=there)
difference = np.abs(here["state"] - there["state"])

size = np.abs(np.asarray(lru.eigenvalues(), np.complex128))
t = np.arange(1, 101)[:, None]
np.testing.assert_allclose(difference[:100], size**t, rtol=1e-3, atol=1e-5)
np.testing.assert_allclose(mru.dynamics.time_constants(lru), 1 / (1 - size), rtol=1e-3)

# %% [markdown]
# In the minGRU $a_t = 1 - z_t$ is a gate that depends on the input. Its time constant is then measured from data,
# with the geometric mean of $|a_t|$: the power of it that is left after $n$ steps of this data. By hand:

# %%
mingru = CELLS["minGRU"]
kept = 1 - nnx.sigmoid(mingru.gate(noise))  # (time, channels)
mean = np.exp(np.log(np.asarray(kept, float)).mean(0))
np.testing.assert_allclose(mru.dynamics.time_constants(mingru, noise), 1 / (1 - mean), rtol=1e-4)

# %%
wide = {label: mru.cells.get(NAMES[label])(1, 128, rngs=nnx.Rngs(0)) for label in ("LRU", "S5", "minGRU")}
constants = {label: np.asarray(mru.dynamics.time_constants(cell, noise)) for label, cell in wide.items()}
for label, tau in constants.items():
    print(f"{label:7} time constants from {tau.min():.1f} to {tau.max():.0f} steps")
states.time_constants(constants, title="Affine cells as they are initialised")

# %% [markdown]
# The initialisations are a choice of what to remember: S5 starts with 20 to 2,000 steps, LRU with 10 to 750, and
# minGRU, whose gates start half open, forgets in about two. Training moves them, but never to infinity.
#
# A latch has no time constant. Asked for one, the library says so:

# %%
for label, ends in {"LRU": (10, 750), "S5": (20, 2000)}.items():
    np.testing.assert_allclose([constants[label].min(), constants[label].max()], ends, rtol=0.05)
assert constants["minGRU"].max() < 3
try:
    mru.dynamics.time_constants(CELLS["BMRU"])
except ValueError as error:
    print(error)

# %% [markdown]
# How long a latch holds is decided by its input, at each step anew: a run of holds ends when the input leaves the
# band. `mru.dynamics.writes` says when a cell writes, and `hold_times` how long it holds between two writes. Here
# with noise as the input, which is the hardest case, as each step has its chance to end a hold:

# %%
write = {label: np.asarray(mru.dynamics.writes(CELLS[label], noise)) for label in ("BMRU", "PMRU")}

bmru = CELLS["BMRU"]
np.testing.assert_array_equal(write["BMRU"], np.abs(bmru.candidate(noise)) >= np.abs(bmru.threshold(noise)))

states.hold_times({label: mru.dynamics.hold_times(w) for label, w in write.items()}, title="Noise as the input")

# %% [markdown]
# ## 2. Retention to a million steps
#
# Bring a cell into two different states, by two different histories. Then give both the same input, for a very long
# time. How far are they apart? This is what is left of the histories, as nothing else differs.
#
# A million steps of 16 channels need not be in memory: only the state is carried from one part of the sequence to the
# next. So a function of ten lines goes as far as we like, in the memory of 1,000 steps.


# %%
def onward(cell, state, parts):
    """The state after `parts` times 1,000 steps without input."""
    silence = jnp.zeros((*jax.tree.leaves(state)[0].shape[:-1], 1000, 1))
    return jax.lax.fori_loop(0, parts, lambda _, h: cell(silence, h)[1], state)


def apart(pair):
    """Distance of the two states of a pair (2, channels)."""
    return np.sqrt(np.sum(np.abs(np.asarray(pair[0]) - np.asarray(pair[1])) ** 2))


histories = 2 * np.random.default_rng(1).normal(size=(2, 200, 1)).astype(np.float32)
histories[:, -1] = 0  # the first silent step: it brings the band of each play to where it stays
pairs = {label: cell(histories)[1] for label, cell in CELLS.items()}

# %%
print("         0 steps   1,000 steps   1,000,000 steps")
for label, cell in CELLS.items():
    after = [apart(pairs[label]), *(apart(onward(cell, pairs[label], parts)) for parts in (1, 1000))]
    print(f"{label:7}{after[0]:9.4f}{after[1]:14.4g}{after[2]:18.4g}")
    if label in ("BMRU", "PMRU"):
        assert after[0] == after[1] == after[2] > 0
    else:
        assert after[0] > after[1] >= after[2] == 0

# %% [markdown]
# BMRU and PMRU are as far apart after a million steps as before the first. Not approximately: the bits are the same.
# Of LRU, S5 and minGRU nothing is left at all, float32 has no number that small. The closed form agrees at 1,000
# steps: the difference of the LRU's two states is $|\lambda|^{1000}$ times what it was.

# %%
start, end = np.asarray(pairs["LRU"], np.complex128), onward(lru, pairs["LRU"], 1)
closed = np.linalg.norm(np.asarray(lru.eigenvalues(), np.complex128) ** 1000 * (start[0] - start[1]))
np.testing.assert_allclose(apart(end), closed, rtol=0.05)  # float32 rounds a thousand times

temporary = [
    jax.jit(lambda h, parts=parts: onward(lru, h, parts)).lower(pairs["LRU"]).compile().memory_analysis()
    for parts in (10, 1000)
]
assert temporary[0].temp_size_in_bytes == temporary[1].temp_size_in_bytes
print(f"memory for 10,000 or for 1,000,000 steps: {temporary[1].temp_size_in_bytes / 1024:.0f} KiB")

# %% [markdown]
# Silence is the easy case. A latch holds **as long as its input writes nothing**; and an untrained one has no idea
# which inputs matter. So we measure with noise too, both states of a pair getting the same. `mru.dynamics.retention`
# does what `onward` did, for many pairs.

# %%
LENGTHS = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]
LEVELS = {"no input": 0.0, "noise of deviation 0.1": 0.1, "noise of deviation 1": 1.0}
retained = {
    (label, sigma): np.asarray(mru.dynamics.retention(cell, LENGTHS, noise=sigma, pairs=4)).mean(1)
    for label, cell in CELLS.items()
    for sigma in LEVELS.values()
}

# %%
figure, axes = style.panels(style.PAGE, 2.9, columns=3, sharey=True)
for axis, (title, sigma) in zip(axes, LEVELS.items()):
    for number, label in enumerate(CELLS):
        kept = retained[label, sigma] / retained[label, sigma][0]
        axis.plot(LENGTHS, kept, label=label, **style.line(number, len(LENGTHS)))
    style.logarithmic(axis, "x")
    axis.set(xlabel="steps", title=title, ylim=(-0.03, 1.08))
axes[0].set_ylabel("distance, relative to that after 1 step")
style.legend_below(figure, axes[0])
figure

# %% [markdown]
# Without input nothing of BMRU and PMRU is lost, and everything of the others. In weak noise the most sensitive
# channels of the two are overwritten sooner or later; after a million steps 29 % of the BMRU's distance are left, and
# 63 % of the PMRU's, and nothing of the others. In noise half as strong as the inputs of the histories, an
# **untrained** BMRU has forgotten everything within ten steps, and a PMRU more than nine tenths of it: faster than
# LRU and S5.
#
# What an MRU brings is not memory by itself but the *possibility* to hold. Training has to find weights that write
# what matters and hold during the rest. That it can is shown by `configs/copy_first`, where a trained PMRU keeps a
# number over a million steps of just such noise.

# %%
for label in ("BMRU", "PMRU"):
    assert (retained[label, 0.0] == retained[label, 0.0][0]).all()
left = {label: retained[label, 0.1][-1] / retained[label, 0.1][0] for label in CELLS}
np.testing.assert_allclose([left["BMRU"], left["PMRU"]], [0.29, 0.63], atol=0.01)
assert left["LRU"] == left["S5"] == left["minGRU"] == 0
assert retained["BMRU", 1.0][1] == 0
assert retained["PMRU", 1.0][1] < 0.1 * retained["PMRU", 1.0][0]
assert retained["LRU", 1.0][1] > 0.5 * retained["LRU", 1.0][0]

# %% [markdown]
# ## 3. How many things can be told apart in the end
#
# Give a cell 64 different sequences, and then silence until nothing moves any more. In how many different states does
# it end? This number of **reachable attractors** (the measure VAA of Lambrechts et al. 2023, there divided by the
# size of the batch) is 1 for whatever fades: it ends in the same state, whatever it has seen.

# %%
sequences = 2 * np.random.default_rng(2).normal(size=(64, 200, 1)).astype(np.float32)
ends = {label: round(mru.dynamics.attractors(cell, sequences), 3) for label, cell in CELLS.items()}
print(ends)
assert ends["LRU"] == ends["S5"] == ends["minGRU"] == 1
assert ends["PMRU"] == 64

_, last = bmru(sequences)
assert ends["BMRU"] == len(np.unique(np.asarray(last), axis=0))  # one bit a channel: what there is, is counted

# %% [markdown]
# The PMRU keeps all 64 apart. The BMRU has $2^{16}$ states in principle, but this one reaches few of them: all its
# channels read the same one input, so they tend to write at the same steps.
#
# ## 4. What bfloat16 does
#
# Half-size floating-point numbers make training cheaper. bfloat16 keeps the range of float32, but of its 24
# significant bits only 8: between 1 and 2 its numbers are 1/128 apart. (This library always keeps states in float32,
# for the reasons that follow.) Let us keep the state in bfloat16 by hand: compute each step in float32, then round
# the state.


# %%
def bfloat16(h):
    """Round to a number that bfloat16 has; of a complex one both parts."""
    if jnp.iscomplexobj(h):
        return jax.lax.complex(bfloat16(h.real), bfloat16(h.imag))
    return jax.lax.reduce_precision(h, exponent_bits=8, mantissa_bits=7)  # compilers may drop a cast to and fro


def rounded_states(cell, x, state=None):
    """All states, each rounded before the next step."""

    def one(h, x_t):
        _, h = cell.step(x_t, h)
        h = bfloat16(h)
        return h, h

    return jax.lax.scan(one, cell.initial_state() if state is None else state, x)[1]


# %% [markdown]
# **A leak stalls.** Take $h \leftarrow a h + (1-a) x$, a running mean of the input, and give it $x = 1$ from $h = 0$.
# It should come to 1. But a step moves $h$ by $(1-a)(1-h)$ only, and if that is less than half of the distance to the
# next number, rounding takes it back. At $a = 0.999$ the step is $0.001\,(1-h)$. From $h = 0.25$ on, the numbers are
# $2^{-9} \approx 0.002$ apart, half of that is more than the step, and so the mean of a thousand ones is 0.25. For
# the same reason a state with $a = 0.999$ that should fade from 1 to 0 does not fade at all: $0.999$ rounds to $1$.


# %%
def leak(a, x, h, round_it):
    """h -> a h + (1 - a) x for constant x, 3,000 steps."""
    kept = []
    for _ in range(3000):
        h = np.float32(a) * h + np.float32(1 - a) * np.float32(x)
        h = h.astype(jnp.bfloat16).astype(np.float32) if round_it else h
        kept.append(h)
    return np.array(kept)


risen = {(a, r): leak(a, 1, np.float32(0), r) for a in (0.9, 0.99, 0.999) for r in (False, True)}
faded = {(a, r): leak(a, 0, np.float32(1), r) for a in (0.9, 0.99, 0.999) for r in (False, True)}

assert risen[0.999, True][-1] == 0.25
assert risen[0.999, False][-1] > 0.94
assert (faded[0.999, True] == 1).all()  # a time constant of 1,000 has become infinite
assert faded[0.999, False][-1] < 0.06

# %%
figure, axes = style.panels(style.PAGE, 2.7, columns=2, sharey=True)
for axis, found, title in zip(axes, (risen, faded), ("should rise to 1", "should fade to 0")):
    for number, a in enumerate((0.9, 0.99, 0.999)):
        axis.plot(
            found[a, False], color=style.PALETTE[number], linewidth=0.9, linestyle="--", label=f"float32, a = {a}"
        )
        axis.plot(found[a, True], color=style.PALETTE[number], linewidth=1.8, label=f"bfloat16, a = {a}")
    axis.set(xlabel="step", title=title)
axes[0].set_ylabel("state h")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
figure

# %% [markdown]
# **A latch does not notice.** What it writes, $\pm 1$, is a number that bfloat16 has, and holding is no arithmetic.
#
# **A play rounds its bounds, and that is all.** Rounding keeps the order of numbers: if $u \le v$ then $R(u) \le
# R(v)$. A clip only compares, so it does not matter whether we clip and then round, or round everything and then
# clip:
#
# $$R\big(\operatorname{clip}(h, l, u)\big) = \operatorname{clip}\big(R(h), R(l), R(u)\big).$$
#
# Step by step this means: the bfloat16 state is the rounded float32 state, at *every* step. The error never adds up;
# it is at most half a unit of the last bit, after a million steps as after one. In an affine cell every step adds an
# error of its own, and these last as long as the memory: the longer the time constant, the worse.

# %%
exact, error = {}, {}
for label, cell in CELLS.items():
    found = {}
    cell(noise, capture=found)
    exact[label] = found["state"]
    rounded = rounded_states(cell, noise)
    error[label] = np.abs(rounded - exact[label]).mean(1) / np.abs(exact[label]).mean()
    if label in ("BMRU", "PMRU"):
        np.testing.assert_array_equal(rounded, bfloat16(exact[label]))
print({label: f"{values[-500:].mean():.2%}" for label, values in error.items()})
assert (error["BMRU"] == 0).all()
assert error["S5"][-500:].mean() > 5 * error["PMRU"][-500:].mean()

# %%
figure, (axis,) = style.panels(4.6, 2.9)
for number, (label, values) in enumerate(error.items()):
    if label != "BMRU":
        smooth = np.convolve(values, np.ones(50) / 50, "valid")
        axis.plot(np.arange(len(smooth)) + 50, smooth, label=label, **style.line(number, len(smooth)))
axis.set(xlabel="step", ylabel="error, relative to the mean state", title="State kept in bfloat16 (BMRU: 0)")
style.logarithmic(axis, "y")
style.legend_below(figure, axis)
figure

# %% [markdown]
# ## In short
#
# | | LRU, S5, minGRU | BMRU, PMRU |
# |---|---|---|
# | how long | time constants, chosen by the weights | until the input leaves the band |
# | after a million silent steps | nothing | everything, bit for bit |
# | attractors | 1 | two a channel; a continuum |
# | sums and means | yes, that is what they do | no |
# | state in bfloat16 | stalls and drifts | exact; rounded once |
#
# The fourth row is why one does not replace the other: a latch can not add. Notebook 04 stacks the two.

# %% [markdown]
# ## Questions to try
#
# 1. Give the LRU `r_max=0.99999` and `r_min=0.9999`. What are its time constants, and what is left after a million
#    steps? What does bfloat16 make of it?
# 2. Set the threshold bias of the BMRU to 3, `bmru.threshold.bias[...] = jnp.full(16, 3.0)`. What happens to its hold
#    times, and to its retention in noise? What does it pay for this?
# 3. Give the BMRU 4 inputs instead of 1. How many attractors does it reach now?
# 4. Round the state of a leak *at random*, up or down with probabilities that make it right on average (stochastic
#    rounding). Does it still stall?
# 5. float16 has 11 significant bits but a smaller range: `exponent_bits=5, mantissa_bits=10`. At which value does the
#    leak with $a = 0.999$ stall? Work it out before you run it.
# 6. Which of these cells would you take to count the ones in a sequence? And to remember whether there was one?
