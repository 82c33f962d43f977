"""Means of loss and metrics over a split, from what each of its batches summed up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mru.training.messages import RunFailed


def sums(values: dict[str, jax.Array], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """What `mean` needs of a batch: the sum of each loss or metric (B,), and an example where one is not finite."""
    weight = batch["weight"]
    total = {name: (x * weight).sum() for name, x in values.items()} | {"weight": weight.sum()}
    finite = jnp.all(jnp.stack([jnp.isfinite(x) for x in values.values()]), 0)
    return total | {"bad": jnp.where(finite.all(), -1, jnp.asarray(batch["index"])[jnp.argmin(finite)])}


def mean(summed: list[dict[str, jax.Array]], split: str) -> dict[str, float]:
    """Weighted means, in float64, of what the batches summed up.

    Raises:
        RunFailed: A loss or metric was not finite; the message names the split and such an example.
    """
    fetched = jax.device_get(summed)
    bad = [int(x["bad"]) for x in fetched if x["bad"] >= 0]
    if bad:
        raise RunFailed(f"the loss or a metric of {split} example {bad[0]} is not finite, though its data is")
    total = {name: sum(float(x[name]) for x in fetched) for name in fetched[0] if name != "bad"}
    weight = total.pop("weight")
    return {name: value / weight for name, value in total.items()}
