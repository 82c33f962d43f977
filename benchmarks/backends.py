"""The forward walk by other backends of Pallas than ours, against our scan and the memory roofline.

python -m benchmarks.backends [--shape B,T,N] --out results/benchmarks/mosaic-gpu.json

On a GPU, an H100 or later, by Mosaic (`benchmarks.mosaic_walk`); on a TPU by Pallas as it is there
(`benchmarks.tpu_walk`). Shapes need whole tiles, channels in multiples of 128 and, on a TPU, sequences in multiples
of 8. Operators and floors are those of `benchmarks.scan`, here with the state before the first step given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mru
from benchmarks.measure import parser, report, spread, start
from benchmarks.scan import FLOORS, OURS, beside_an_add, operator

SHAPES = [(32, 1024, 512), (128, 1024, 256), (128, 768, 128)]
OPERATORS = ["affine", "clamp"]  # whose fields all have a number for each step and channel


def forms(platform: str) -> dict[str, Callable[..., jax.Array]]:
    """The walks by name, (operator, state before) -> states."""
    if platform == "gpu":
        from benchmarks import mosaic_walk

        return {
            f"mosaic, {n} tiles of {tile}": functools.partial(mosaic_walk.states, tile=tile, under_way=n)
            for tile, n in ((8, 8), (16, 4), (16, 8), (32, 4))
        }
    if platform == "tpu":
        from benchmarks import tpu_walk

        return {f"tpu, tiles of {tile}": functools.partial(tpu_walk.states, tile=tile) for tile in (64, 256)}
    raise SystemExit(f"benchmarks.backends needs a GPU or a TPU, and JAX runs on {platform} here")


def rows(shape: tuple[int, ...], walks: dict[str, Callable[..., jax.Array]]) -> Iterator[dict[str, Any]]:
    """Each operator by our scan and by each walk, compared with an elementwise add at the same time."""
    h0 = jnp.zeros((shape[0], shape[2]))
    programs = {OURS: mru.scan, **walks}
    for name in OPERATORS:
        op = operator(name, shape)
        floor = FLOORS[name][0] * 4 * np.prod(shape)
        found = beside_an_add(shape, floor, dict.fromkeys(programs.values(), (op, h0)))
        wanted = np.asarray(mru.scan(op, h0))
        for (method, run), row in zip(programs.items(), found, strict=True):
            yield {
                "shape": shape, "operator": name, "method": method, "pass": "forward", **row,
                "times_ours": spread(row["timings"], found[0]["timings"]),
                "largest_difference": float(np.abs(np.asarray(jax.jit(run)(op, h0)) - wanted).max()),
            }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{','.join(map(str, row['shape'])):>17} {row['operator']:10} {row['method']:22} "
        f"{row['seconds'] * 1e3:9.3f} {1 / row['roofline']:6.2f}x {row['compile_seconds']:9.2f} "
        f"{row['largest_difference']:10.1e}  " + "{:.2f} to {:.2f} to {:.2f}".format(*row["times_ours"])
    )


def main() -> None:
    """The command line."""
    given = parser(__doc__.splitlines()[0], shape="batch,time,channels").parse_args()
    walks = forms(start())
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    head = f"{'shape':>17} {'operator':10} {'method':22} {'ms':>9} {'floor':>7} {'compile s':>9} {'difference':>10}"
    print(f"{head}  times ours")
    report((row for shape in given.shape or SHAPES for row in rows(shape, walks)), line, given.out, lambda *_: None)


if __name__ == "__main__":
    main()
