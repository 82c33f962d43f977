"""`benchmarks/psmnist.py` plots and tabulates what is in summaries, and the configs by size keep to their sizes."""

import json
import re
import statistics
import sys

import numpy as np
import pytest
import yaml
from train_helpers import ROOT, head_of

from benchmarks import psmnist
from mru.training import summary

SIZES = {"10k": 10_000, "36k": 36_000, "165k": 165_000, "600k": 600_000}
STACKS = {"pmru": ["pmru", "pmru"], "hybrid": ["lru", "pmru"], "lru": ["lru", "lru"]}
# Made-up test accuracies by config; the seeds are those of the files in order.
MADE = {
    "pmru_10k": (9754, [0.93, 0.95, 0.94]),
    "pmru_165k": (164658, [0.98]),
    "lru_1M": (990000, [0.99, 0.97]),
    "lru_36k": (35530, [0.96]),
}
SEEDS = [0, 1, 7]


def save(folder, name, parameters, seed, accuracy, task="psmnist"):
    """A summary as a run leaves it, under a name."""
    held = dict.fromkeys(summary.KEYS) | {"task": {"name": task}, "parameters": parameters, "seed": seed}
    # What is not plotted is far from what is.
    held |= {"metric": "accuracy", "test": {"accuracy": accuracy, "loss": 0.5}, "validation": {"accuracy": 0.1}}
    folder.mkdir(exist_ok=True)
    summary.save(folder, held)
    (folder / "summary.json").rename(folder / f"{name}.json")


@pytest.fixture
def results(tmp_path):
    for name, (parameters, accuracies) in MADE.items():
        for number, accuracy in enumerate(accuracies):
            suffix = f"_seed{SEEDS[number]}" if number else ""
            save(tmp_path / "by_size", f"{name}{suffix}", parameters, SEEDS[number], accuracy)
    return tmp_path / "by_size"


def test_the_plot_has_the_numbers(results):
    figure = psmnist.draw(psmnist.points(results))
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    drawn = {container.get_label(): container for container in axis.containers}
    assert list(drawn) == ["lru", "pmru"]
    expected = {
        "lru": ([35530, 990000], [96, 98], {990000: np.std([99, 97], ddof=1)}),
        "pmru": ([9754, 164658], [94, 98], {9754: np.std([93, 95, 94], ddof=1)}),
    }
    for name, (parameters, means, deviations) in expected.items():
        line, _, (bars,) = drawn[name]
        np.testing.assert_allclose(line.get_xdata(orig=False), parameters)
        np.testing.assert_allclose(line.get_ydata(orig=False), means)
        found = [bar for bar in bars.get_segments() if np.isfinite(bar).all() and len(bar)]
        assert len(found) == len(deviations)  # a single seed has none
        for bar, (place, deviation) in zip(found, deviations.items()):
            mean = means[parameters.index(place)]
            np.testing.assert_allclose(bar, [[place, mean - deviation], [place, mean + deviation]])
    (published,) = [line for line in axis.get_lines() if line.get_label() == "published"]
    # Read in the papers, or in the code that goes with them: only those whose parameters are given.
    expected = {(36e3, 96.3), (100e3, 98.0), (165e3, 98.49), (200e3, 94.1), (270e3, 92.9), (1e6, 98.54)}
    assert {(x, round(y, 6)) for x, y in zip(*published.get_data())} == expected
    assert published.get_marker() not in {line.get_marker() for line, *_ in drawn.values()}
    named = {text.get_text(): text.xy for text in axis.texts}
    assert named["parallel LMU"] == pytest.approx((165e3, 98.49))
    assert named["LSTM"] == pytest.approx((270e3, 92.9))


def test_the_command_writes_table_and_figures(results, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["psmnist", "--results", str(results), "--out", str(out)])
    psmnist.main()
    assert (out / "figures" / "psmnist_by_parameters.png").stat().st_size > 10_000
    assert (out / "figures" / "psmnist_by_parameters.svg").read_text().startswith("<?xml")
    text = (out / "psmnist_by_parameters.md").read_text()
    assert capsys.readouterr().out.strip() in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    sizes = [int(row[1].replace(",", "")) for row in rows]
    assert sizes == sorted(sizes)
    assert len(sizes) == len(MADE) + 6
    found = {row[0].strip("`"): row[1:] for row in rows}
    for name, (parameters, accuracies) in MADE.items():
        mean = f"{statistics.mean(accuracies):.4f}"
        more = f" ± {np.std(accuracies, ddof=1):.4f}" if len(accuracies) > 1 else ""
        assert found[name] == [f"{parameters:,}", f"{mean}{more}", str(len(accuracies))]
    assert found["parallel LMU, published"][:2] == ["165,000", "0.9849"]


@pytest.mark.parametrize(
    ("name", "parameters", "seed", "task", "parts"),
    [
        ("pmru", 9754, 3, "psmnist", ["pmru.json", "names such as pmru_165k.json"]),
        ("pmru_10k_seed3", 9755, 3, "psmnist", ["has 9,755 parameters", "9,754"]),
        ("pmru_10k_seed3", 9754, 7, "psmnist", ["pmru_10k_seed", "is of seed 7"]),
        ("pmru_36k", 35626, 0, "smnist", ["is of task smnist, allowed: psmnist"]),
    ],
)
def test_what_does_not_fit_is_one_line(results, monkeypatch, name, parameters, seed, task, parts):
    save(results, name, parameters, seed, 0.9, task)
    assert_refused(results, monkeypatch, parts)


def test_folders_without_whole_summaries_are_one_line(results, tmp_path, monkeypatch):
    assert_refused(tmp_path / "none", monkeypatch, ["none has no *.json"])
    held = json.loads((results / "lru_36k.json").read_text())
    held["test"]["accuracy"] = 0.999
    (results / "lru_36k.json").write_text(json.dumps(held))
    assert_refused(results, monkeypatch, ["lru_36k.json is no summary of a run", "checksum"])


def assert_refused(folder, monkeypatch, parts):
    monkeypatch.setattr(sys, "argv", ["psmnist", "--results", str(folder), "--out", str(folder / "out")])
    with pytest.raises(SystemExit) as caught:
        psmnist.main()
    said = str(caught.value)
    assert said.startswith("error: ")
    assert "\n" not in said
    assert all(part in said for part in parts), said
    assert not (folder / "out").exists()


def parameters_of(cells, width, states, expansion):
    """Of a causal stack from 1 channel and 32 of positions to 10 classes."""
    hidden = expansion * width
    each = {
        "pmru": 2 * (width * states + states) + states + states * width + width,
        "lru": 3 * states + 4 * width * states + width,
    }
    mlp = 2 * width + 2 * (width * hidden + hidden) + hidden * width + width
    blocks = sum(2 * width + each[cell] + mlp for cell in cells)
    return (width + width) + 32 * width + blocks + 2 * width + width * 10 + 10


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("size", SIZES)
def test_configs_by_size_are_just_below_it(stack, size):
    folder = ROOT / "configs" / "psmnist"
    path = folder / "by_size" / f"{stack}_{size}.yaml"
    config, model = yaml.safe_load(path.read_text()), yaml.safe_load(path.read_text())["model"]
    count = parameters_of(model["cells"], model["width"], model["state_size"], model["expansion"])
    assert 0.95 * SIZES[size] <= count <= SIZES[size]
    assert re.findall(r"Parameters: ([\d,]*\d)", head_of(path)) == [f"{count:,}"]  # which the model itself has too
    assert model["cells"] == STACKS[stack] * (len(model["cells"]) // 2)
    assert model["positions"] == 32
    assert not model.get("bidirectional")
    other = yaml.safe_load((folder / "pmru.yaml").read_text())
    for section in ("task", "optimizer", "train"):
        assert config[section] == other[section]
