"""Draw the retention curves of several runs into one figure.

python -m mru.training.retention results/copy_first/{pmru,bmru,lru}.json --out results/retention.png
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

MARKERS, STYLES = "osD^v", ("-", "--", "-.", ":")


def draw(summaries: list[dict[str, Any]], out: pathlib.Path) -> None:
    """One curve a summary: its task's metric against the length, on the test set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metric, chance = summaries[0]["metric"], summaries[0]["chance"]
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for number, summary in enumerate(summaries):
        lengths = [int(length) for length in summary["retention"]]
        name = " + ".join(dict.fromkeys(cell.upper() for cell in summary["cells"]))
        # Curves may lie on each other: the next is thinner, and its open markers leave those below it to be seen.
        style: dict[str, Any] = {
            "linewidth": max(1.0, 2.2 - 0.4 * number),
            "linestyle": STYLES[number % len(STYLES)],
            "zorder": 2 + number,
        }
        marker: dict[str, Any] = {
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 9 - 2 * (number % 3),
            "fillstyle": "none",
        }
        axis.plot(lengths, list(summary["retention"].values()), label=name, **style, **marker)
    axis.axhline(chance, color="grey", linestyle=":", linewidth=1, label="chance", zorder=1)
    trained = summaries[0]["task"].get("length")
    if trained is not None:
        axis.axvline(trained, color="grey", linewidth=0.8)
        axis.annotate(" trained here", (trained, 0.7), xycoords=("data", "axes fraction"), fontsize=8)
    axis.set(xscale="log", yscale="log", xlabel="sequence length T", ylabel=f"test {metric}")
    axis.set_title(f"{summaries[0]['task']['name']}: error after T steps", fontsize=10)
    figure.legend(fontsize=8, loc="outside right center")
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("summaries", nargs="+", type=pathlib.Path, help="summary.json files of runs")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="PNG file to write")
    arguments = parser.parse_args()
    draw([json.loads(path.read_text()) for path in arguments.summaries], arguments.out)


if __name__ == "__main__":
    main()
