"""The Triton backend of Pallas, by way of which the kernels are lowered.

JAX has deprecated it since 0.11. `triton` is None in a JAX that has it no more: scans then take another method.
"""

from __future__ import annotations

try:
    from jax.experimental.pallas import triton
except ImportError:
    triton = None  # type: ignore[assignment]

__all__ = ["obstacle", "triton"]


def obstacle() -> str | None:
    """Why no kernel can run, or None."""
    return "this JAX has no Triton backend of Pallas" if triton is None else None
