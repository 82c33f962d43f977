"""The scalars that training moves: which a model has, how a config changes their ramps, their value at a step.

A cell declares such a scalar as `mru.cells.Scheduled`, with its ramp; nothing here knows one by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mru.cells._base import Ramp, Scheduled
from mru.training.lines import short
from mru.training.section import FLOAT32_MAX

Path = tuple[Any, ...]
FIELDS = [field.name for field in dataclasses.fields(Ramp)]


def ramps(state: nnx.State[Any, Any], changes: Mapping[str, Mapping[str, float]]) -> dict[Path, Ramp]:
    """The ramp of each scalar that moves, by its path in the state.

    Args:
        state: Variables of the model, also abstract ones.
        changes: Fields of a `Ramp` by the name of the scalar, which take the place of those of its own ramp.

    Raises:
        ValueError: No scalar has the name, a field is unknown or missing, or the ramp can not be.
    """
    scheduled = {path: leaf for path, leaf in nnx.to_flat_state(state) if isinstance(leaf, Scheduled)}
    known = sorted({str(path[-1]) for path in scheduled})
    for name, fields in changes.items():
        if name not in known:
            raise ValueError(_wrong(name, fields, f"scalars of this model, {', '.join(known) or 'which has none'}"))
        for field, value in fields.items():
            if field not in FIELDS:
                allowed = f"fields {', '.join(FIELDS)}"
                raise ValueError(_wrong(f"{name}.{field}", value, allowed))
    found = {}
    for path, leaf in scheduled.items():
        name, own = str(path[-1]), leaf.get_metadata().get("ramp")
        if name in changes or own is not None:
            found[path] = _changed(name, own, changes.get(name, {}))
    return found


def complete(state: nnx.State[Any, Any], changes: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """All fields of the ramps by name, as they are written to config.yaml.

    A name whose scalars have different ramps stays as the config has it.
    """
    by_name: dict[str, set[Ramp]] = {}
    for path, ramp in ramps(state, changes).items():
        by_name.setdefault(str(path[-1]), set()).add(ramp)
    found = {name: dict(fields) for name, fields in changes.items()}
    return found | {name: dataclasses.asdict(*same) for name, same in sorted(by_name.items()) if len(same) == 1}


def set_to(state: nnx.State[Any, Any], moved: Mapping[Path, Ramp], step: jax.Array, steps: int) -> nnx.State[Any, Any]:
    """The state with each scheduled scalar at its value of this step."""

    def at_step(path: Path, leaf: Any) -> Any:
        return leaf.replace(jnp.asarray(moved[path](step, steps), leaf[...].dtype)) if path in moved else leaf

    return nnx.from_flat_state([(path, at_step(path, leaf)) for path, leaf in nnx.to_flat_state(state)])


def _changed(name: str, own: Ramp | None, fields: Mapping[str, float]) -> Ramp:
    missing = [field for field in FIELDS if own is None and field not in fields]
    if missing:
        raise ValueError(_wrong(name, fields, f"all of {', '.join(FIELDS)}, as this scalar has no ramp of its own"))
    ramp = Ramp(**fields) if own is None else dataclasses.replace(own, **fields)
    finite = all(abs(value) <= FLOAT32_MAX for value in (ramp.start, ramp.end))
    if not (finite and 0 <= ramp.begin <= ramp.finish <= 1):
        allowed = "0 <= begin <= finish <= 1, and a start and end that are finite in 32 bits"
        raise ValueError(_wrong(name, dataclasses.asdict(ramp), allowed))
    return ramp


def _wrong(name: str, value: Any, allowed: str) -> str:
    return f"train.schedules.{short(name)} = {short(value)}, allowed: {allowed}"
