"""The numbers of a report: means over images, their intervals, differences on the same images, and tables."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..utils import write_csv
from .protocols import Protocol

BOOTSTRAP_SAMPLES = 2000

# By contender, one row per image with the values by metric.
Scores = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Estimate:
    """A mean over images, its 95 % bootstrap interval, and the number of images with a value."""

    mean: float
    low: float
    high: float
    images: int

    def __str__(self) -> str:
        mean, low, high = (round(value, 3) + 0.0 for value in (self.mean, self.low, self.high))  # 0.0, because of -0.0
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if self.images else "–"


def estimate(values: np.ndarray, seed: int) -> Estimate:
    """The mean of values, (N,), and its interval from resampling the images; NaN is skipped.

    With equal seeds and numbers of images, the same images are drawn.
    """
    known = np.isfinite(values)
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan, 0)
    drawn = _bootstrap_counts(len(values), seed)
    with np.errstate(invalid="ignore"):  # A sample may have no image with a value.
        means = (drawn @ np.where(known, values, 0)) / (drawn @ known)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return Estimate(float(values[known].mean()), float(low), float(high), int(known.sum()))


@functools.lru_cache(maxsize=2)
def _bootstrap_counts(images: int, seed: int) -> np.ndarray:
    """How often each sample draws each image, (BOOTSTRAP_SAMPLES, images) float32."""
    random = np.random.default_rng(seed)
    return random.multinomial(images, np.full(images, 1 / images), BOOTSTRAP_SAMPLES).astype(np.float32)


def estimates(scores: Scores, seed: int) -> dict[str, dict[str, Estimate]]:
    """The mean and its interval by contender and metric."""
    return {
        name: {metric: estimate(np.array([row[metric] for row in rows]), seed) for metric in rows[0]}
        for name, rows in scores.items()
    }


def differences(scores: Scores, seed: int) -> dict[str, dict[str, Estimate]]:
    """The mean difference of each contender from the first, with paired intervals."""
    first, *others = scores.values()
    paired = [
        [{metric: row[metric] - base[metric] for metric in row} for row, base in zip(rows, first, strict=True)]
        for rows in others
    ]
    return estimates(dict(zip(list(scores)[1:], paired, strict=True)), seed)


def table(columns: Mapping[str, Mapping[str, Estimate]], protocol: Protocol) -> str:
    """One row per metric, one column per contender: mean, 95 % interval, and the number of images."""
    rows = [["metric", *columns, "images"]]
    for metric in next(iter(columns.values())):
        found = [column[metric] for column in columns.values()]
        rows.append([f"{metric} {protocol.arrow(metric)}", *map(str, found), str(min(one.images for one in found))])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_json(columns: Mapping[str, Mapping[str, Estimate]]) -> dict:
    """Estimates as JSON, which has no NaN."""
    return {
        name: {metric: asdict(found) if found.images else None for metric, found in column.items()}
        for name, column in columns.items()
    }


def write_per_image(path: Path, images: Sequence[str], scores: Scores) -> None:
    """Write a CSV file with one row per contender and image name."""
    metrics = next(iter(scores.values()))[0]
    table = (
        {"contender": name, "image": image, **row}
        for name, rows in scores.items()
        for image, row in zip(images, rows, strict=True)
    )
    write_csv(path, ["contender", "image", *metrics], table)
