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
from mru.training import alignment, inside, means, optimizer, schedules, streaming
from mru.training.batches import evaluation_batches
from mru.training.config import Config
from mru.training.devices import compiled, parameter_shardings
from mru.training.estimate import RETENTION_ROWS
from mru.training.messages import UserError, compiling
from mru.training.seed_and_rate import SeedAndRate
from mru.training.task import ModelInputs, Task

Shapes = tuple[tuple[int, ...], ...]
# Sums of loss and metrics, what the layers did, and the task's scores of each example, of one batch.
Evaluated = tuple[dict[str, jax.Array], inside.Counts, dict[str, jax.Array]]


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
        own: Seed and learning rate of this run.
        rate: Learning rate of a step.
        settled: The first step at which every scheduled scalar has arrived. Until then the model is not the one that
            will be used, and nothing is selected.
    """

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.mesh, self.task = config, mesh, config.task
        self.own = SeedAndRate(jax.random.key(config.train.seed), config.optimizer.lr)
        self.rate, self.transform = optimizer.rate(config, self.own.lr), optimizer.of(config, self.own.lr)
        self.graphdef: nnx.GraphDef[Any]
        self.graphdef, params, rest = nnx.split(nnx.eval_shape(self._model), nnx.Param, ...)  # type: ignore[misc]
        self.parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
        self.ramps = schedules.ramps(rest, config.train.schedules)
        self.settled = max((ramp.arrival(config.train.steps) for ramp in self.ramps.values()), default=0)
        self.shardings = parameter_shardings(mesh, jax.eval_shape(self._initial))
        self.replicated = NamedSharding(mesh, P())
        # By the shapes of the batch, of which buckets make several.
        self.programs: dict[Shapes, Callable[..., Any]] = {}
        self.evaluations: dict[Shapes, Callable[..., Any]] = {}

    def _model(self, key: jax.Array | None = None) -> Any:
        return self.config.make_model(nnx.Rngs(self.own.key if key is None else key))

    def _scheduled(self, rest: nnx.State[Any, Any], step: jax.Array) -> nnx.State[Any, Any]:
        return schedules.set_to(rest, self.ramps, step, self.config.train.steps)

    def drawn(self, key: jax.Array) -> TrainState:
        """The state before the first step of a run of this key, not compiled."""
        _, params, rest = nnx.split(self._model(key), nnx.Param, ...)  # type: ignore[misc]
        step = jnp.zeros((), jnp.int32)
        return TrainState(params, self._scheduled(rest, step), self.transform.init(params), step)

    def _initial(self) -> TrainState:
        return self.drawn(self.own.key)

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
        return self.step(self.own, state, batch)

    def step(
        self, own: SeedAndRate, state: TrainState, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The state after a step of a run of this seed and rate, and the metrics of the step, not compiled."""
        of_run = own.key, own.writing_key, own.augmentation_key
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
            learn = alignment.value_and_grad(model_of, outputs_of, loss_of, given, own.feedback_key)
            ((loss, metrics), gradient), rest = learn(state.params), state.rest
        else:
            (loss, (metrics, rest)), gradient = jax.value_and_grad(forward, has_aux=True)(state.params)
        updates, new = optimizer.of(self.config, own.lr).update(gradient, state.optimizer, state.params)
        metrics = metrics | {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        params, step = optax.apply_updates(state.params, updates), state.step + 1
        return TrainState(params, self._scheduled(rest, step), new, step), metrics

    def compile(self, state: TrainState, batches: dict[str, jax.Array]) -> Callable[..., Any]:
        """Several train steps in one call, batches (K, B, ...): the state after them and the metrics of each, (K,).

        It is compiled once for each shape of the batches, of which buckets make several.
        """
        shapes = _shapes(batches)
        if shapes not in self.programs:
            self.programs[shapes] = self._compiled(state, batches)
        return self.programs[shapes]

    def _compiled(self, state: TrainState, batches: dict[str, jax.Array]) -> Callable[..., Any]:
        many = jax.jit(
            lambda state, batches: jax.lax.scan(self._step, state, batches),
            donate_argnums=0,
            out_shardings=(self.shardings, self.replicated),
        )
        # `mru.scan` looks in the mesh for the axis `seq`.
        with compiling("the train step"), jax.set_mesh(self.mesh):
            return compiled(many.lower(state, batches), self.mesh)

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

    def evaluated(self, params: Any, rest: Any, batch: dict[str, jax.Array]) -> Evaluated:
        """What `summed_up` needs of a batch, not compiled."""
        model, given = self._merged(params, rest), self.task.model_inputs(batch)
        captured: dict[str, jax.Array] = {}
        outputs, _ = model(given.inputs, lengths=given.lengths, reset=given.reset, capture=captured)
        counts = inside.counted(model, captured, _real(given, batch["weight"]))
        values = streaming.values(self.task, outputs, batch)
        return means.sums(values, batch), counts, self.task.scores(outputs, batch)

    def _evaluate(self, state: TrainState, batch: dict[str, jax.Array]) -> Evaluated:
        shapes = _shapes(batch)
        if shapes not in self.evaluations:
            with compiling("the evaluation"):
                program = jax.jit(self.evaluated, out_shardings=self.replicated)
                self.evaluations[shapes] = program.lower(state.params, state.rest, batch).compile()
        return self.evaluations[shapes](state.params, state.rest, batch)

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
            found = [self._evaluate(state, self.place(batch, 0)) for batch in batches]
        return self.summed_up(split, jax.device_get(found))

    def summed_up(self, split: str, found: Sequence[Evaluated]) -> tuple[dict[str, float], dict[str, float]]:
        """What `evaluate` returns, from all batches of a split.

        Raises:
            RunFailed: As there.
        """
        metrics, counts, scores = zip(*found, strict=True)
        found_means = means.mean(list(metrics), split)
        return found_means | self._summarised(split, scores), inside.summarised(counts)

    def _summarised(self, split: str, scores: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """The task's metrics of a whole split, without what fills the last batch up."""
        size = self.task.sizes[split]
        return self.task.summarise({name: np.concatenate([x[name] for x in scores])[:size] for name in scores[0]})

    def carried(self, params: Any, rest: Any, x: Any, state: Any, reset: Any) -> Any:
        """Outputs at a chunk of a sequence, and the state after it, not compiled."""
        return self._merged(params, rest)(x, state, reset=reset)

    @functools.cached_property
    def _chunk(self) -> Callable[..., Any]:
        return jax.jit(self.carried, out_shardings=self.replicated)

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
        rows, count = RETENTION_ROWS, streaming.count(task, RETENTION_ROWS)
        add = jax.jit(functools.partial(streaming.added, task), out_shardings=self.replicated)
        sums = []
        for batch in evaluation_batches(task, "test", batch_size=rows, count=count, prefetch=1):
            chunks = self._chunks(state, self.whole_inputs(task, batch), check)
            values = streaming.values_of_chunks(task, chunks, batch, add)
            sums.append(means.sums(values, batch))
        return means.mean(sums, f"test (length {task.length:,})")

    def whole_inputs(self, task: Task, batch: Mapping[str, Any]) -> ModelInputs:
        """What the model is called with for examples that are read in chunks.

        Raises:
            UserError: They are padded.
        """
        given = task.model_inputs(dict(batch))
        if given.lengths is not None:
            raise UserError(f"task.retention = {self.task.retention}, allowed: [], as {task.name} pads its examples")
        return given

    def first_state(self, params: Any, rest: Any, rows: int) -> Any:
        """The state of the model before the first chunk of so many sequences."""
        return nnx.merge(self.graphdef, params, rest).initial_state((rows,))

    def _chunks(
        self, state: TrainState, given: ModelInputs, check: Callable[[], None]
    ) -> Iterator[tuple[slice, jax.Array]]:
        """Where each chunk of the sequences is, and the outputs there."""
        rows, time = given.inputs.shape[:2]
        carried = self.first_state(state.params, state.rest, rows)
        for here in streaming.slices(time):
            resets = None if given.reset is None else given.reset[:, here]
            outputs, carried = self._chunk(state.params, state.rest, given.inputs[:, here], carried, resets)
            yield here, outputs
            check()


def _shapes(batch: Mapping[str, jax.Array]) -> Shapes:
    return tuple(x.shape for x in batch.values())


def _real(given: ModelInputs, weight: jax.Array) -> jax.Array:
    """Which steps are data, bool (B, T): neither padding of a sequence nor an example that fills the last batch up."""
    time = given.inputs.shape[1]
    real = jnp.broadcast_to(weight[:, None] > 0, (weight.shape[0], time))
    return real if given.lengths is None else real & (jnp.arange(time) < given.lengths[:, None])
