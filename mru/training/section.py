"""What a section of a config is: the ranges that its numbers can have, and how it checks them."""

from __future__ import annotations

import typing
from typing import Annotated, Any, ClassVar

import numpy as np

from mru.training.lines import short

# What an option of a cell may be. No field below has a class for its type: a config would then say what is made.
Scalar = bool | int | float | str | None
Plain = Scalar | list[Scalar]

# Numbers in a range, and the range in words.
PositiveInt = Annotated[int, "an integer > 0"]
NonNegativeInt = Annotated[int, "an integer >= 0"]
PositiveFloat = Annotated[float, "a number > 0"]
NonNegativeFloat = Annotated[float, "a number >= 0"]
RANGES: dict[Any, str] = {
    kind: typing.get_args(kind)[1] for kind in (PositiveInt, NonNegativeInt, PositiveFloat, NonNegativeFloat)
}
FLOAT32_MAX, FLOAT32_LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def in_range(value: float, kind: Any) -> bool:
    """Whether a number is in one of `RANGES`; one so small that float32 has 0 for it is not above 0."""
    return value >= 0 if "=" in RANGES[kind] else value >= FLOAT32_LEAST


class Section:
    """A section of the config."""

    section: ClassVar[str]
    # JAX counts in int32. Fields whose integers may have more bits than its 31:
    integer_bits: ClassVar[dict[str, int]] = {}

    def __post_init__(self) -> None:
        """Checks every number against its type, then what the section itself knows of its fields.

        Raises:
            ValueError: One line with the field, its value and what is allowed.
        """
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            self._require(name, abs(value) <= FLOAT32_MAX, "a finite number of 32 bits")
            below = self.integer_bits.get(name, 31)
            self._require(
                name, isinstance(value, float) or value < 2**below, f"below 2^{below}, as JAX counts in int32"
            )
            for kind in {hint, *typing.get_args(hint)} & set(RANGES):
                self._require(name, in_range(value, kind), RANGES[kind])
        self._check()

    def _check(self) -> None:
        """What the types do not say."""

    def _require(self, field: str, valid: bool, allowed: str) -> None:
        if not valid:
            raise ValueError(f"{self.section}.{field} = {short(getattr(self, field))}, allowed: {allowed}")
