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
# # Long sequences
#
# All cells of this library update their state with maps that compose, so all of them run on very long sequences in the
# same few ways. This notebook shows each on a small example: how a scan is computed and what it costs, how several
# sequences share one row, how a sequence without end is streamed, and how one that is too long for a device is split
# over several.
#
# Everything runs on the CPU. For the last part we ask JAX for eight of them, which it makes out of one; that must be
# said before anything is computed. **Times depend on your machine**, and on what else it does: nothing below asserts
# one.

# %%
# %matplotlib inline
import re
import time

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import mru
from mru.plots import style

matplotlib.rcParams.update(style.SETTINGS | {"figure.dpi": 110})

# %% [markdown]
# ## 1. One recurrence, three ways
#
# The states are $h_t = f_t(h_{t-1})$. Take the clamp of the PMRU, $f_t(h) = \min(\max(h, l_t), u_t)$.
#
# **Sequential**: a loop. $T$ steps of work, one after the other; nothing but the state is kept.
#
# **Associative**: compose instead of apply. Put $F_t = f_t \circ f_{t-1} \circ \dots \circ f_1$; then
# $h_t = F_t(h_0)$, and all $F_t$ are found in about $2 \log_2 T$ rounds, each of which composes many pairs at once:
#
# 1. compose neighbours: $g_k = f_{2k} \circ f_{2k-1}$. That is half as many maps.
# 2. find the compositions of *these*, by the same method. They are $F_2, F_4, F_6, \dots$
# 3. fill in the odd ones: $F_{2k+1} = f_{2k+1} \circ F_{2k}$.
#
# The work is $T/2 + T/4 + \dots$ on the way in and as much on the way out: about $2T$ compositions. More work than the
# loop, but hardly any of it has to wait. In ten lines, time being the first axis and $T$ a power of two:


# %%
def compositions(op):
    """F_t for every t, of maps whose fields are (T, N)."""
    if len(op.lo) == 1:
        return op
    first, odd, even = (jax.tree.map(lambda x, at=at: x[at], op) for at in np.s_[:1, 2::2, 1::2])
    before = jax.tree.map(lambda x: x[0::2], op)
    even = compositions(even.compose(before))  # 1. and 2.
    odd = odd.compose(jax.tree.map(lambda x: x[:-1], even))  # 3.
    odd = jax.tree.map(lambda *x: jnp.concatenate(x), first, odd)
    return jax.tree.map(lambda *x: jnp.stack(x, 1).reshape(op.lo.shape), odd, even)


def clamps(time, channels=16, batch=(), seed=0):
    """Random clamps, (*batch, time, channels)."""
    rng = np.random.default_rng(seed)
    centre, radius = rng.normal(size=(2, *batch, time, channels)).astype(np.float32)
    return mru.Clamp(centre - 1 - abs(radius), centre + 1 + abs(radius))


op, h0 = clamps(1024), jnp.zeros(16)
by_hand = compositions(op).apply(h0)
np.testing.assert_array_equal(by_hand, mru.scan(op, h0, method="associative"))
np.testing.assert_array_equal(by_hand, mru.scan(op, h0, method="sequential"))

# %% [markdown]
# The three agree bit for bit, as a clamp only chooses among numbers that are there. Maps that add and multiply round,
# and another order rounds otherwise: for `Affine` the methods agree up to that.

# %%
rng = np.random.default_rng(0)
affine = mru.Affine(*rng.uniform(0.5, 1, size=(2, 1024, 16)).astype(np.float32))
sequential, associative = (mru.scan(affine, h0, method=name) for name in ("sequential", "associative"))
print(f"largest relative difference {np.max(np.abs(sequential / associative - 1)):.1e}")
np.testing.assert_allclose(sequential, associative, rtol=1e-5)

# %% [markdown]
# **Which one?** `method="auto"`, the default, decides when a program is compiled for a platform: the loop on a CPU, one
# kernel on an NVIDIA GPU (a loop too, but with the state in registers and the time axis cut into chunks), the
# associative form elsewhere. Here that is the loop, and the compiled programs show it.

# %%
programs = {
    name: jax.jit(lambda op, h0, name=name: mru.scan(op, h0, method=name)).lower(op, h0).compile().as_text()
    for name in ("auto", "sequential", "associative")
}
loops = {name: len(re.findall(r"= .* while\(", text)) for name, text in programs.items()}
print("loops in the compiled program:", loops)
assert loops == {"auto": 1, "sequential": 1, "associative": 0}

# %% [markdown]
# ## 2. Cost and memory against T
#
# We measure a forward and backward pass, the time and the **temporary memory**: what a compiled program needs beside
# its inputs and results. The compiler knows it before anything has run.


# %%
def gradient(method):
    """The compiled gradient of a scan in all fields of its operator."""
    return jax.jit(jax.grad(lambda op, h0: jnp.square(mru.scan(op, h0, method=method)).sum()))


def measured(method, op, h0, repeats=5):
    """Milliseconds, the least of a few runs, temporary MiB, and the gradient."""
    program = gradient(method).lower(op, h0).compile()
    result, took = jax.block_until_ready(program(op, h0)), []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(program(op, h0))
        took.append(1000 * (time.perf_counter() - began))
    return min(took), program.memory_analysis().temp_size_in_bytes / 2**20, result


LENGTHS = [2**k for k in (9, 12, 15)]
cost = {"sequential": [], "associative": []}
for length in LENGTHS:
    op, h0 = clamps(length, batch=(4,)), jnp.zeros((4, 16))
    results = []
    for method, rows in cost.items():
        *row, result = measured(method, op, h0)
        rows.append(row)
        results.append(result)
    for ours, theirs in zip(*map(jax.tree.leaves, results)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
for method, rows in cost.items():
    for length, (milliseconds, mebibytes) in zip(LENGTHS, rows):
        print(f"{method:12} T = {length:6}: {milliseconds:7.2f} ms, {mebibytes:7.2f} MiB")

# %%
figure, axes = style.panels(style.PAGE, 2.5, columns=2)
for axis, which, title in zip(axes, (0, 1), ("milliseconds", "temporary memory (MiB)")):
    for number, (method, rows) in enumerate(cost.items()):
        axis.plot(LENGTHS, np.array(rows)[:, which], label=method, **style.line(number, points=len(LENGTHS)))
    style.logarithmic(axis, "x")
    style.logarithmic(axis, "y")
    axis.set(xlabel="sequence length T", ylabel=title)
figure.suptitle("a clamp, 4 sequences of 16 channels, forward and backward")
style.legend_below(figure, axes[0])
figure

# %% [markdown]
# Both are linear in $T$, in time and in memory. Where this was written, on two CPU cores, the loop is two to four
# times as fast: it does half of the work, and there is hardly any parallel hardware for the other one to use. Its
# memory is that of the states, which the backward pass needs. On a GPU a plain loop is slow, as each step waits for the
# one before it; there the associative form is better, and the kernel better than both (README has the figures).

# %%
for rows in cost.values():
    memory = np.array(rows)[:, 1]
    np.testing.assert_allclose(memory[2] / memory[0], LENGTHS[2] / LENGTHS[0], rtol=0.25)
assert all(ours[1] < theirs[1] for ours, theirs in zip(cost["sequential"], cost["associative"]))

# %% [markdown]
# ## 3. Packing: several sequences in one row
#
# Sequences of 300 and 700 steps can be padded to 700 each, which wastes 400, or laid one behind the other in a row of
# 1,000. Then the state must start afresh where the second one begins. `reset` says where: the state *before* that step
# becomes the initial state.
#
# With maps this is simple: $f_t$ is replaced by the map that ignores its argument, $h \to f_t(h_{\text{start}})$. A
# constant map composes like any other, so the scan stays a scan.

# %%
cell = mru.cells.LRU(features=8, state_size=16, rngs=nnx.Rngs(0))
short, long = (jnp.asarray(rng.normal(size=(n, 8)), jnp.float32) for n in (300, 700))
row = jnp.concatenate([short, long])
starts = jnp.arange(1000) == 300

packed, last = cell(row, reset=starts)
np.testing.assert_allclose(packed[:300], cell(short)[0], atol=1e-5)
np.testing.assert_allclose(packed[300:], cell(long)[0], atol=1e-5)
np.testing.assert_allclose(last, cell(long)[1], atol=1e-5)

# %% [markdown]
# It is tempting to reset an affine map $h \to a h + b$ by setting $a = 0$: multiply the past by zero. That works until
# the past holds a `NaN` or an infinity, since $0 \cdot \mathrm{NaN} = \mathrm{NaN}$. Then one broken sequence breaks
# those behind it in its row. The library *selects* the initial state and multiplies nothing.

# %%
broken = row.at[100].set(jnp.nan)
y, _ = cell(broken, reset=starts)
assert jnp.isnan(y[100:300]).all()
np.testing.assert_array_equal(y[300:], packed[300:])

op = cell.operator(broken)
by_zero = mru.Affine(jnp.where(starts[:, None], 0, op.a), op.b)
assert jnp.isnan(mru.scan(by_zero)[300:]).all()

# %% [markdown]
# ## 4. Streaming: a sequence without end
#
# A recurrent model needs nothing of the past but its state. So a sequence can come step by step, or in chunks of any
# length, with the state carried along: the same numbers. Here with a whole model, an LRU and a PMRU.

# %%
model = mru.SequenceModel(4, 2, cells=["lru", "pmru"], width=16, state_size=16, pooling="last", rngs=nnx.Rngs(0))
graphdef, variables = nnx.split(model)
run = jax.jit(lambda variables, x, state: nnx.merge(graphdef, variables)(x, state))
step = jax.jit(lambda variables, x, state: nnx.merge(graphdef, variables).step(x, state))

x = jnp.asarray(rng.normal(size=(300, 4)), jnp.float32)
whole, end = run(variables, x, model.initial_state())

state = model.initial_state()
for t in range(300):
    logits, state = step(variables, x[t], state)
np.testing.assert_allclose(logits, whole, atol=1e-5)

state = model.initial_state()
for chunk in jnp.split(x, [100, 107, 250]):
    logits, state = run(variables, chunk, state)
np.testing.assert_allclose(logits, whole, atol=1e-5)
for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(end)):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

# %% [markdown]
# A million steps, then, are a hundred chunks of 10,000. We make each chunk when it is due, so that the whole sequence
# never exists. What is alive between two chunks is the state, a few hundred bytes, however long it has been going.

# %%
CHUNK, CHUNKS = 10_000, 100


def chunk_of(number):
    """The steps from 10,000 times `number` on."""
    return np.random.default_rng(number).standard_normal((CHUNK, 4), np.float32)


def bytes_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


alive, state, began = [], model.initial_state(), time.perf_counter()
for number in range(CHUNKS):
    logits, state = run(variables, chunk_of(number), state)
    alive.append(bytes_of(state))
seconds = time.perf_counter() - began
print(
    f"{int(state.position):,} steps in {seconds:.1f} s; the state has {alive[0]} bytes at first and {alive[-1]} at last"
)
assert int(state.position) == 1_000_000
assert set(alive) == {alive[0]}

# %% [markdown]
# And in one call? `lower` and `compile` take shapes instead of arrays, so that the compiler can say what a call *would*
# need, without making it.


# %%
def temporary(length):
    """Temporary memory of a call on so many steps, in MiB."""
    x = jax.ShapeDtypeStruct((length, 4), jnp.float32)
    program = run.lower(variables, x, model.initial_state()).compile()
    return program.memory_analysis().temp_size_in_bytes / 2**20


sizes = [10_000, 100_000, 1_000_000]
needs = [temporary(size) for size in sizes]
for size, need in zip(sizes, needs):
    print(f"one call on {size:9,} steps needs {need:7.1f} MiB, chunks of {CHUNK:,} need {needs[0]:.1f} MiB")
np.testing.assert_allclose(needs[2] / needs[0], 100, rtol=0.1)

# %% [markdown]
# The chunks are the same computation. The first five of them against one call:

# %%
state = model.initial_state()
for number in range(5):
    logits, state = run(variables, chunk_of(number), state)
once, _ = run(variables, np.concatenate([chunk_of(number) for number in range(5)]), model.initial_state())
np.testing.assert_allclose(logits, once, atol=1e-4)

# %% [markdown]
# This is for *running* a model. Training wants the gradient through all steps, and the backward pass needs the states
# of all of them. When these no longer fit into one device, take several.
#
# ## 5. Time spread over devices
#
# Cut the time axis in eight and give each device its part. Device $k$ can not scan before it knows the state at which
# its part begins, and that seems to need all the devices before it. But maps compose:
#
# 1. Each device composes all maps of its part to one: $F^{(k)}$. It needs nobody for this.
# 2. All devices tell each other their $F^{(k)}$: one map each, whatever $T$ is.
# 3. Each applies those before its own to $h_0$, has its first state, and scans its part.
#
# By hand, in a loop over the "devices":

# %%
op, h0, parts = clamps(1024), jnp.zeros(16), 8
pieces = [jax.tree.map(lambda x, k=k: jnp.split(x, parts)[k], op) for k in range(parts)]
wholes = [jax.tree.map(lambda x: x[-1], compositions(piece)) for piece in pieces]  # 1.
first = [h0]
for whole in wholes[:-1]:  # 2. and 3.
    first.append(whole.apply(first[-1]))
by_hand = jnp.concatenate([mru.scan(piece, h) for piece, h in zip(pieces, first)])
np.testing.assert_array_equal(by_hand, mru.scan(op, h0))

# %% [markdown]
# In the library it is the same call: a mesh with an axis called `seq`, and inputs that lie on it. The numbers are
# those of one device, gradients included.

# %%
mesh = jax.make_mesh((8,), ("seq",), axis_types=(jax.sharding.AxisType.Auto,))
spread = NamedSharding(mesh, P("seq"))  # the first axis, time


def loss(op, h0):
    h = mru.scan(op, h0)
    return jnp.square(h).sum(), h


both = jax.grad(loss, has_aux=True)
expected, states = both(op, h0)
with jax.set_mesh(mesh):
    found, sharded = jax.jit(both)(jax.device_put(op, spread), h0)
print(f"{len(sharded.sharding.device_set)} devices, each with {sharded.addressable_shards[0].data.shape[0]} steps")
assert sharded.addressable_shards[0].data.shape == (1024 // 8, 16)
np.testing.assert_array_equal(sharded, states)
for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)

# %% [markdown]
# What goes over the wires stands in the compiled program: its collective operations and the shapes of their results. We
# count the bytes, for longer and longer sequences. By step 2 each device gets the two fields of one clamp of each of
# the 8 devices, for 16 channels of 4 bytes: $2 \cdot 8 \cdot 16 \cdot 4 = 1024$ bytes. The backward pass does the same
# with affine maps, which have two fields as well. So it should be 2,048 bytes, whatever $T$ is.

# %%
COLLECTIVE = r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
WIDTHS = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}


def communicated(length):
    """Bytes that the collective operations of a forward and backward pass return on each device."""
    shape = jax.ShapeDtypeStruct((length, 16), jnp.float32, sharding=spread)
    with jax.set_mesh(mesh):
        text = jax.jit(both).lower(mru.Clamp(shape, shape), h0).compile().as_text()
    shapes = [found for result, _ in re.findall(COLLECTIVE, text) for found in re.findall(r"(\w+)\[([\d,]*)\]", result)]
    return sum(WIDTHS[kind] * int(np.prod([int(n) for n in axes.split(",") if n])) for kind, axes in shapes)


traffic = {length: communicated(length) for length in (1024, 8192, 65536)}
for length, count in traffic.items():
    print(f"T = {length:6,}: {count:,} bytes communicated, of {2 * 4 * 16 * length:,} bytes of data")
assert set(traffic.values()) == {2 * 2 * 8 * 16 * 4}

# %%
figure, (left, right) = style.panels(style.PAGE, 2.5, columns=2)
left.plot(sizes, needs, label="one call", **style.line(0, points=3))
left.plot(sizes, [needs[0]] * 3, label="chunks of 10,000", **style.line(1, points=3))
left.set(xlabel="sequence length T", ylabel="temporary memory (MiB)", title="streaming a model")
data = [2 * 4 * 16 * length / 2**10 for length in traffic]
right.plot(list(traffic), data, label="data", **style.line(0, points=3))
right.plot(
    list(traffic), [count / 2**10 for count in traffic.values()], label="communicated", **style.line(1, points=3)
)
right.set(xlabel="sequence length T", ylabel="KiB", title="a scan over 8 devices")
for axis in (left, right):
    style.logarithmic(axis, "x")
    style.logarithmic(axis, "y")
    axis.legend()
figure

# %% [markdown]
# Eight devices made of one CPU are not faster than one. On real ones each does an eighth of the work, and twice of it:
# once to compose its part, once to scan it. `configs/copy_first/pmru_16m.yaml` trains on 16,777,216 steps in this way.

# %% [markdown]
# ## Questions to try
#
# 1. Measure `Affine` with a constant `a` of shape (channels,) in place of the clamp. What does each method gain by it?
# 2. Write the scan that makes $\log_2 T$ rounds and composes $T$ pairs in each (each map with the one 1, 2, 4, ...
#    steps before it). How much work is that? When would you still want it?
# 3. Pack three sequences into a row of the *model*, `model(x, reset=...)`, with `pooling="none"`, and compare.
# 4. Which chunk length streams fastest on your machine? Why is it not 1, and why not a million?
# 5. How many bytes would a mesh of 8 devices communicate for `Affine` with complex numbers? And for a 2x2 block a
#    channel? Check it.
# 6. A reset at the first step of device 5: what does device 5 need from the others, and does it still get it?
