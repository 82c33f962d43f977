import dataclasses
import json

import pytest

from mru.training.messages import UserError
from mru.training.progress import Progress
from mru.training.sections import TrainConfig


def test_progress_goes_through_json():
    progress = Progress(best=0.5, best_step=20, since_best=1, window={"loss": [1.0, 2.0]}, wall=3.0, steps=40)
    assert Progress.from_json(json.loads(json.dumps(dataclasses.asdict(progress)))) == progress


def test_progress_of_an_earlier_version_is_read():
    """What train.py wrote at commit 1c9520a."""
    held = '{"best": 0.09, "best_step": 200, "since_best": 0, "window": {}, "train_seconds": 4.4, "wall": 11.3, '
    progress = Progress.from_json(json.loads(held + '"compile": 2.8}'))
    assert (progress.best, progress.best_step, progress.compile, progress.steps) == (0.09, 200, 2.8, None)


def test_progress_of_a_later_version_is_a_clear_word():
    with pytest.raises(UserError, match=r"another version of mru, whose progress has mood; .*--init_from"):
        Progress.from_json({"best": None, "mood": "good"})


@pytest.mark.parametrize(("goal", "values"), [("min", [3, 1, 2, 1]), ("max", [1, 3, 2, 3])])
def test_of_equal_values_the_latest_is_best(goal, values):
    progress = Progress()
    for step, value in enumerate(values, 1):
        progress = progress.evaluated(value, step, goal)
    assert (progress.best_step, progress.since_best) == (4, 0)
    assert progress.evaluated(2, 5, goal).since_best == 1


def test_when_training_is_finished():
    train = TrainConfig(steps=10, patience=2)
    assert [Progress().finished(step, train) for step in (9, 10)] == [False, True]
    assert [Progress(since_best=n).finished(5, train) for n in (1, 2)] == [False, True]
    assert not Progress(since_best=9).finished(5, TrainConfig(steps=10))
