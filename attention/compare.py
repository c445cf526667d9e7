"""How attention differs between two pictures, such as two versions of a design."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..utils import UserError, name_some
from .areas import find_pixels
from .density import LogDensity, attention, check_map
from .errors import difference_interval
from .regions import measure

# Rows and columns of the grid of differences.
GRID = 3


@dataclass(frozen=True)
class Difference:
    """An area's shares of attention in two pictures, 0 to 1.

    Attributes:
        name: of the area.
        first_share, second_share: its share in each picture.
        difference: second share minus first, -1 to 1.
        low, high: the ends of its 90 % interval.
    """

    name: str
    first_share: float
    second_share: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How attention differs between two pictures.

    Attributes:
        areas: one row for each area that was given.
        grid: second share minus first in each of 3×3 cells, (3, 3), from the top left one; it sums to 0.
        first_peak, second_peak: x and y of the highest value of each map, as shares of its sides.
        movement: distance between the two, as a share of the first picture's diagonal.
    """

    areas: tuple[Difference, ...]
    grid: np.ndarray
    first_peak: tuple[float, float]
    second_peak: tuple[float, float]
    movement: float


def compare(
    first: np.ndarray,
    second: np.ndarray,
    areas: Mapping[str, Any] | None = None,
    second_areas: Mapping[str, Any] | None = None,
    density: LogDensity | None = None,
) -> Comparison:
    """Compare where two pictures attract attention.

    Args:
        first, second: their saliency maps, (H, W), of any scales and sizes.
        areas: of the first picture; see `regions.regions`.
        second_areas: those with the same names in the second; None where they are in the same places.
        density: see `density.attention`.

    Raises:
        UserError: a map or an area is not one, or the names differ.
    """
    first, second = check_map(first), check_map(second)
    areas = areas or {}
    second_areas = areas if second_areas is None else second_areas
    if unpaired := sorted(set(areas) ^ set(second_areas)):
        raise UserError(f"Only one of two pictures has the area {name_some(unpaired)}: give it in both, or in neither.")
    rows = []
    if areas:
        before, after = (
            {row.name: row.share_of_attention for row in measure(saliency, find_pixels(own, saliency.shape), density)}
            for saliency, own in ((first, areas), (second, second_areas))
        )
        for name, share in before.items():
            interval = difference_interval(share, after[name])
            rows.append(Difference(name, share, after[name], after[name] - share, *interval))
    grid = grid_shares(attention(second, density)) - grid_shares(attention(first, density))
    peaks = [peak(saliency) for saliency in (first, second)]
    moved = (np.array(peaks[1]) - peaks[0]) * first.shape[::-1]
    return Comparison(tuple(rows), grid, peaks[0], peaks[1], float(np.hypot(*moved) / np.hypot(*first.shape)))


def grid_shares(shares: np.ndarray) -> np.ndarray:
    """The shares of attention of 3×3 equal cells, (3, 3); a pixel that a border cuts counts in part for each cell."""
    edges = (np.linspace(0, side, GRID + 1)[:, None] - np.arange(side) for side in shares.shape)
    rows, columns = (np.diff(np.clip(ends, 0, 1), axis=0) for ends in edges)  # (3, H), (3, W): parts of each pixel
    return rows @ shares @ columns.T


def peak(saliency: np.ndarray) -> tuple[float, float]:
    """x and y of the highest value of a map, as shares of its sides."""
    row, column = np.unravel_index(np.argmax(saliency), saliency.shape)
    return (column + 0.5) / saliency.shape[1], (row + 0.5) / saliency.shape[0]
