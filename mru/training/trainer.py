"""The compiled functions of a run: initialisation, train steps, evaluation."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mru.model import quantized
from mru.training import alignment, inside, optimizer, schedules, streaming
from mru.training.batches import evaluation_batches
from mru.training.config import Config
from mru.training.devices import parameter_shardings
from mru.training.estimate import RETENTION_ROWS
from mru.training.messages import RunFailed, UserError, compiling
from mru.training.task import ModelInputs, Task

# Sums of loss and metrics, what the layers did, and the task's scores of each example, of one batch.
_Evaluated = tuple[dict[str, jax.Array], inside.Counts, dict[str, jax.Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes.

    Attributes:
        params: Parameters.
        rest: Other variables of the model: running statistics, and scheduled scalars, which have the value that is due
            at `step`.
        optimizer: State of the optimiser.
        step: Steps done, int32.
    """

    params: nnx.State[Any, Any]
    rest: nnx.State[Any, Any]
    optimizer: optax.OptState
    step: jax.Array


class Trainer:
    """The compiled functions of a run, on a mesh.

    Attributes:
        parameters: Number of parameters.
        rate: Learning rate of a step.
        settled: The first step at which every scheduled scalar has arrived. Until then the model is not the one that
            will be used, and nothing is selected.
    """

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.mesh, self.task = config, mesh, config.task
        o, steps = config.optimizer, config.train.steps
        warmup = o.warmup_steps if o.warmup_steps is not None else min(round(o.warmup * steps), steps - 1)
        self.rate = optax.warmup_cosine_decay_schedule(o.lr * 0.01, o.lr, warmup, steps, o.lr * o.final)
        self.transform = optimizer.adamw(
            self.rate,
            weight_decay=o.weight_decay,
            state_lr_factor=o.state_lr_factor,
            clip=o.clip,
            b1=o.b1,
            b2=o.b2,
            keep=o.keep or (alignment.KEEP if config.train.feedback == "alignment" else 1.0),
        )
        self.key = jax.random.key(config.train.seed)
        # Steps are below 2^31.
        keys = (jax.random.fold_in(self.key, 2**32 - i) for i in (1, 2, 3))
        self.writing_key, self.feedback_key, self.augmentation_key = keys
        self.graphdef: nnx.GraphDef[Any]
        self.graphdef, params, rest = nnx.split(nnx.eval_shape(self._model), nnx.Param, ...)  # type: ignore[misc]
        self.parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
        self.ramps = schedules.ramps(rest, config.train.schedules)
        self.settled = max((ramp.arrival(steps) for ramp in self.ramps.values()), default=0)
        self.shardings = parameter_shardings(mesh, jax.eval_shape(self._initial))
        self.replicated = NamedSharding(mesh, P())
        # By the shape of the inputs, of which buckets make several.
        self.programs: dict[tuple[int, ...], Callable[..., Any]] = {}
        self.evaluations: dict[tuple[int, ...], Callable[..., Any]] = {}

    def _model(self) -> Any:
        return self.config.make_model(nnx.Rngs(self.config.train.seed))

    def _scheduled(self, rest: nnx.State[Any, Any], step: jax.Array) -> nnx.State[Any, Any]:
        return schedules.set_to(rest, self.ramps, step, self.config.train.steps)

    def _initial(self) -> TrainState:
        _, params, rest = nnx.split(self._model(), nnx.Param, ...)  # type: ignore[misc]
        step = jnp.zeros((), jnp.int32)
        return TrainState(params, self._scheduled(rest, step), self.transform.init(params), step)

    def initial(self) -> TrainState:
        """The state before the first step, on the mesh."""
        return jax.jit(self._initial, out_shardings=self.shardings)()

    def continued(self, state: TrainState) -> TrainState:
        """A restored state with its scheduled scalars as this run's schedules want them at its step."""
        again = jax.jit(self._scheduled, out_shardings=self.shardings.rest)
        return dataclasses.replace(state, rest=again(state.rest, state.step))

    def _merged(self, params: Any, rest: Any, key: jax.Array | None = None) -> Any:
        """The model with its matrices as they are written: of few bits if the config says so, and noise given a key."""
        weights = self.config.weights
        if weights.bits is not None:
            params = quantized(params, weights.bits, noise=0.0 if key is None else weights.noise, key=key)
        return nnx.merge(self.graphdef, params, rest)

    def _step(self, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        of_run = self.key, self.writing_key, self.augmentation_key
        key, writing, augmenting = (jax.random.fold_in(k, state.step) for k in of_run)
        batch = self.task.augmented(batch, augmenting)
        given = self.task.model_inputs(batch)

        def model_of(params: nnx.State[Any, Any]) -> Any:
            # Made anew here, as only variables of this trace can be changed: batch norm does, in training.
            rest = jax.tree.map(lambda x: x, state.rest)
            return self._merged(params, rest, writing)

        def outputs_of(model: Any, capture: dict[str, jax.Array] | None = None) -> jax.Array:
            rngs = nnx.Rngs(dropout=key)  # made here, as it counts what it is asked for
            return model(given.inputs, lengths=given.lengths, reset=given.reset, rngs=rngs, capture=capture)[0]

        def loss_of(outputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            metrics = {name: x.mean() for name, x in self.task.metrics(outputs, batch).items()}
            return self.task.loss(outputs, batch).mean(), metrics

        def forward(params: nnx.State[Any, Any]) -> tuple[jax.Array, Any]:
            model = model_of(params)
            loss, metrics = loss_of(outputs_of(model))
            return loss, (metrics, nnx.merge_state(state.rest, nnx.state(model, nnx.BatchStat)))

        if self.config.train.feedback == "alignment":
            learn = alignment.value_and_grad(model_of, outputs_of, loss_of, given, self.feedback_key)
            ((loss, metrics), gradient), rest = learn(state.params), state.rest
        else:
            (loss, (metrics, rest)), gradient = jax.value_and_grad(forward, has_aux=True)(state.params)
        updates, new = self.transform.update(gradient, state.optimizer, state.params)
        metrics = metrics | {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        params, step = optax.apply_updates(state.params, updates), state.step + 1
        return TrainState(params, self._scheduled(rest, step), new, step), metrics

    def compile(self, state: TrainState, batches: dict[str, jax.Array]) -> Callable[..., Any]:
        """Several train steps in one call, batches (K, B, ...): the state after them and the metrics of each, (K,).

        It is compiled once for each shape of the batches, of which buckets make several.
        """
        shape = batches["inputs"].shape
        if shape not in self.programs:
            self.programs[shape] = self._compiled(state, batches)
        return self.programs[shape]

    def _compiled(self, state: TrainState, batches: dict[str, jax.Array]) -> Callable[..., Any]:
        many = jax.jit(
            lambda state, batches: jax.lax.scan(self._step, state, batches),
            donate_argnums=0,
            out_shardings=(self.shardings, self.replicated),
        )
        # `mru.scan` looks in the mesh for the axis `seq`.
        with compiling("the train step"), jax.set_mesh(self.mesh):
            return many.lower(state, batches).compile()

    def place(self, batch: Mapping[str, np.ndarray], axis: int) -> dict[str, jax.Array]:
        """A batch on the mesh, split over `data` and, along its time axis, `seq`; each process gives its part.

        Args:
            batch: Arrays by name.
            axis: Their batch axis; those before it are not split.
        """

        def sharding(name: str) -> NamedSharding:
            time = self.task.time_axes.get(name)
            split = [] if time is None else [*[None] * (time - 1), "seq"]
            return NamedSharding(self.mesh, P(*[None] * axis, "data", *split))

        return {name: jax.make_array_from_process_local_data(sharding(name), x) for name, x in batch.items()}

    def _evaluate(self, state: TrainState, batch: dict[str, jax.Array]) -> _Evaluated:
        def sums(params: Any, rest: Any, batch: Any) -> _Evaluated:
            model, given = self._merged(params, rest), self.task.model_inputs(batch)
            captured: dict[str, jax.Array] = {}
            outputs, _ = model(given.inputs, lengths=given.lengths, reset=given.reset, capture=captured)
            counts = inside.counted(model, captured, _real(given, batch["weight"]))
            values = streaming.values(self.task, outputs, batch)
            return _sums(values, batch), counts, self.task.scores(outputs, batch)

        shape = batch["inputs"].shape
        if shape not in self.evaluations:
            with compiling("the evaluation"):
                program = jax.jit(sums, out_shardings=self.replicated)
                self.evaluations[shape] = program.lower(state.params, state.rest, batch).compile()
        return self.evaluations[shape](state.params, state.rest, batch)

    def evaluate(self, state: TrainState, split: str) -> tuple[dict[str, float], dict[str, float]]:
        """Loss and metrics of a split, and what the layers did there (`mru.training.inside`).

        Raises:
            RunFailed: An example has something that is not finite.
        """
        batches = evaluation_batches(
            self.task,
            split,
            batch_size=self.config.train.batch_size,
            buckets=self.config.train.buckets,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        with jax.set_mesh(self.mesh):
            sums = [self._evaluate(state, self.place(batch, 0)) for batch in batches]
        metrics, counts, scores = zip(*jax.device_get(sums), strict=True)
        means = _mean(list(metrics), split)
        return means | self._summarised(split, scores), inside.summarised(counts)

    def _summarised(self, split: str, scores: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """The task's metrics of a whole split, without what fills the last batch up."""
        size = self.task.sizes[split]
        return self.task.summarise({name: np.concatenate([x[name] for x in scores])[:size] for name in scores[0]})

    @functools.cached_property
    def _chunk(self) -> Callable[..., Any]:
        def outputs(params: Any, rest: Any, x: Any, state: Any, reset: Any) -> Any:
            return self._merged(params, rest)(x, state, reset=reset)

        return jax.jit(outputs, out_shardings=self.replicated)

    def evaluate_at(self, state: TrainState, task: Task, check: Callable[[], None]) -> dict[str, float]:
        """Test metrics at another length, streamed: chunks of the sequence with the state carried between them.

        The number of examples falls with the length, so that every point takes about the same time. The device holds
        one chunk at a time, also of the outputs of a task with one at every step, if it has `Task.counted`.

        Args:
            state: Whose parameters to evaluate.
            task: The task at that length.
            check: Called after each chunk; what it raises ends the evaluation.

        Raises:
            RunFailed: As `evaluate`.
        """
        rows, budget = RETENTION_ROWS, 2**22
        count = max(rows, min(task.sizes["test"], budget // task.length))
        add = jax.jit(functools.partial(streaming.added, task), out_shardings=self.replicated)
        sums = []
        for batch in evaluation_batches(task, "test", batch_size=rows, count=count, prefetch=1):
            given = task.model_inputs(batch)
            if given.lengths is not None:
                raise UserError(
                    f"task.retention = {self.task.retention}, allowed: [], as {task.name} pads its examples"
                )
            values = streaming.values_of_chunks(task, self._chunks(state, given, check), batch, add)
            sums.append(_sums(values, batch))
        return _mean(sums, f"test (length {task.length:,})")

    def _chunks(
        self, state: TrainState, given: ModelInputs, check: Callable[[], None]
    ) -> Iterator[tuple[slice, jax.Array]]:
        """Where each chunk of the sequences is, and the outputs there."""
        rows, time = given.inputs.shape[:2]
        carried = nnx.merge(self.graphdef, state.params, state.rest).initial_state((rows,))
        for here in streaming.slices(time):
            resets = None if given.reset is None else given.reset[:, here]
            outputs, carried = self._chunk(state.params, state.rest, given.inputs[:, here], carried, resets)
            yield here, outputs
            check()


def _real(given: ModelInputs, weight: jax.Array) -> jax.Array:
    """Which steps are data, bool (B, T): neither padding of a sequence nor an example that fills the last batch up."""
    time = given.inputs.shape[1]
    real = jnp.broadcast_to(weight[:, None] > 0, (weight.shape[0], time))
    return real if given.lengths is None else real & (jnp.arange(time) < given.lengths[:, None])


def _sums(values: dict[str, jax.Array], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """What `_mean` needs of a batch: the sum of each loss or metric (B,), and an example where one is not finite."""
    weight = batch["weight"]
    sums = {name: (x * weight).sum() for name, x in values.items()} | {"weight": weight.sum()}
    finite = jnp.all(jnp.stack([jnp.isfinite(x) for x in values.values()]), 0)
    return sums | {"bad": jnp.where(finite.all(), -1, jnp.asarray(batch["index"])[jnp.argmin(finite)])}


def _mean(sums: list[dict[str, jax.Array]], split: str) -> dict[str, float]:
    """Weighted means, in float64, of what the batches summed up.

    Raises:
        RunFailed: A loss or metric was not finite; the message names the split and such an example.
    """
    fetched = jax.device_get(sums)
    bad = [int(x["bad"]) for x in fetched if x["bad"] >= 0]
    if bad:
        raise RunFailed(f"the loss or a metric of {split} example {bad[0]} is not finite, though its data is")
    total = {name: sum(float(x[name]) for x in fetched) for name in fetched[0] if name != "bad"}
    weight = total.pop("weight")
    return {name: value / weight for name, value in total.items()}
