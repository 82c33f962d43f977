"""Run by `test_sharded` on eight fake devices: prints, as JSON, how sharded scans compare with plain ones."""

import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import own_operators
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mru import Affine, Clamp, Latch, Play, Relay, cells, scan

BATCH, TIME, CHANNELS = 2, 32, 3
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def complex_normal(*shape):
    return normal(*shape) + 1j * normal(*shape)


OPERATORS = {
    "affine": lambda *s: Affine(np.tanh(normal(*s)), normal(*s)),
    "complex affine": lambda *s: Affine(0.7 * np.exp(1j * normal(*s)).astype(np.complex64), complex_normal(*s)),
    "constant a": lambda *s: Affine(np.tanh(normal(CHANNELS)), normal(*s)),
    "latch": lambda *s: Latch((rng.random(s) < 0.2).astype(np.float32), normal(*s)),
    "clamp": lambda *s: Clamp(normal(*s) - 2, normal(*s) + 2),
    "relay": lambda *s: Relay(normal(*s), abs(normal(*s)) + 0.5),
    "leaky relay": lambda *s: Relay(normal(*s), abs(normal(*s)) + 0.5, 0.7, 1.3),
    "play": lambda *s: Play(normal(*s), normal(*s)),
}


def mesh(kind=AxisType.Auto, **axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes))


def gradients(op, h0, start, weight, reset, reverse, method):
    """The gradients in (op, h0, reset_state), and the states."""

    def loss(op, h0, start):
        h = scan(op, h0, reset=reset, reset_state=start, reverse=reverse, method=method)
        return (weight * h).real.sum(), h

    return jax.grad(loss, (0, 1, 2), has_aux=True)(op, h0, start)


def error(ours, theirs):
    """The largest difference, of the largest value of each array."""
    pairs = [
        (np.asarray(a), np.asarray(b)) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    ]
    return max(float(abs(a - b).max() / max(1, abs(b).max())) for a, b in pairs)


# (resets, direction, method, mesh). Compiling is most of the time here: of two operators that share a lowering or a way
# to be constant in time, each is run in one half of the settings. A half has few cases of (resets, direction), as each
# needs a program of one device.
HALVES = [
    [
        (False, False, "sequential", "seq"),
        (False, True, "associative", "seq"),
        (True, True, "sequential", "data and seq"),
    ],
    [
        (True, False, "auto", "seq"),
        (True, False, "associative", "data and seq"),
        (True, False, "pallas", "data and seq"),
    ],
]
PAIRS = [("affine", "complex affine"), ("leaky relay", "constant a"), ("latch", "relay"), ("clamp", "play")]
HALF = {name: half for pair in PAIRS for name, half in zip(pair, HALVES, strict=True)}


def compare(name, time, meshes):
    """For each setting of the operator: the error, and how many steps of the states lie on one device."""
    draw = complex_normal if "complex" in name else normal
    op, h0, start = OPERATORS[name](BATCH, time, CHANNELS), draw(BATCH, CHANNELS), draw(BATCH, CHANNELS)
    weight = draw(BATCH, time, CHANNELS)
    reset = rng.random((BATCH, time)) < 0.1
    reset[1, 8], reset[0] = True, False  # one at the first step of a device's part, and a sequence without any
    args, plain = (op, h0, start, weight), {}
    for resets, reverse, method, where in HALF[name]:

        def run(*args, reset=reset if resets else None, reverse=reverse, method=method):
            return gradients(*args, reset, reverse, method)

        spec, case = P("data" if "data" in where else None, "seq"), (resets, reverse)
        if case not in plain:  # of one method, as compiling is most of the time here
            plain[case] = jax.jit(functools.partial(run, method="sequential"))(*args)
        expected = plain[case]
        lay = NamedSharding(meshes[where], spec), NamedSharding(meshes[where], P())
        placed = jax.tree.map(lambda x, lay=lay: jax.device_put(x, lay[0 if np.ndim(x) == 3 else 1]), args)
        with jax.set_mesh(meshes[where]):
            ours = jax.jit(run)(*placed)
        key = f"{name}, {where}, {'reset' if resets else 'plain'}, {'reverse' if reverse else 'forward'}, {method}"
        yield key, error(ours, expected), ours[1].addressable_shards[0].data.shape[1]


def of_own_operators(name, reverse, settings, meshes):
    """The errors of states and gradients of an operator that no kernel runs, by some (method, mesh)."""
    op, _ = own_operators.draw(name, rng, (BATCH,), TIME, CHANNELS)
    h0, start = (own_operators.state(name, rng, BATCH, CHANNELS) for _ in range(2))
    leaves, tree = jax.tree.flatten(op)
    whole = [x.dtype != np.float32 for x in leaves]
    reset = rng.random((BATCH, TIME)) < 0.1
    expected = None
    for method, where in settings:

        def loss(moving, h0, start, method=method):
            given = iter(moving)
            op = tree.unflatten([x if i else next(given) for i, x in zip(whole, leaves, strict=True)])
            h = scan(op, h0, reset=reset, reset_state=start, reverse=reverse, method=method)
            return sum(jnp.sin(x).sum() for x in jax.tree.leaves(h)), h

        run = jax.grad(loss, (0, 1, 2), has_aux=True)
        args = [x for i, x in zip(whole, leaves, strict=True) if not i], h0, start
        expected = expected or jax.jit(run)(*args)
        with jax.set_mesh(meshes[where]):
            yield (
                f"{name}, {where}, {'reverse' if reverse else 'forward'}, {method}",
                error(jax.jit(run)(*args), expected),
            )


def collectives(name, time, mesh):
    """Bytes that each kind of collective returns, in a forward and backward pass with resets."""
    draw = complex_normal if "complex" in name else normal
    args = (
        OPERATORS[name](BATCH, time, CHANNELS),
        *(draw(*s) for s in ((BATCH, CHANNELS),) * 2),
        draw(BATCH, time, CHANNELS),
    )
    args = (*args, rng.random((BATCH, time)) < 0.1)

    def sharding(x):
        return NamedSharding(mesh, P(None, "seq") if np.ndim(x) >= 2 and np.shape(x)[1] == time else P())

    def run(*args):
        results = gradients(*args, False, "sequential")
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding(x)), results)

    with jax.set_mesh(mesh):
        placed = jax.tree.map(lambda x: jax.device_put(x, sharding(x)), args)
        program = jax.jit(run).lower(*placed).compile().as_text()
    sizes, found = {"f32": 4, "c64": 8, "pred": 1, "s32": 4, "u32": 4}, {}
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    for result, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
            found[kind] = found.get(kind, 0) + sizes[dtype] * int(np.prod([int(n) for n in shape.split(",") if n]))
    return found


def collectives_of_the_kernel_over_the_batch():
    """How many collectives a kernel takes where each device holds whole sequences."""
    op, halves = OPERATORS["affine"](BATCH, TIME, CHANNELS), mesh(data=2)
    with jax.set_mesh(halves):
        placed = jax.device_put(op, NamedSharding(halves, P("data")))
        program = jax.jit(functools.partial(scan, method="pallas")).lower(placed).compile().as_text()
    return len(re.findall(r"(?:all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(", program))


def inside_shard_maps(cases):
    """The error of the gradient where the caller maps over the devices and leaves the initial state out."""
    op = OPERATORS["affine"](BATCH, TIME, CHANNELS)

    def gradient(f):
        return jax.jit(jax.grad(lambda op: jnp.sin(f(op)).sum()))(op)

    expected = gradient(scan)
    for mesh, spec, options in cases:
        yield error(gradient(jax.shard_map(scan, mesh=mesh, in_specs=spec, out_specs=spec, **options)), expected)


def with_explicit_axes(cases):
    """The error of the gradient on a mesh whose axes are part of the types, with the arrays laid out as `spec` says."""
    op, reset = OPERATORS["constant a"](BATCH, TIME, CHANNELS), rng.random((BATCH, TIME)) < 0.1

    def loss(op):
        return jnp.sin(scan(op, jnp.ones(CHANNELS), reset=reset)).sum()

    expected = jax.jit(jax.grad(loss))(op)
    for spec, axes in cases:
        of_types = mesh(AxisType.Explicit, **axes)
        with jax.set_mesh(of_types):
            placed = Affine(
                *(jax.device_put(x, NamedSharding(of_types, spec if x.ndim == 3 else P())) for x in (op.a, op.b))
            )
            yield f"explicit axes {axes}, {spec}", error(jax.jit(jax.grad(loss))(placed), expected)


def cells_with_explicit_axes():
    """The error of what a cell gives and of its last state, on a mesh that is set, or known by the types alone."""
    x = normal(8, 16, 4)
    for name, axes, is_set in (("lru", {"data": 8}, False), ("pmru", {"data": 2, "seq": 4}, True)):
        cell, of_types = cells.get(name)(4, 8, rngs=0), mesh(AxisType.Explicit, **axes)
        placed = jax.device_put(x, NamedSharding(of_types, P("data")))
        for run in (jax.jit(cell), cell):
            if is_set:
                with jax.set_mesh(of_types):
                    found = run(placed)
            else:
                found = run(placed)
            yield f"{name}, explicit axes {axes}, {'eager' if run is cell else 'jit'}", error(found, cell(x))


def gradient_with_explicit_axes():
    """The error of the gradient of a cell in its input, where types say how this lies."""
    of_types, x, cell = mesh(AxisType.Explicit, data=8), normal(8, 16, 4), cells.get("lru")(4, 8, rngs=0)
    run = jax.jit(jax.grad(lambda x: jnp.sin(cell(x)[0]).sum()))
    return error(run(jax.device_put(x, NamedSharding(of_types, P("data")))), run(x))


def over_time_and_channels():
    """The error of the gradient of complex maps whose channels, which come from a product, lie over an axis too."""
    x, w, both = normal(BATCH, 8, 4), normal(4, 4), mesh(seq=2, model=2)

    def loss(w):
        a = (x @ w).astype(jnp.complex64)
        return jnp.sin(scan(Affine(0.5 * jnp.tanh(a), a)).real).sum()

    expected = jax.jit(jax.grad(loss))(w)
    with jax.set_mesh(both):
        return error(jax.jit(jax.grad(loss))(jax.device_put(w, NamedSharding(both, P(None, "model")))), expected)


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    meshes = {"seq": mesh(seq=8), "data and seq": mesh(data=2, seq=4)}
    report = {"errors": {}, "steps": {}, "collectives": {}}
    for name in OPERATORS:
        for key, difference, steps in compare(name, TIME, meshes):
            report["errors"][key], report["steps"][key] = difference, steps
        report["collectives"][name] = [collectives(name, time, meshes["seq"]) for time in (TIME, 16 * TIME)]
    for i, name in enumerate([*own_operators.NAMES, "scored route"]):
        settings = [
            [("sequential", "seq"), ("associative", "data and seq")],
            [("auto", "data and seq"), ("associative", "seq")],
        ]
        report["errors"].update(of_own_operators(name, i % 2 == 0, settings[i % 2], meshes))
    both, halves = meshes["data and seq"], mesh(data=2)
    report["errors"] |= zip(
        ["inside a shard_map", "inside a shard_map, unchecked", "inside a shard_map over the batch"],
        inside_shard_maps(
            [(both, P("data", "seq"), {}), (both, P("data", "seq"), {"check_vma": False}), (halves, P("data"), {})]
        ),
        strict=True,
    )
    report["errors"] |= with_explicit_axes(
        [
            (P("data", "seq"), {"data": 2, "seq": 4}),
            (P("data"), {"data": 2, "seq": 4}),
            (P("data"), {"data": 2}),
        ]
    )
    report["errors"] |= cells_with_explicit_axes()
    report["errors"]["gradient with explicit axes"] = gradient_with_explicit_axes()
    report["errors"]["over time and channels"] = over_time_and_channels()
    report["kernel over the batch"] = collectives_of_the_kernel_over_the_batch()
    with jax.set_mesh(meshes["seq"]):
        report["one step"] = scan(OPERATORS["affine"](BATCH, 1, CHANNELS)).shape
        try:
            scan(OPERATORS["affine"](BATCH, 33, CHANNELS))
        except ValueError as refusal:
            report["refusal"] = str(refusal)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
