"""What an operator is: a family of maps closed under composition, one map for every step of a sequence.

A step of every cell here takes the state `h` to `f_t(h)`, where `f_t` depends on the input alone. When the family of
maps is closed under composition, `f_T . ... . f_1` is an associative scan. An operator of your own owes its fields,
`compose` and `apply`:

    class MaxPlus(mru.Operator):
        a: jax.Array
        b: jax.Array

        def compose(self, earlier):
            return MaxPlus(self.a + earlier.a, jnp.maximum(earlier.b + self.a, self.b))

        def apply(self, h):
            return jnp.maximum(h + self.a, self.b)

All else that an operator may say has a default, or makes scans faster.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jax import Array

_Class = TypeVar("_Class")

# A state: one array (..., N), or any pytree of arrays. `Any`, as Python's types have no word for a pytree.
State = Any


def pytree(cls: type[_Class]) -> type[_Class]:
    """Register a dataclass as a pytree whose structure is equal to that of no other class.

    With `jax.tree_util.register_dataclass` all classes of as many fields have equal structures (JAX 0.10 to 0.12), if
    with other hashes: now and then `jit` finds the program of an `Affine` for a `Latch`.
    """
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    keys = [jax.tree_util.GetAttrKey(name) for name in names]

    def values(x: Any) -> tuple[Any, ...]:
        return tuple(getattr(x, name) for name in names)

    jax.tree_util.register_pytree_with_keys(
        cls,
        lambda x: (tuple(zip(keys, values(x), strict=True)), None),
        lambda _, values: cls(*values),
        lambda x: (values(x), None),
    )
    return cls


@dataclasses.dataclass(frozen=True)
class Form:
    """What the arrays of a field may be; see `field`."""

    kinds: str = "bifc"
    axes: int = 1
    scalar: bool = False
    constant: bool = False
    own_channels: bool = False


def field(
    *,
    kinds: str = "bifc",
    axes: int = 1,
    scalar: bool = False,
    constant: bool = False,
    own_channels: bool = False,
    default: Any = dataclasses.MISSING,
) -> Any:
    """Say what the arrays of an operator's field may be; one that says nothing takes any arrays (..., T, N).

    Args:
        kinds: Letters of the kinds of numbers: "b" boolean, "i" integer, "f" real and "c" complex floating point.
        axes: Axes after the time axis: 1 for (..., T, N), 3 for a 2x2 block a channel, (..., T, N, 2, 2).
        scalar: One number for all steps and channels; it is not differentiated.
        constant: May also be given without batch and time axes, (N,), and is then never materialised for every step.
        own_channels: Its last axis is not that of the other fields' channels.
        default: Value if none is given.
    """
    return dataclasses.field(default=default, metadata={"form": Form(kinds, axes, scalar, constant, own_channels)})


@dataclass_transform(frozen_default=True, field_specifiers=(field, dataclasses.field))
class Operator:
    """A family of maps closed under composition; each subclass becomes a frozen dataclass and a pytree.

    The fields hold the parameters of the maps for every step, batch axes first, then time, then those of the channels.
    The methods may be called for one step, for all, or for some batch: they must work for any leading axes, as
    elementwise operations and those along negative axes do.

    Owed:
        compose(earlier)     the map `self . earlier`
        apply(h)             f(h)

    An operator may also say:
        zero_state()         the state that a scan starts from if it is given none; one array of zeros by default
        jacobian(h)          d f(h) / d h, where channel n of f(h) depends on channel n of h alone: the backward pass is
                             then one affine scan; else it is derived from `apply` (step by step) or `compose`
        adjoint(h, b)        the same where channels depend on each other: the maps g -> J^T g + b, which scan
        cotangent(h, g)      the cotangents of the fields, given the cotangent `g` of f(h); None stands for zero.
                             Derived from `apply` if it says nothing
        lower()              the same maps as another operator, that is closed under composition where this one is not
        before_loop()        the same maps, with what is faster computed for all steps at once than step by step
        gates()              what to plot
        holds(h)             where a step leaves the state as it is, as a latch does: the other steps are its writes
        decay()              by what factor a step shrinks the distance of any two states, as an affine map does

    What an operator needs for the kernel on NVIDIA GPUs is said in `KernelOperator`.
    """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        pytree(dataclasses.dataclass(frozen=True)(cls))

    def compose(self, earlier: Self) -> Self:
        """The map `self . earlier`."""
        raise NotImplementedError(f"{type(self).__name__} must define compose(self, earlier)")

    def apply(self, h: State) -> State:
        """The state after each step, given the state before it."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(self, h)")

    def zero_state(self) -> State:
        """The zero of the states of one step: the fields are (..., N) here, and so is it."""
        leaves = jax.tree.leaves(self)
        shape = jnp.broadcast_shapes(*(jnp.shape(x) for x in leaves))
        return jnp.zeros(shape, self.dtype)

    def jacobian(self, h: State) -> State:
        """d f(h) / d h, elementwise."""
        raise NotImplementedError

    def adjoint(self, h: State, b: State) -> Operator:
        """The maps `g -> J^T g + b`, with J = d f(h) / d h, transposed and not conjugated."""
        raise NotImplementedError

    def cotangent(self, h: State, g: State) -> Self:
        """The cotangents of the fields, given the states before each step and the cotangent of those after it."""
        return jax.vjp(lambda op: op.apply(h), self)[1](g)[0]

    def lower(self) -> Operator:
        """The same maps, closed under composition."""
        return self

    def for_autodiff(self) -> Operator:
        """The same maps, closed under composition, for JAX to differentiate; what `lower` gives is asked."""
        return self

    def before_loop(self) -> Operator:
        """The same maps, with what is faster computed for all steps at once than step by step."""
        return self

    def in_kernel(self) -> Operator:
        """The same maps, in operations that the kernel's compiler gets right."""
        return self

    def gates(self) -> dict[str, Any]:
        """What happens in it, by name, for plots."""
        return dict(vars(self))

    def holds(self, h: State) -> Array:
        """Where a step leaves the state before it, `h`, as it is."""
        raise NotImplementedError

    def decay(self) -> Array:
        """The factor by which a step shrinks the distance of any two states."""
        raise NotImplementedError

    @property
    def kernel_obstacle(self) -> str | None:
        """Why a kernel can not run these maps, or None."""
        return f"{type(self).__name__} is no KernelOperator"

    @property
    def overwrites(self) -> bool:
        """If some of the maps are constant, so that nothing before them matters."""
        return False

    @property
    def coded(self) -> bool:
        """If the backward pass keeps the states as `encode` makes them, in fewer bytes."""
        return False

    def encode(self, h: State, h0: State, reset_state: State | None) -> Array:
        """What is kept of the states, given that each is as written, or `h0`, or `reset_state`, held."""
        raise NotImplementedError

    def decode(self, code: Array, h0: State, reset_state: State | None) -> State:
        """The states that were encoded."""
        raise NotImplementedError

    @property
    def dtype(self) -> Any:
        """Dtype of the states, which is that of the floating-point fields that are no scalars, float32 at least."""
        found = [x for x, form in self.leaves_and_forms() if not form.scalar]
        return jnp.result_type(*(x for x in found if jnp.issubdtype(jnp.result_type(x), jnp.inexact)), jnp.float32)

    def leaves_and_forms(self) -> list[tuple[Any, Form]]:
        """Every array, and what its field says of it."""
        forms = type(self).forms()
        return [(x, forms[name]) for name, value in vars(self).items() for x in jax.tree.leaves(value)]

    def missing(self) -> list[str]:
        """The fields that are None and may not be."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return [f.name for f in fields if f.default is not None and getattr(self, f.name) is None]

    @classmethod
    def forms(cls) -> dict[str, Form]:
        """What each field says of its arrays."""
        return {field.name: field.metadata.get("form", Form()) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def says_derivative(cls) -> bool:
        """If it says d f(h) / d h, as a Jacobian or as an adjoint."""
        return cls.says("jacobian") or cls.says("adjoint")

    @classmethod
    def says(cls, method: str) -> bool:
        """If a subclass has defined a method that has a default."""
        return getattr(cls, method) is not getattr(Operator, method)


def as_operator(op: Any) -> Operator:
    """What was given, if it is an operator.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(op, Operator):
        raise ValueError(f"op must be an mru.Operator, such as an Affine, got {type(op).__name__}")
    return op


class KernelOperator(Operator):
    """An operator whose maps a GPU kernel can run: elementwise, with one array for its state.

    The kernel composes the maps of a chunk from its far end until nothing before reaches through. It, or the operator
    that its `lower` returns, needs all but the last of these:
        identity             the fields of the map that leaves every state as it is
        reaches()            where f(h) depends on h at all
        constant()           the value of maps that do not
        fold(h, where)       the same maps, constant at f(h) where `where` is true
        in_kernel()          the same maps, in operations that the kernel's compiler gets right
    """

    identity: ClassVar[tuple[float, ...]]

    @property
    def kernel_obstacle(self) -> str | None:
        """Why a kernel can not run these maps, or None."""
        return None

    def reaches(self) -> Array:
        """Where f(h) depends on h."""
        raise NotImplementedError

    def constant(self) -> Array:
        """The value of maps that are constant."""
        raise NotImplementedError

    def fold(self, h: Array, where: Array) -> Self:
        """The same maps, constant at f(h) where `where` holds."""
        raise NotImplementedError


def select(where: Array | None, x: Any, y: Any) -> Any:
    """Leaf by leaf `x` where `where` holds and `y` elsewhere, which has the first of their axes; `y` if it is None."""
    if where is None:
        return y

    def one(x: Any, y: Any) -> Any:
        rank = max(jnp.ndim(x), jnp.ndim(y))
        wide = where.reshape(where.shape + (1,) * (rank - where.ndim)) if where.ndim < rank else where
        return jnp.where(wide, x, y)

    return jax.tree.map(one, x, y)
