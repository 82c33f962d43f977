"""ListOps: how long all examples take with two processes, their lengths, and each value computed by another program.

python -m benchmarks.listops --out results/listops.json

The other program reads tokens from left to right with a stack, one expression at a time, in plain Python.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from benchmarks.measure import parser, report, timed
from tasks import _listops
from tasks._datasets import computed


def value(tokens: list[int]) -> int:
    """Value of an expression without padding."""
    stack: list[list[int]] = [[]]
    for token in tokens:
        if token <= 10:
            stack[-1].append(token - 1)
        elif token < 15:
            stack.append([token])
        else:
            operator, *arguments = stack.pop()
            stack[-1].append(_apply(operator, sorted(arguments)))
    ((result,),) = stack
    return result


def _apply(operator: int, ascending: list[int]) -> int:
    if operator == 11:
        return ascending[0]
    if operator == 12:
        return ascending[-1]
    if operator == 14:
        return sum(ascending) % 10
    n = len(ascending)
    return ascending[n // 2] if n % 2 else int((ascending[n // 2 - 1] + ascending[n // 2]) / 2)


def rows() -> Iterator[dict[str, Any]]:
    generate = functools.partial(_listops.generate, 0)
    for split, size in _listops.SIZES.items():
        with timed() as seconds, computed.workers(2) as pool:
            made = computed.compute(pool, generate, split, size)
        lengths = made["lengths"]
        wrong = sum(
            value(tokens[:length].tolist()) != int(target)
            for tokens, length, target in zip(made["inputs"], lengths, made["targets"])
        )
        yield {
            "split": split,
            "examples": size,
            **seconds,
            "shortest": int(lengths.min()),
            "mean": float(lengths.mean()),
            "longest": int(lengths.max()),
            "wrong": wrong,
        }


def line(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    report(rows(), line, options.out, lambda found, file: None)


if __name__ == "__main__":
    main()
