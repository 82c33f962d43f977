import re

import pytest

from mru.training.sections import (
    DistributedConfig,
    MeshConfig,
    ModelConfig,
    MultistabilityConfig,
    OptimizerConfig,
    TrainConfig,
    WeightsConfig,
)


def test_dispatch_divides_every_boundary():
    for steps, every, start in ((1000, 200, 0), (9000, 500, 0), (7, 7, 0), (21, 14, 0), (26, 13, 0), (1000, 200, 36)):
        k = TrainConfig(steps=steps, eval_every=every).dispatch(start)
        assert 1 <= k <= 10
        assert steps % k == every % k == start % k == 0
    assert TrainConfig(steps=1000, eval_every=200).dispatch() == 10
    assert TrainConfig(steps_per_dispatch=4).dispatch() == 4
    assert TrainConfig(buckets=2).dispatch() == 1  # steps are of several lengths
    # Fewer steps than one interval of evaluations: there is one at the end, and calls adapt.
    assert TrainConfig(steps=100, eval_every=400).dispatch() == 10
    assert TrainConfig(steps=100, eval_every=33).dispatch() == 1
    assert TrainConfig(steps=20, eval_every=10, steps_per_dispatch=3).dispatch() == 2
    assert [step for step in range(1, 101) if TrainConfig(steps=100, eval_every=400).evaluates(step)] == [100]
    assert [step for step in range(1, 101) if TrainConfig(steps=100, eval_every=30).evaluates(step)] == [
        30,
        60,
        90,
        100,
    ]


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        (TrainConfig, {"steps": 0}, "train.steps = 0, allowed: an integer > 0"),
        (TrainConfig, {"seed": 2**32}, "train.seed = 4294967296, allowed: below 2^32"),
        (OptimizerConfig, {"clip": 0.0}, "optimizer.clip = 0.0, allowed: a number > 0"),
        (OptimizerConfig, {"lr": float("inf")}, "optimizer.lr = inf, allowed: a finite number"),
        (OptimizerConfig, {"b1": 1.0}, "optimizer.b1 = 1.0, allowed: at least 0 and below 1"),
        (ModelConfig, {"cells": "lru,gpt"}, "model.cells = gpt, allowed: alpha_cmru, attention"),
        (ModelConfig, {"cells": "lru,pmruu"}, "model.cells = pmruu; did you mean pmru? allowed: alpha_cmru, attention"),
        (
            ModelConfig,
            {"options": {"lru": {"r_mim": 1}}},
            "model.options.lru.r_mim = 1 is not a field; did you mean r_min?",
        ),
        (ModelConfig, {"positions": 3}, "model.positions = 3, allowed: an even number"),
        (WeightsConfig, {"bits": 1}, "weights.bits = 1, allowed: from 2 to 24, or null"),
        (WeightsConfig, {"noise": 0.1}, "weights.noise = 0.1, allowed: 0 without weights.bits"),
        (MultistabilityConfig, {"rest": 0}, "multistability.rest = 0, allowed: an integer > 0"),
        (MeshConfig, {"data": 0}, "mesh.data = 0, allowed: at least 1, or -1"),
        (DistributedConfig, {"num_processes": 2}, "distributed.coordinator_address = None, allowed: a value"),
    ],
)
def test_a_section_checks_itself(section, fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        section(**fields)
    section()  # what it is by itself is right


def test_the_cells_of_a_block_may_have_spaces_around_them():
    """As in `mru.SequenceModel`."""
    assert ModelConfig(cells="lru + bmru, s5").names == ["lru", "bmru", "s5"]
    assert ModelConfig(cells=["lru + bmru", "s5"]).names == ["lru", "bmru", "s5"]
