"""The pictures of a report: predictions beside the truth, and how each metric is distributed over the images."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from images import decode_image
from scoring.contenders import Contender
from scoring.ground_truth import GroundTruth
from scoring.protocols import Protocol
from scoring.report import Scores
from utils import whole_file


def draw_examples(
    path: Path, contender: Contender, truth: GroundTruth, protocol: Protocol, rows: Sequence[dict], metric: str
) -> None:
    """Draw the best, the median and the worst images: photograph with fixations, true map, and prediction.

    Args:
        path: of the picture.
        contender: who predicts.
        truth, protocol: what was scored against, and how.
        rows: the contender's scores of each image.
        metric: which of them decides.
    """
    from matplotlib.figure import Figure  # Without pyplot no display is asked for.

    values = np.array([row[metric] for row in rows])
    best_first = np.argsort(values if metric in protocol.less_is_better else -values)
    order = [i for i in best_first if np.isfinite(values[i])]
    if not order:
        return
    middle = max(0, len(order) // 2 - 1)
    parts = {"worst": order[-2:], "median": order[middle : middle + 2], "best": order[:2]}
    words = {i: word for word, part in parts.items() for i in part}
    chosen = sorted(words, key=order.index)
    cases = [truth.cases[i] for i in chosen]
    figure = Figure(figsize=(9, 2.5 * len(chosen)))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.98, 0.02, 0.12)  # Quicker than to have the layout found.
    grid = figure.subplots(len(chosen), 3, squeeze=False)
    for axes, case, saliency in zip(grid, cases, contender.maps(cases), strict=True):
        axes[0].imshow(decode_image(tf.io.read_file(os.fsencode(case.sample.stimulus)), 3).numpy())
        rows_, columns = case.fixations.T
        axes[0].scatter(columns, rows_, s=7, c="yellow", edgecolors="black", linewidths=0.4)
        axes[0].set(xlim=(-0.5, case.shape[1] - 0.5), ylim=(case.shape[0] - 0.5, -0.5))
        axes[0].set_title(f"{words[case.index]}: {case.sample.name}, {metric} {values[case.index]:.2f}", fontsize=9)
        axes[1].imshow(protocol.true_map(truth, case), cmap="inferno")
        axes[2].imshow(saliency, cmap="inferno")
    for axis in grid.ravel():
        axis.set_axis_off()
    grid[0, 1].set_title("ground truth", fontsize=9)
    grid[0, 2].set_title(contender.name, fontsize=9)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def draw_distributions(path: Path, scores: Scores, protocol: Protocol) -> None:
    """Draw how each metric is distributed over the images, a box for each contender."""
    from matplotlib.figure import Figure

    names = list(next(iter(scores.values()))[0])
    columns = min(4, len(names))
    figure = Figure(figsize=(3.2 * columns, (1 + 0.35 * len(scores)) * -(-len(names) // columns)), layout="constrained")
    grid = figure.subplots(-(-len(names) // columns), columns, squeeze=False)
    for axes, name in itertools.zip_longest(grid.ravel(), names):
        if name is None:
            axes.set_axis_off()
            continue
        values = [[row[name] for row in rows if np.isfinite(row[name])] for rows in scores.values()]
        axes.boxplot(values, orientation="horizontal", widths=0.6, flierprops={"markersize": 2})
        axes.set_yticks(range(1, len(scores) + 1), list(scores) if axes in grid[:, 0] else [""] * len(scores))
        axes.invert_yaxis()
        axes.set_title(name + (" (less is better)" if name in protocol.less_is_better else ""), fontsize=10)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
