import numpy as np
import pytest
from matplotlib import colors

from mru.plots import classification, style


def test_confusion(legible):
    counts = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    figure = classification.confusion(counts, classes=["a", "b", "c"], title="a task")
    axis, bar = figure.axes
    (image,) = axis.images
    np.testing.assert_allclose(image.get_array(), [[0.8, 0.2, 0], [0, 0.5, 0.5], [0, 0, 0]])
    assert {text.get_position(): text.get_text() for text in axis.texts} == {
        (0, 0): "8",
        (1, 0): "2",
        (1, 1): "5",
        (2, 1): "5",
    }
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["a", "b", "c"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("class of the model", "true class")
    assert bar.get_ylabel() == "fraction of the true class"
    assert {"8", "2", "5", "a task"} <= set(legible(figure))


@pytest.mark.parametrize("fraction", [0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0])
def test_numbers_stand_out_from_their_squares(fraction):
    """A contrast of 3 at least, as is asked of large text; most have more."""
    counts = np.array([[round(100 * fraction), round(100 * (1 - fraction))], [0, 100]])
    axis = classification.confusion(counts).axes[0]
    (image,) = axis.images

    def luminance(colour):
        rgb = np.array(colors.to_rgb(colour))
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    for text in axis.texts:
        j, i = text.get_position()
        square = luminance(image.to_rgba(image.get_array())[i, j, :3])
        low, high = sorted([square, luminance(text.get_color())])
        assert (high + 0.05) / (low + 0.05) > 3


def test_many_classes_have_no_numbers(legible):
    figure = classification.confusion(np.eye(100, dtype=int))
    assert not figure.axes[0].texts
    assert figure.get_size_inches()[0] <= style.PAGE
    legible(figure)
