import json

import matplotlib
import numpy as np
from matplotlib import image
from train_helpers import ROOT

from mru.training import retention


def test_curves_that_lie_on_each_other_are_all_seen(tmp_path):
    summaries = [json.loads((ROOT / f"results/copy_first/{name}.json").read_text()) for name in ("pmru", "bmru", "lru")]
    for summary in summaries:
        summary["retention"] = dict.fromkeys(summary["retention"], 0.5)
    retention.draw(summaries, tmp_path / "r.png")
    pixels = image.imread(tmp_path / "r.png")[..., :3]
    left = pixels[:, : int(pixels.shape[1] * 0.8)]  # without the legend
    for number in range(3):
        colour = matplotlib.colors.to_rgb(f"C{number}")
        assert np.sum(np.abs(left - colour).max(-1) < 0.1) > 50, number
