"""Rivals that run on PyTorch, for the affine scan on NVIDIA GPUs: those that are installed.

pip install torch accelerated-scan fla-core

`accelerated-scan` (Volodymyr Kyrylov) has a CUDA kernel, compiled when it is imported, and a layout of its own,
(batch, channels, time), in which it is given its arrays; T is a power of two from 32 to 65,536. `fla-core`, of flash
linear attention, has the recurrence of HGRN in Triton, whose gates are exp(g): it is given their logarithms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import mru
from benchmarks.measure import Foreign

WARP, HGRN = "accelerated-scan warp, (B, N, T)", "fla chunk_hgrn"


def affine(op: mru.Affine, g: jax.Array) -> dict[str, tuple[Foreign, Foreign]]:
    """By name: the states of an operator, and these with the cotangents of its fields, given that of the states.

    Args:
        op: Coefficients for every step, positive.
        g: Cotangent of the states.
    """
    found, expected = {}, mru.scan(op)
    for name, load in ((WARP, _warp), (HGRN, _hgrn)):
        try:
            rival = load(op, g)
        except ImportError as error:
            print(f"{name}: not installed, left out ({error})")
            continue
        if rival is not None:
            found[name] = _programs(*rival, expected)
    return found


def _warp(op: mru.Affine, g: jax.Array) -> tuple[Callable, tuple, Callable] | None:
    """The scan, its arguments, and what brings its states into our layout; None if it does not take this length."""
    from accelerated_scan.warp import scan

    time = op.b.shape[-2]
    if not 32 <= time <= 65536 or time & (time - 1):
        return None
    return scan, (op.a.mT, op.b.mT, g.mT), lambda h: h.mT


def _hgrn(op: mru.Affine, g: jax.Array) -> tuple[Callable, tuple, Callable]:
    """The same, of any length."""
    from fla.ops.hgrn import chunk_hgrn

    return lambda gates, x: chunk_hgrn(x, gates)[0], (jnp.log(op.a), op.b, g), lambda h: h


def _programs(scan: Callable, arrays: tuple, back: Callable, expected: jax.Array) -> tuple[Foreign, Foreign]:
    """The two programs, after a look at whether the states are ours: `back` brings them into our layout."""
    import torch

    a, b, g = (torch.from_dlpack(jax.block_until_ready(jnp.copy(x))) for x in arrays)
    a.requires_grad_()
    b.requires_grad_()

    def forward() -> Any:
        with torch.no_grad():
            return scan(a, b)

    def both() -> Any:
        h = scan(a, b)
        return h, *torch.autograd.grad(h, (a, b), g)

    difference = jnp.abs(back(jnp.from_dlpack(forward().contiguous())) - expected).max()
    if not difference <= 1e-3 * jnp.abs(expected).max():
        raise RuntimeError(f"a rival computes something else: its states differ from ours by {difference}")
    torch.cuda.synchronize()
    return Foreign(forward, torch.cuda.synchronize, _peak), Foreign(both, torch.cuda.synchronize, _peak)


def _peak(run: Callable[[], Any]) -> int:
    """Bytes that a run takes at most, besides what it gives back."""
    import torch

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = run()
    torch.cuda.synchronize()
    kept = torch.cuda.memory_allocated() - before
    del result
    return torch.cuda.max_memory_allocated() - before - kept
