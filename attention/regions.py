"""What share of attention areas of a photograph receive."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .areas import Pixels, find_pixels
from .density import LogDensity, attention, center_bias, check_map
from .errors import interval


@dataclass(frozen=True)
class Region:
    """One area's share of a saliency map. All shares are from 0 to 1.

    Attributes:
        name: of the area.
        pixels: that belong to it.
        share_of_area: of the photograph's pixels.
        share_of_attention: predicted share of the fixations of people who look freely for a few seconds.
        low, high: the ends of its 90 % interval; see `errors`.
        lift: share of attention over share of area; above 1, the area attracts more than others of its size.
        lift_over_center_bias: share of attention over that which the area has by its place alone.
        peak: highest value of the saliency map in the area, on the map's own scale.
        peak_x, peak_y: the pixel with that value, from 0, 0 at the top left.
        rank: 1 for the area with the highest share of attention in this photograph; equal shares have equal ranks.
    """

    name: str
    pixels: int
    share_of_area: float
    share_of_attention: float
    low: float
    high: float
    lift: float
    lift_over_center_bias: float
    peak: float
    peak_x: int
    peak_y: int
    rank: int


@dataclass(frozen=True)
class Total:
    """An area's means over all photographs that have it; its lift is the ratio of the means."""

    name: str
    photographs: int
    share_of_area: float
    share_of_attention: float
    lift: float


def regions(saliency: np.ndarray, areas: Mapping[str, Any], density: LogDensity | None = None) -> list[Region]:
    """What share of attention each area of a photograph receives.

    Args:
        saliency: the photograph's saliency map of any scale, (H, W).
        areas: by name: (x, y, width, height) in pixels from the top left corner, corners of a polygon, (N, 2), or a
            boolean mask, (H, W). A pixel belongs to an area if its center does. Areas may overlap.
        density: see `density.attention`.

    Returns:
        One `Region` for each area, in their order.

    Raises:
        UserError: the map is not one, or an area is outside, empty, or crosses itself.
    """
    saliency = check_map(saliency)
    return measure(saliency, find_pixels(areas, saliency.shape), density)


def measure(saliency: np.ndarray, pixels: Mapping[str, Pixels], density: LogDensity | None = None) -> list[Region]:
    """Like `regions`, of areas whose pixels are known."""
    saliency = check_map(saliency)
    shares, bias = attention(saliency, density), center_bias(saliency.shape)
    attentions = {name: min(1.0, area.sum(shares)) for name, area in pixels.items()}
    result = []
    for name, area in pixels.items():
        share, share_of_area = attentions[name], area.count / saliency.size
        low, high = interval(share)
        inside = np.where(area.inside, saliency[area.window], -1)
        row, column = np.unravel_index(np.argmax(inside), inside.shape)
        result.append(
            Region(
                name=name,
                pixels=area.count,
                share_of_area=share_of_area,
                share_of_attention=share,
                low=float(low),
                high=float(high),
                lift=share / share_of_area,
                lift_over_center_bias=share / area.sum(bias),
                peak=float(inside[row, column]),
                peak_x=int(area.left + column),
                peak_y=int(area.top + row),
                rank=1 + sum(other > share for other in attentions.values()),
            )
        )
    return result


def totals(rows: Iterable[Region]) -> list[Total]:
    """The means of each area over all photographs, by name, in the order in which the names appear."""
    by_name: dict[str, list[Region]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    result = []
    for name, same in by_name.items():
        area = float(np.mean([row.share_of_area for row in same]))
        share = float(np.mean([row.share_of_attention for row in same]))
        result.append(Total(name, len(same), area, share, share / area))
    return result
