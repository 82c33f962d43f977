"""One pass over memory on NVIDIA GPUs: a Pallas kernel that walks the steps with the state in registers.

What differs between operators and passes is the function of one step, and that is written with the operators' own
methods: gates are computed where they are used, and nothing but the operands, the states and the cotangents moves.
`plan` says how a walk is divided among programs, `walk` is the kernel, `program` one of its programs, `look_back` how
these get to know what they start from, and `passes` are the walks that a scan takes.

Complex numbers are two reals, read and written where the complex ones lie. The kernel is lowered by way of Triton,
which JAX has deprecated since 0.11; where a JAX has it no more, "auto" takes another method, and says so once. Its
successor, Mosaic GPU, is not used yet: JAX 0.11 can not interpret its pipelines on a CPU, where tests run, nor lower
gates with a derivative of their own through them. Without a GPU the kernel is interpreted.
"""

from mru.engine.associative import composed
from mru.engine.kernel.passes import pullback, states
from mru.engine.kernel.plan import obstacle, on_cuda

__all__ = ["composed", "obstacle", "on_cuda", "pullback", "states"]
