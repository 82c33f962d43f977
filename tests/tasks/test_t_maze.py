import numpy as np
import pytest

import tasks

TMaze = tasks.get("t_maze")
UP, DOWN, CORRIDOR, JUNCTION = np.eye(4)


@pytest.mark.parametrize("corridor", [20, 1, 2])
def test_the_sign_is_in_the_first_cell_alone(corridor):
    batch = TMaze(corridor=corridor).examples("train", np.arange(30))
    assert set(batch["targets"].tolist()) == {0, 1}
    for cells, action in zip(batch["inputs"], batch["targets"]):
        walk = [(UP, DOWN)[action], *[CORRIDOR] * (corridor - 1), JUNCTION]
        np.testing.assert_array_equal(cells, walk)
    assert batch["inputs"].dtype == np.float32


def test_signs_are_fair_and_depend_on_seed_split_and_index_alone():
    signs = {
        (seed, split): TMaze(seed=seed).examples(split, np.arange(1000))["targets"]
        for seed in (0, 1)
        for split in ("train", "validation", "test")
    }
    rows = [tuple(row) for row in signs.values()]
    assert len(set(rows)) == 6
    assert all(abs(np.mean(row) - 0.5) < 2.5 / np.sqrt(1000) for row in rows)
    again = TMaze(corridor=300).examples("test", np.array([999, 5]))["targets"]
    np.testing.assert_array_equal(again, signs[0, "test"][[999, 5]])


def test_success_is_1_where_the_action_is_right():
    logits = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(TMaze().metrics(logits, {"targets": np.array([0, 1])})["success"], [1, 0])


def test_the_corridor_is_checked():
    with pytest.raises(ValueError, match=r"task\.corridor = 0, allowed for t_maze: an integer >= 1"):
        TMaze(corridor=0)
