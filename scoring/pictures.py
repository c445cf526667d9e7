"""The pictures of a report: predictions next to the truth, and the distribution of each metric over the images."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # pyplot would require a display.

from ..images import read_stimulus
from ..utils import whole_file
from .contenders import Contender
from .ground_truth import Case, GroundTruth
from .protocols import Protocol
from .report import Scores

# Largest number of images in the picture of the worst tenth.
MOST_WORST = 20


def draw_examples(
    path: Path, contender: Contender, truth: GroundTruth, protocol: Protocol, rows: Sequence[dict], metric: str
) -> None:
    """Draw the best, the median and the worst images by a metric: photograph with fixations, true map, and prediction.

    `rows` are the contender's scores of each image.
    """
    values, order = rank(rows, metric, protocol)
    if not order:
        return
    middle = max(0, len(order) // 2 - 1)
    parts = {"worst": order[-2:], "median": order[middle : middle + 2], "best": order[:2]}
    words = {i: word for word, part in parts.items() for i in part}
    chosen = sorted(words, key=order.index)
    cases = [truth.cases[i] for i in chosen]
    figure = Figure(figsize=(9, 2.5 * len(chosen)))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.98, 0.02, 0.12)  # Faster than an automatic layout.
    grid = figure.subplots(len(chosen), 3, squeeze=False)
    for axes, case, saliency in zip(grid, cases, contender.maps(cases), strict=True):
        _draw_photograph(axes[0], case)
        axes[0].set_title(
            f"{words[case.index]}: {_drawable(case.sample.name)}, {metric} {values[case.index]:.2f}", fontsize=9
        )
        axes[1].imshow(protocol.true_map(truth, case), cmap="inferno")
        axes[2].imshow(saliency, cmap="inferno")
    for axis in grid.ravel():
        axis.set_axis_off()
    grid[0, 1].set_title("ground truth", fontsize=9)
    grid[0, 2].set_title(_drawable(contender.name), fontsize=9)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def draw_worst(
    path: Path, contender: Contender, truth: GroundTruth, protocol: Protocol, rows: Sequence[dict], metric: str
) -> None:
    """Draw the worst tenth of the images, at most `MOST_WORST`, the worst first: map over photograph, and fixations."""
    values, order = rank(rows, metric, protocol)
    chosen = order[::-1][: min(MOST_WORST, -(-len(order) // 10))]
    if not chosen:
        return
    cases = [truth.cases[i] for i in chosen]
    columns = min(4, len(cases))
    figure = Figure(figsize=(2.6 * columns, 2.2 * -(-len(cases) // columns)))
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.96, 0.02, 0.1)
    grid = figure.subplots(-(-len(cases) // columns), columns, squeeze=False).ravel()
    for axes, case, saliency in zip(grid, cases, contender.maps(cases), strict=False):
        _draw_photograph(axes, case)
        height, width = case.shape  # A map may have another size than the image.
        axes.imshow(saliency, cmap="inferno", alpha=0.5, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axes.set_title(f"{_drawable(case.sample.name[-20:])}, {metric} {values[case.index]:.2f}", fontsize=7, pad=2)
    for axes in grid:
        axes.set_axis_off()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=100)


def rank(rows: Sequence[Mapping[str, float]], metric: str, protocol: Protocol) -> tuple[np.ndarray, list[int]]:
    """A metric of each image, (N,), and the images' indices from the best to the worst, without NaN."""
    values = np.array([row[metric] for row in rows])
    order = np.argsort(values if metric in protocol.less_is_better else -values)
    return values, [int(i) for i in order if np.isfinite(values[i])]


def _drawable(name: str) -> str:
    """A name without bytes that are not valid text, and without Matplotlib's formulas."""
    return name.encode(errors="backslashreplace").decode().replace("$", r"\$")


def _draw_photograph(axes, case: Case) -> None:
    """Draw a photograph with a dot at each fixation."""
    axes.imshow(read_stimulus(case.sample.stimulus, case.sample.orientation).numpy())
    rows, columns = case.fixations.T
    axes.scatter(columns, rows, s=7, c="yellow", edgecolors="black", linewidths=0.4)
    axes.set(xlim=(-0.5, case.shape[1] - 0.5), ylim=(case.shape[0] - 0.5, -0.5))


def draw_distributions(path: Path, scores: Scores, protocol: Protocol) -> None:
    """Draw the distribution of each metric over the images, with one box per contender."""
    names, labels = list(next(iter(scores.values()))[0]), [_drawable(name) for name in scores]
    columns = min(4, len(names))
    figure = Figure(figsize=(3.2 * columns, (1 + 0.35 * len(scores)) * -(-len(names) // columns)), layout="constrained")
    grid = figure.subplots(-(-len(names) // columns), columns, squeeze=False)
    for axes, name in itertools.zip_longest(grid.ravel(), names):
        if name is None:
            axes.set_axis_off()
            continue
        values = [[row[name] for row in rows if np.isfinite(row[name])] for rows in scores.values()]
        axes.boxplot(values, orientation="horizontal", widths=0.6, flierprops={"markersize": 2})
        axes.set_yticks(range(1, len(labels) + 1), labels if axes in grid[:, 0] else [""] * len(labels))
        axes.invert_yaxis()
        axes.set_title(name + (" (less is better)" if name in protocol.less_is_better else ""), fontsize=10)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
