import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection

from mru.plots import curves, style


def log(*losses, every=10, metric="accuracy"):
    lines = []
    for number, loss in enumerate(losses, 1):
        for split, factor in (("train", 0.5), ("validation", 1.0)):
            lines.append({"step": every * number, "split": split, "loss": factor * loss, metric: 1 - factor * loss})
    return lines


def lines(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def bands(axis):
    """Least and largest of each band by place, of all bands in order."""
    found = []
    for band in axis.collections:
        assert isinstance(band, PolyCollection)
        vertices = band.get_paths()[0].vertices
        found.append(
            {
                x: (vertices[vertices[:, 0] == x, 1].min(), vertices[vertices[:, 0] == x, 1].max())
                for x in sorted(set(vertices[:, 0]))
            }
        )
    return found


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def test_spread():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3))
    runs = [dict(zip([1, 5, 30], row)) for row in values]
    runs[2] |= {40: 1.0}  # a place that others lack
    places, mean, least, largest = curves.spread(runs)
    np.testing.assert_array_equal(places, [1, 5, 30])
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_array_equal(least, values.min(0))
    np.testing.assert_array_equal(largest, values.max(0))


def test_learning_of_one_run(legible):
    run = {"log": log(0.8, 0.4, 0.6), "best_step": 20, "test": {"loss": 0.45, "accuracy": 0.55}}
    figure = curves.learning({"BMRU": [run]}, "accuracy", goal="max", chance=0.1, title="a task")
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    for axis, expected in ((loss, [0.8, 0.4, 0.6]), (accuracy, [0.2, 0.6, 0.4])):
        found = lines(axis)
        np.testing.assert_allclose(found["validation"].get_xydata(), np.transpose([[10, 20, 30], expected]))
        assert found["validation"].get_linestyle() == "None"  # a few evaluations are points, not a curve
        assert found["test, at best step"].get_xydata().tolist() == [[20, 0.45 if axis is loss else 0.55]]
    np.testing.assert_allclose(lines(loss)["train"].get_ydata(), [0.4, 0.2, 0.3])
    assert "chance" not in lines(loss)
    assert lines(accuracy)["chance"].get_ydata() == [0.1, 0.1]
    assert accuracy.get_ylim()[0] < 0.1  # the line is not at the edge
    assert legend(figure) == ["train", "validation", "test, at best step", "chance"]
    assert "a task" in legible(figure)


def test_learning_before_the_end():
    figure = curves.learning({"BMRU": [{"log": log(0.8)}]}, "accuracy", goal="max")
    assert set(lines(figure.axes[0])) == {"train", "validation"}


def test_a_metric_that_is_the_loss_has_no_panel_of_its_own():
    held = [line | {"mse": line["loss"]} for line in log(1.0, 0.01)]
    figure = curves.learning({"BMRU": [{"log": held}]}, "mse", chance=1.0)
    (axis,) = figure.axes
    assert axis.get_ylabel() == "mse (the loss)"
    assert axis.get_yscale() == "log"
    assert "chance" in lines(axis)


def test_seeds_are_one_line_with_a_band(legible):
    losses = np.random.default_rng(1).uniform(0.2, 0.9, (3, 4))
    runs = {"BMRU": [{"log": log(*row)} for row in losses], "LRU": [{"log": log(0.9, 0.8, 0.7, 0.6)}]}
    figure = curves.learning(runs, "accuracy", goal="max", chance=0.1)
    for axis, values in zip(figure.axes, (losses, 1 - losses)):
        mean, other, *_ = axis.get_lines()
        np.testing.assert_allclose(mean.get_xydata(), np.transpose([[10, 20, 30, 40], values.mean(0)]))
        assert other.get_label() == "LRU"
        (band,) = bands(axis)
        for number, place in enumerate([10, 20, 30, 40]):
            assert band[place] == pytest.approx((values[:, number].min(), values[:, number].max()))
        (drawn,) = axis.collections
        assert matplotlib.colors.same_color(drawn.get_facecolor()[0][:3], mean.get_color())
    assert legend(figure) == ["BMRU: mean, min to max of 3 seeds", "LRU", "chance"]
    assert figure.axes[1].get_ylabel() == "validation accuracy"
    legible(figure)


def test_retention(legible):
    first, second = {20: 0.01, 2000: 0.3}, {20: 0.02, 2000: 0.5}
    figure = curves.retention(
        {"BMRU": [first, second], "LRU": [{20: 0.9, 2000: 1.1}]}, "mse", chance=1.0, length_name="delay", trained=20
    )
    (axis,) = figure.axes
    mean, lru, *_ = axis.get_lines()
    np.testing.assert_allclose(mean.get_xydata(), [[20, 0.015], [2000, 0.4]])
    np.testing.assert_allclose(lru.get_xydata(), [[20, 0.9], [2000, 1.1]])
    assert bands(axis) == [{20: (0.01, 0.02), 2000: (0.3, 0.5)}]
    assert lines(axis)["length of training"].get_xdata() == [20, 20]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_xscale(), axis.get_yscale()) == (
        "delay",
        "test mse",
        "log",
        "log",
    )
    legible(figure)


@pytest.mark.parametrize(
    ("values", "goal", "chance", "expected"),
    [
        ((0.01, 0.3), "min", None, "log"),
        ((0.1, 0.3), "min", None, "linear"),
        ((0.01, 0.9), "max", 1.0, "linear"),
        ((0, 1), "min", 1.0, "linear"),
        ((0.01, 0.02), "min", 1.0, "log"),
        ((0.1, 0.2), "min", 1.0, "linear"),
    ],
)
def test_scale(values, goal, chance, expected):
    figure = curves.retention({"BMRU": [dict(zip((1, 2), values))]}, "x", goal=goal, chance=chance, trained=1)
    assert figure.axes[0].get_yscale() == expected


def test_curves_that_lie_on_each_other_are_all_seen():
    """Each colour in the picture, beside what is drawn over it."""
    figure = curves.retention({name: [{20: 0.5, 200: 0.5, 2000: 0.5}] for name in "abc"}, "mse")
    for legend_ in figure.legends:
        legend_.set_visible(False)
    figure.set_dpi(style.DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    for number in range(3):
        colour = matplotlib.colors.to_rgb(style.PALETTE[number])
        assert np.sum(np.abs(pixels - colour).max(-1) < 0.1) > 50, number


def test_robustness(legible):
    rng = np.random.default_rng(2)
    values = [[0.9], rng.uniform(0.5, 0.9, 5).tolist(), [0.2, None, 0.4, None, 0.3]]
    other = [[0.8], rng.uniform(0.5, 0.9, 5).tolist(), [None] * 5]
    p = [0.0, 0.05, 0.5]
    runs = {"BMRU": [{"p": p, "values": values}, {"p": p, "values": other}], "LRU": [{"p": p, "values": other}]}
    figure = curves.robustness(runs, "accuracy", goal="max", chance=0.1)
    (axis,) = figure.axes
    bmru, lru, *_ = axis.get_lines()
    both = values[1] + other[1]
    np.testing.assert_allclose(bmru.get_xydata(), [[0, 0.85], [5, np.mean(both)], [50, 0.3]])
    np.testing.assert_allclose(lru.get_xydata(), [[0, 0.8], [5, np.mean(other[1])]])
    expected = {0: (0.8, 0.9), 5: (min(both), max(both)), 50: (0.2, 0.4)}
    found = bands(axis)[0]
    assert found.keys() == expected.keys()
    for place in expected:
        assert found[place] == pytest.approx(expected[place])
    assert legend(figure)[:2] == [
        "BMRU: mean, min to max of 10 draws of 2 seeds; 7 draws are infinite",
        "LRU: mean, min to max of 5 draws; 5 draws are infinite",
    ]
    assert axis.get_xlabel() == "variability of the parameters p (%)"
    legible(figure)


def test_layers(legible):
    """Also a quantity that a layer has only later, and one that spans decades."""
    held = [
        {
            "step": step,
            "split": "inside",
            "time": 1.0,
            "0/0/LRU/time_constant": 10.0 * step,
            "1/0/BMRU/write_rate": 1 / step,
        }
        for step in (1, 2, 30)
    ]
    held[2] |= {"2/0/PMRU/write_rate": 0.5}
    figure = curves.layers(log(0.5) + held, title="a task")
    constants, rates = figure.axes
    assert (constants.get_ylabel(), rates.get_ylabel()) == ("time constant", "write rate")
    (lru,) = constants.get_lines()
    bmru, pmru = rates.get_lines()
    assert lru.get_xydata().tolist() == [[1, 10], [2, 20], [30, 300]]
    np.testing.assert_allclose(bmru.get_xydata(), [[1, 1], [2, 0.5], [30, 1 / 30]])
    assert pmru.get_xydata().tolist() == [[30, 0.5]]
    assert len({line.get_color() for line in (lru, bmru, pmru)}) == 3
    assert legend(figure) == ["0/0/LRU", "1/0/BMRU", "2/0/PMRU"]
    assert {axis.get_yscale() for axis in figure.axes} == {"log"}
    legible(figure)
    (axis,) = curves.layers([{"step": step, "split": "inside", "0/0/LRU/x": 5.0} for step in (1, 2)]).axes
    assert (axis.get_yscale(), axis.get_ylim()) == ("linear", (0, 5.5))
    with pytest.raises(ValueError, match="nothing of the layers"):
        curves.layers(log(0.5))
