"""What the layers do during an evaluation: counted with it in one pass, and logged beside its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from mru.cells import ScanCell
from mru.dynamics.layers import input_name, layers
from mru.dynamics.writes import Counts as WriteCounts
from mru.dynamics.writes import counts
from mru.model import SequenceModel

Counts = dict[str, dict[str, Any]]

# What a log can hold in place of infinity: more steps than float32 can tell apart from it.
LONGEST = 2.0**24


def counted(model: SequenceModel, captured: dict[str, Array], where: Array) -> Counts:
    """Of each layer, by channel: the writes and holds of a cell that can hold, the decay of one that is affine.

    Args:
        model: Model.
        captured: What its call filled as `capture`.
        where: Bool (B, T), the steps that count.
    """
    found: Counts = {}
    for name, cell in layers(model).items():
        if f"{name}/write" in captured:
            found[name] = counts(captured[f"{name}/write"], where)._asdict()
        elif isinstance(cell, ScanCell):
            op = cell.operator(captured[input_name(name)])
            if op.says("decay") and not op.says("holds"):
                log = jnp.log(jnp.maximum(op.decay(), jnp.finfo(jnp.float32).tiny))
                real = where[..., None]
                log = log * real.sum() if log.ndim == 1 else jnp.where(real, log, 0).sum(range(log.ndim - 1))
                found[name] = {"log_decay": log, "steps": real.sum()}
    return found


def summarised(batches: Sequence[Counts]) -> dict[str, float]:
    """Numbers for the log, such as "1/0/BMRU/write_rate", from the counts of all batches.

    Of a layer that can hold: `write_rate`, writes a step; `dead`, the fraction of its channels that never wrote;
    `hold_time`, the mean over its channels of the steps that a channel holds at a time. Of an affine one:
    `time_constant`, 1 / (1 - |a|) in steps, the median of its channels, and `longest_time_constant`.
    """
    values: dict[str, float] = {}
    for name in batches[0]:
        total: dict[str, Any] = {
            what: sum(np.asarray(batch[name][what], np.float64) for batch in batches) for what in batches[0][name]
        }
        if "writes" in total:
            found = WriteCounts(**total).statistics()
            values[f"{name}/write_rate"] = float(np.mean(found.rate))
            values[f"{name}/dead"] = float(np.mean(found.dead))
            values[f"{name}/hold_time"] = float(np.mean(found.hold_time))
        else:
            rate = -np.expm1(total["log_decay"] / total["steps"])
            constants = 1 / np.maximum(rate, 1 / LONGEST)
            values[f"{name}/time_constant"] = float(np.median(constants))
            values[f"{name}/longest_time_constant"] = float(np.max(constants))
    return values
