"""Loss and metrics of sequences whose outputs come in chunks, so that the device never holds those of all steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mru.training.task import Batch, Task

# Steps of a long sequence that the model is called with at a time.
CHUNK = 1000
# Steps of all test examples of a length together, so that every length takes about the same time.
STEPS = 2**22


class Total(NamedTuple):
    """What was added up over the chunks so far.

    Attributes:
        steps: Steps of each example that count, float32 (B,).
        sums: Sums over them of the loss and each metric, float32 (B,) each.
    """

    steps: jax.Array
    sums: dict[str, jax.Array]


Add = Callable[[Total | None, jax.Array, Batch], Total]
Of = Callable[[Task, jax.Array, Batch], dict[str, jax.Array]]


def count(task: Task, least: int) -> int:
    """How many test examples of a task to evaluate, streamed: fewer of longer ones, but not below `least`."""
    return max(least, min(task.sizes["test"], STEPS // task.length))


def slices(time: int) -> Iterator[slice]:
    """The chunks of so many steps; the first is the shorter one."""
    for end in range(time % CHUNK or CHUNK, time + 1, CHUNK):
        yield slice(max(0, end - CHUNK), end)


def values(task: Task, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Metrics and loss of each example, (B,)."""
    return task.metrics(outputs, batch) | {"loss": task.loss(outputs, batch)}


def added(task: Task, total: Total | None, outputs: jax.Array, batch: Batch) -> Total:
    """A total, and what one chunk adds to it.

    Args:
        task: With `counted`.
        total: Of the chunks before; None for the first.
        outputs: Of this chunk, (B, C, outputs).
        batch: The batch, of which the arrays with a time axis have the steps of this chunk alone.
    """
    steps = jnp.asarray(task.counted(batch), jnp.float32)
    # A mean over no step may be anything.
    sums = {name: jnp.where(steps > 0, x * steps, 0) for name, x in values(task, outputs, batch).items()}
    found = Total(steps, sums)
    return found if total is None else jax.tree.map(jnp.add, total, found)


def values_of_chunks(
    task: Task, chunks: Iterable[tuple[slice, jax.Array]], batch: Batch, add: Add, of: Of = values
) -> dict[str, jax.Array]:
    """`values` from chunks of outputs.

    Args:
        task: The task.
        chunks: Where each is, and its outputs.
        batch: The whole batch, on the host.
        add: `added` for this task, compiled.
        of: `values`; where the outputs are those of several models, with an axis for them in front, it is that of each,
            and so is `add`.
    """
    if task.pooling != "none":
        for _, outputs in chunks:
            last = outputs
        return of(task, last, batch)
    if jax.eval_shape(task.counted, batch) is None:
        return of(task, jnp.concatenate([outputs for _, outputs in chunks], -2), batch)
    total = None
    for here, outputs in chunks:
        total = add(total, outputs, part(batch, here, task.time_axes))
    assert total is not None
    return {name: x / jnp.maximum(total.steps, 1) for name, x in total.sums.items()}


def part(batch: Batch, here: slice, time_axes: Mapping[str, int]) -> Batch:
    """Some of the time steps of a batch; arrays without a time axis as they are."""
    at = {name: (*[slice(None)] * axis, here) for name, axis in time_axes.items()}
    return {name: x[at[name]] if name in at else x for name, x in batch.items()}
