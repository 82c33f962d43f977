"""Complex numbers in kernels, which have none: as two real ones, read and written where the complex ones lie.

Outside of a kernel an array is complex64 (..., N). Its kernel sees the same memory as float32 (..., 2 N), in which a
real part and its imaginary part lie side by side, and `split` makes a `Complex` of two views of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir
from jaxlib.mlir import ir

from mru.operators.base import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Complex:
    """A complex array, or what stands for one, as two real ones, with what the methods of `Affine` do to it."""

    real: Any
    imag: Any

    def __add__(self, other: Complex) -> Complex:
        return Complex(self.real + other.real, self.imag + other.imag)

    def __mul__(self, other: Complex) -> Complex:
        return Complex(self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real)

    def __ne__(self, zero: object) -> Any:
        return (self.real != zero) | (self.imag != zero)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.real.ndim)

    def sum(self, axis: Any) -> Complex:
        """The sum over some axes."""
        return jax.tree.map(lambda x: x.sum(axis), self)


@dataclasses.dataclass(frozen=True)
class View:
    """The real parts (`offset` 0) or the imaginary ones (1) of what lies in memory as pairs (..., 2 N)."""

    pairs: Any
    offset: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., N)."""
        return (*self.pairs.shape[:-1], self.pairs.shape[-1] // 2)

    @property
    def dtype(self) -> Any:
        """That of a part."""
        return self.pairs.dtype


def is_complex(x: Any) -> bool:
    """If an array, or what stands for one, has complex numbers."""
    return jnp.issubdtype(x.dtype, jnp.complexfloating)


def split(tree: Any) -> Any:
    """The shapes of a tree, with each complex one as two real ones."""

    def one(x: Any) -> Any:
        if not is_complex(x):
            return x
        part = jax.ShapeDtypeStruct(x.shape, jnp.finfo(x.dtype).dtype)
        return Complex(part, part)

    return jax.tree.map(one, tree)


def unsplit(tree: Any) -> Any:
    """The shapes of a tree, with those of complex numbers again."""
    return jax.tree.map(
        lambda x: (
            jax.ShapeDtypeStruct(x.real.shape, jnp.result_type(x.real.dtype, jnp.complex64))
            if isinstance(x, Complex)
            else x
        ),
        tree,
        is_leaf=lambda x: isinstance(x, Complex),
    )


def joined(tree: Any) -> Any:
    """The arrays of a tree, those of real and imaginary parts as complex ones again."""
    return jax.tree.map(
        lambda x: jax.lax.complex(x.real, x.imag) if isinstance(x, Complex) else x,
        tree,
        is_leaf=lambda x: isinstance(x, Complex),
    )


def views(refs: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
    """What a kernel got for some arrays, with two views for a complex one."""
    return [Complex(View(ref, 0), View(ref, 1)) if is_complex(x) else ref for ref, x in zip(refs, arrays, strict=True)]


def pairs_like(x: Any) -> Any:
    """The shape in which a kernel sees an array."""
    if not is_complex(x):
        return x
    return _like(x, (*x.shape[:-1], 2 * x.shape[-1]), jnp.finfo(x.dtype).dtype)


def call(run: Callable[..., Any], arrays: list[Array], results: list[jax.ShapeDtypeStruct]) -> list[Array]:
    """Call a kernel.

    Args:
        run: A `pallas_call`, on arrays as the kernel sees them.
        arrays: What it is given, complex arrays as such.
        results: What it results in, complex arrays as such.
    """
    if not any(map(is_complex, [*arrays, *results])):
        return run(*arrays)
    like = [pairs_like(jax.typeof(x)) for x in arrays]
    jaxpr = jax.make_jaxpr(run)(*(_like(x, x.shape, x.dtype) for x in like))
    return _in_place.bind(*arrays, jaxpr=jaxpr, complexes=tuple(map(is_complex, results)))


def _like(x: Any, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=x.manual_axis_type)


# A kernel call whose complex operands and results are seen by the kernel as pairs. XLA has no such cast: without this
# primitive all of them would be copied apart before the call, and together again after it.
_in_place = Primitive("mru_in_place")
_in_place.multiple_results = True


@_in_place.def_abstract_eval  # type: ignore[untyped-decorator]
def _abstract(*_: Any, jaxpr: ClosedJaxpr, complexes: tuple[bool, ...]) -> Any:
    def one(aval: Any, is_complex: bool) -> Any:
        if not is_complex:
            return aval
        shape = (*aval.shape[:-1], aval.shape[-1] // 2)
        return aval.update(shape=shape, dtype=jnp.result_type(aval.dtype, jnp.complex64))

    return [one(aval, is_complex) for aval, is_complex in zip(jaxpr.out_avals, complexes, strict=True)]


def _copied(*arrays: Array, jaxpr: ClosedJaxpr, complexes: tuple[bool, ...]) -> list[Array]:
    """The same with copies, where a kernel is interpreted."""

    def apart(x: Array) -> Array:
        if not is_complex(x):
            return x
        return jnp.stack([x.real, x.imag], -1).reshape(*x.shape[:-1], 2 * x.shape[-1])

    def together(x: Array, is_complex: bool) -> Array:
        return jax.lax.complex(x[..., ::2], x[..., 1::2]) if is_complex else x

    found = jaxpr_as_fun(jaxpr)(*map(apart, arrays))
    return [together(x, is_complex) for x, is_complex in zip(found, complexes, strict=True)]


def _relabelled(ctx: Any, *operands: Any, jaxpr: ClosedJaxpr, complexes: tuple[bool, ...]) -> Any:
    """The call as it is compiled for the pairs, but of the complex arrays themselves."""

    def seen(value: Any, like: Any, now: Any) -> Any:
        """The value as the kernel sees it."""
        if like.dtype == now.dtype:
            return value
        kind = ir.RankedTensorType.get(
            like.shape, ir.ComplexType(ir.RankedTensorType(value.type).element_type).element_type
        )
        return ir.Operation.create("builtin.unrealized_conversion_cast", [kind], [value]).result

    def given(value: Any, is_complex: bool, aval: Any) -> Any:
        """The type of a result."""
        element = ir.RankedTensorType(value.type).element_type
        return ir.RankedTensorType.get(aval.shape, ir.ComplexType.get(element)) if is_complex else value.type

    avals = list(jaxpr.in_avals)
    casts = [seen(*one) for one in zip(operands, avals, ctx.avals_in, strict=True)]
    inner = ctx.replace(avals_in=avals, avals_out=list(jaxpr.out_avals), primitive=None)
    found = mlir.lower_fun(jaxpr_as_fun(jaxpr), multiple_results=True)(inner, *casts)
    of_pairs = found[0].owner
    again = ir.Operation.create(
        of_pairs.name,
        [given(*one) for one in zip(found, complexes, ctx.avals_out, strict=True)],
        operands,
        dict(of_pairs.attributes.items()),
    )
    of_pairs.erase()
    for cast, value in zip(casts, operands, strict=True):
        if cast is not value:
            cast.owner.erase()
    return list(again.results)


def _batched(arrays: Any, axes: Any, *, jaxpr: ClosedJaxpr, complexes: tuple[bool, ...]) -> Any:
    pairs = list(zip(arrays, axes, strict=True))
    size = next(x.shape[axis] for x, axis in pairs if axis is not None)
    many = [jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
    like = [_like(x, (size, *x.shape), x.dtype) for x in jaxpr.in_avals]
    of_many = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr)))(*like)
    return _in_place.bind(*many, jaxpr=of_many, complexes=complexes), [0] * len(complexes)


_in_place.def_impl(lambda *arrays, **how: jax.jit(functools.partial(_in_place.bind, **how))(*arrays))
batching.primitive_batchers[_in_place] = _batched
mlir.register_lowering(_in_place, mlir.lower_fun(_copied, multiple_results=True))
mlir.register_lowering(_in_place, _relabelled, platform="cuda")
