import itertools
import struct
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib import colors

from mru.plots import style

# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    rgb = np.array(colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(colour, matrix):
    xyz = XYZ @ np.clip(np.asarray(matrix) @ linear(colour), 0, 1) / XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def least_distance(palette, blindness):
    points = [lab(colour, BLINDNESS[blindness]) for colour in palette]
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(points, 2))


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_can_be_told_apart(blindness):
    """Two colours less than about 2 apart in Lab look alike."""
    assert least_distance(style.PALETTE, blindness) > 15


def test_the_distance_tells_bad_colours():
    green_and_red = ("#2ca02c", "#d62728")
    assert least_distance(green_and_red, "none") > 100
    assert least_distance(("#8a9a3b", "#b5893c"), "deuteranopia") < 10 < least_distance(("#8a9a3b", "#b5893c"), "none")


def test_colours_are_seen_on_white():
    for colour in (*style.PALETTE, style.GREY):
        assert 1.05 / (linear(colour) @ XYZ[1] + 0.05) > 2


def test_lines_differ():
    looks = [style.line(number, points) for number in range(28) for points in (1000,)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 28
    assert "marker" not in looks[0]
    assert [style.line(number, 5)["marker"] for number in range(3)] == ["o", "s", "D"]


def figure():
    with matplotlib.rc_context(style.SETTINGS):
        made, (axis,) = style.panels(style.COLUMN, 2)
        axis.plot([1, 2], [3, 4], label="line")
        style.legend_below(made, axis)
    return made


def test_both_files_are_written(tmp_path, legible):
    drawn = figure()
    legible(drawn)
    paths = style.save(drawn, tmp_path / "new" / "folder", "name")
    assert paths == [tmp_path / "new/folder/name.png", tmp_path / "new/folder/name.svg"]
    assert sorted((tmp_path / "new/folder").iterdir()) == paths
    png = paths[0].read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (int(style.COLUMN * style.DPI), 2 * style.DPI)
    place = png.index(b"pHYs")
    assert struct.unpack(">I", png[place + 4 : place + 8])[0] * 0.0254 >= 150  # pixels an inch
    root = ElementTree.parse(paths[1]).getroot()
    assert root.tag.endswith("svg")
    assert float(root.get("width").removesuffix("pt")) == pytest.approx(72 * style.COLUMN)
    assert not drawn.axes


def test_equal_pictures_are_equal_files(tmp_path):
    first, second = (style.save(figure(), tmp_path / name, "x") for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_what_can_not_be_written_leaves_the_file_before(tmp_path):
    style.save(figure(), tmp_path, "x")
    before = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.svg").unlink()
    (tmp_path / "x.svg").mkdir()
    with pytest.raises(OSError, match=r"x\.svg"):
        style.save(figure(), tmp_path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png", "x.svg"]
    assert (tmp_path / "x.png").read_bytes() == before


def test_matplotlibs_own_settings_are_left():
    before = dict(matplotlib.rcParams)
    style.styled(figure)()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("limits", "expected"),
    [((0.005, 2e6), {"0.01", "0.1", "1", "10", "100", "1k", "10k", "100k", "1M"}), ((0.015, 0.06), {"0.02", "0.05"})],
)
def test_labels_of_a_logarithmic_axis(limits, expected, legible):
    with matplotlib.rc_context(style.SETTINGS):
        drawn, (axis,) = style.panels(style.COLUMN, 2)
    axis.plot(limits, [0, 1])
    style.logarithmic(axis, "x")
    axis.set_xlim(limits)
    legible(drawn)
    ticks = [tick.label1 for tick in [*axis.xaxis.get_major_ticks(), *axis.xaxis.get_minor_ticks()]]
    shown = {t.get_text() for t in ticks if t.get_text() and limits[0] <= t.get_position()[0] <= limits[1]}
    assert shown == expected
