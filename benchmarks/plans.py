"""How the walk of a GPU kernel is divided: every operator by several plans, against the memory roofline.

python -m benchmarks.plans [--plan 32,512,1,8,4,2,1] [--operator NAME] [--shape B,T,N] [--out FILE]

A plan is lanes, bytes ahead, chunks, chunks of a group, groups of an era, parts and warps, see
`mru.engine.kernel.plan.Plan`; that which is chosen is always among them. From these figures come the numbers in that
module. Shapes, operators, floors and passes are those of `benchmarks.scan`. Without a GPU kernels are interpreted, and
the figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.measure import parser, report, start
from benchmarks.scan import FLOORS, SHAPES, beside_an_add, operator
from mru.engine.kernel import passes
from mru.engine.kernel.plan import Plan, plan

PLANS = ["64,128,8,1,1,1,1", "64,128,8,1,1,1,2", "32,384,1,1,1,1,1", "64,192,1,1,1,1,1"]
PLANS += ["32,512,1,4,1,1,1", "32,512,1,4,1,2,1", "32,512,1,8,4,2,1"]


def forward(divided: Plan, op: Any, h0: jax.Array) -> jax.Array:
    """The states by this plan."""
    with mock.patch.object(passes, "plan", return_value=divided):
        return passes.states(op, h0, None, None, False, False)[0]


def both(divided: Plan, op: Any, h0: jax.Array, g: jax.Array) -> Any:
    """The states by this plan, and the cotangents."""
    with mock.patch.object(passes, "plan", return_value=divided):
        h, code = passes.states(op, h0, None, None, False, True)
        return h, passes.pullback(op, h0, None, None, False, h if code is None else code, g)


def rows(shape: tuple[int, ...], names: list[str], plans: list[str]) -> Iterator[dict[str, Any]]:
    """Each operator and pass by every plan, compared with an elementwise add at the same time."""
    for name in names:
        op = jax.tree.map(jnp.asarray, operator(name, shape))  # as `mru.scan` makes of it
        h0 = op.zero_state()[:, 0]
        g = jnp.ones(shape, h0.dtype)
        chosen = plan(h0, shape[1], op)
        every = {**{text: Plan(*map(int, text.split(","))) for text in plans}, "chosen": chosen}
        floors = [units * g.nbytes for units in FLOORS[name]]
        for kind, run, args, floor in (
            ("forward", forward, (op, h0), floors[0]),
            ("backward", both, (op, h0, g), sum(floors)),
        ):
            programs = {functools.partial(run, divided): args for divided in every.values()}
            found = beside_an_add(shape, floor, programs)
            for (text, divided), row in zip(every.items(), found, strict=True):
                written = ",".join(map(str, dataclasses.astuple(divided)))
                at = {"shape": shape, "operator": name, "plan": written, "chosen": text == "chosen", "pass": kind}
                yield {**at, **row}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{','.join(map(str, row['shape'])):>17} {row['operator']:15} {row['plan']:18} {row['pass']:9} "
        f"{row['seconds'] * 1e3:9.3f} {1 / row['roofline']:6.2f}x {row['compile_seconds']:9.2f}"
        + ("  chosen" if row["chosen"] else "")
    )


def text_of_a_plan(text: str) -> str:
    """A plan of the command line."""
    numbers = [int(n) if n.isdigit() else 0 for n in text.split(",")]
    if len(numbers) == 7 and min(numbers) > 0:
        lanes, _, chunks, group, era, parts, warps = numbers
        powers = all(n & (n - 1) == 0 for n in (lanes, parts, warps))
        if powers and (chunks == 1 if group > 1 else era == parts == 1):
            return text
    raise argparse.ArgumentTypeError(
        f"a plan is seven numbers such as 32,512,1,8,4,2,1: the first and the last two are powers of two, the third is "
        f"1 where the fourth is more, and the fifth and the sixth are 1 where the fourth is; got {text!r}"
    )


def main() -> None:
    """The command line."""
    arguments = parser(__doc__.splitlines()[0], shape="batch,time,channels")
    arguments.add_argument("--operator", action="append", choices=list(FLOORS), help="may be given several times")
    arguments.add_argument(
        "--plan", action="append", type=text_of_a_plan, metavar="LANES,AHEAD,CHUNKS,GROUP,ERA,PARTS,WARPS",
        help="may be given several times",
    )  # fmt: skip
    given = arguments.parse_args()
    platform = start()
    shapes = given.shape or SHAPES[platform]
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"{'shape':>17} {'operator':15} {'plan':18} {'pass':9} {'ms':>9} {'floor':>7} {'compile s':>9}")
    measured = (row for shape in shapes for row in rows(shape, given.operator or list(FLOORS), given.plan or PLANS))
    report(measured, line, given.out, lambda *_: None)


if __name__ == "__main__":
    main()
