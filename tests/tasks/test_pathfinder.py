import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import tasks
from tasks import _paint, _pathfinder

Pathfinder, PathX = tasks.get("pathfinder"), tasks.get("path_x")
SIDES = sorted(_pathfinder.DRAWINGS)


@pytest.fixture(scope="module")
def scenes():
    """Some scenes of each resolution."""
    return {side: _pathfinder.scenes(0, side, "test", np.arange(12)) for side in SIDES}


def curves(scene):
    """The points of each snake, denser than they are kept."""
    for snakes in scene.snakes:
        for points in snakes.points:
            yield np.concatenate([points[:-1] + f * np.diff(points, axis=0) for f in (0, 0.25, 0.5, 0.75)])


def closest(a, b):
    return min(math.dist(p, q) for p in a for q in b)


@pytest.mark.parametrize("side", SIDES)
def test_snakes_never_meet(side, scenes):
    drawing = _pathfinder.DRAWINGS[side]
    # Between two points that are kept a curve can come nearer than they do, but not by much.
    margin = math.sqrt(drawing.margin**2 - (drawing.period / 2) ** 2)
    assert margin > drawing.thickness + 1
    for scene in scenes[side][:4]:
        found = list(curves(scene))
        assert all(closest(a, b) >= margin for i, a in enumerate(found) for b in found[:i])
        for points in scene.snakes[0].points:
            assert all(math.dist(points[i], points[j]) >= drawing.margin for j in range(29) for i in range(j - 3))


@pytest.mark.parametrize("side", SIDES)
def test_snakes_are_dashes_in_a_row_within_the_image(side, scenes):
    drawing = _pathfinder.DRAWINGS[side]
    for scene in scenes[side]:
        assert [len(snakes.headings.T) for snakes in scene.snakes] == [14, 4]
        assert len(scene.snakes[0].headings) == 2
        assert len(scene.snakes[1].headings) <= 8
        for snakes in scene.snakes:
            assert snakes.points.min(initial=side) >= drawing.radius
            assert snakes.points.max(initial=0) <= side - drawing.radius
            for headings, points in zip(snakes.headings, snakes.points):
                angles = headings * math.tau / 1024
                along = np.stack([np.cos(angles), np.sin(angles)], 1) * drawing.period / 2
                np.testing.assert_allclose(points[1::2] - points[:-1:2], along, atol=1e-3)
                np.testing.assert_allclose(points[2::2] - points[1::2], along, atol=1e-3)
                turns = (np.diff(headings) + 512) % 1024 - 512
                assert abs(turns).max() <= 3 * 54
                assert abs(np.diff(turns)).max() <= 2 * 54  # smooth


@pytest.mark.parametrize("side", SIDES)
def test_dots_are_ends_of_one_snake_or_of_two(side, scenes):
    for scene in scenes[side]:
        where = []
        for dot in scene.dots:
            (found,) = np.argwhere((scene.snakes[0].points == dot).all(-1))
            assert found[1] in (0, 28)
            where.append(found.tolist())
        assert where[0] != where[1]
        assert (where[0][0] == where[1][0]) == scene.joined


@pytest.fixture(scope="module")
def many():
    """Images, labels and distances of the dots of 900 scenes."""
    found = _pathfinder.scenes(0, 32, "train", np.arange(900))
    images = _pathfinder.paint(found, _pathfinder.DRAWINGS[32]).reshape(900, -1)
    return images, np.array([scene.joined for scene in found]), np.array([math.dist(*scene.dots) for scene in found])


def test_labels_are_balanced_and_decide_neither_brightness_nor_distance(many):
    images, labels, distances = many
    assert abs(labels.mean() - 0.5) < 4 * math.sqrt(0.25 / 900)
    for numbers in (images.mean(1), (images == 255).sum(1), distances):
        error = math.hypot(*(numbers[labels == label].std() / math.sqrt(450) for label in (0, 1)))
        assert abs(numbers[labels].mean() - numbers[~labels].mean()) < 4 * error


def test_a_classifier_of_pixel_counts_and_distance_is_at_chance(many):
    images, labels, distances = many
    counts = np.stack([(images // 32 == level).sum(1) for level in range(8)], 1)
    features = StandardScaler().fit_transform(np.column_stack([counts, distances, distances**2]))
    accuracy = LogisticRegression().fit(features[:500], labels[:500]).score(features[500:], labels[500:])
    assert abs(accuracy - 0.5) < 4 * math.sqrt(0.25 / 400)


def sampled(side, inside):
    """Share of each pixel where `inside(x, y)` holds, by 20 x 20 samples."""
    places = (np.arange(20 * side) + 0.5) / 20
    x, y = np.meshgrid(places, places)
    return inside(x, y).reshape(side, 20, side, 20).mean((1, 3))


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4, 2.0])
def test_a_dash_covers_what_it_should(angle):
    image, direction = np.zeros((1, 12, 12)), np.array([math.cos(angle), math.sin(angle)])
    _paint.dashes(image, np.array([0]), np.array([[6.3, 5.4]]), direction[None], 5, 1.5)

    def inside(x, y):
        along = (x - 6.3) * direction[0] + (y - 5.4) * direction[1]
        across = (y - 5.4) * direction[0] - (x - 6.3) * direction[1]
        return (abs(along) < 2.5) & (abs(across) < 0.75)

    exact = sampled(12, inside)
    assert abs(image[0] - exact).max() < 0.25
    assert image.sum() == pytest.approx(5 * 1.5, rel=0.05)


def test_discs_cover_what_they_should_and_may_leave_the_image():
    images = np.zeros((2, 8, 8))
    _paint.discs(images, np.array([1, 1]), np.array([[3.2, 4.6], [0.0, 8.0]]), 2.25)
    exact = sampled(8, lambda x, y: (np.hypot(x - 3.2, y - 4.6) < 2.25) | (np.hypot(x, y - 8) < 2.25))
    assert abs(images[1] - exact).max() < 0.25
    assert not images[0].any()


@pytest.mark.parametrize("task", [Pathfinder(resolution=64), PathX(), Pathfinder(seed=2**40)])
def test_images_are_sequences_of_pixels(task):
    batch = task.examples("validation", np.array([19999, 5]))
    assert batch["inputs"].shape == (2, task.length, 1)
    assert batch["inputs"].dtype == np.float32
    assert task.length == task.resolution**2
    made = _pathfinder.generate(task.seed, task.resolution, "validation", np.array([19999, 5]))
    np.testing.assert_allclose(batch["inputs"].reshape(made["inputs"].shape), made["inputs"] / 127.5 - 1, atol=1e-6)
    assert batch["inputs"].min() == -1
    assert batch["inputs"].max() == 1
    np.testing.assert_array_equal(batch["targets"], made["targets"])


def test_examples_depend_on_their_index_alone_and_on_seed_and_split():
    task, indices = Pathfinder(), np.array([7, 0, 19999, 7])
    rows = task.examples("test", indices)
    for i, index in enumerate(indices):
        for name, array in Pathfinder().examples("test", np.array([index])).items():
            np.testing.assert_array_equal(array[0], rows[name][i])
    others = [Pathfinder(seed=1).examples("test", indices), task.examples("validation", indices)]
    assert len({row.tobytes() for made in (rows, *others) for row in made["inputs"]}) == 9
    assert task.examples("train", np.array([], int))["inputs"].shape == (0, 1024, 1)


@pytest.mark.parametrize("resolution", [33, 0, 32.0, [32], "32"])
def test_resolutions_are_three(resolution):
    with pytest.raises(ValueError, match=r"task.resolution = .*, allowed for pathfinder: 32, 64, 128$"):
        Pathfinder(resolution=resolution)
