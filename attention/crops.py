"""The crop of a photograph that keeps the most attention.

A crop's score is the share of attention that it keeps, minus two penalties:

- `TIGHTNESS` times its share of the photograph's area. Without this, the largest crop would always win. With it, a crop
  shrinks if the pixels that it loses attract less than a fifth of the average.
- `PULL` times its distance from the center. A photograph without a clear subject gets the center crop, and small
  differences between two versions of a photograph move no crop far.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..utils import UserError
from .areas import find_pixels, parse_ratio
from .density import LogDensity, attention, integral

# PULL: the share of attention that a crop must gain to move from the center by a whole side. TIGHTNESS: the share that
# it may lose to shrink by the area of the whole photograph.
PULL, TIGHTNESS = 0.05, 0.2

# The number of positions compared along a photograph's longer side, and the factor from one scale to the next.
POSITIONS, SHRINK = 512, 0.98


@dataclass(frozen=True)
class Crop:
    """A crop of a photograph.

    Attributes:
        x, y, width, height: of its box, in pixels from the top left corner.
        share: share of attention that it keeps, 0 to 1.
        center_share: share that the largest crop of this ratio around the center would keep.
    """

    x: int
    y: int
    width: int
    height: int
    share: float
    center_share: float


def crop(
    saliency: np.ndarray, ratio: Any, min_scale: float = 1.0, keep: Any = None, density: LogDensity | None = None
) -> Crop:
    """The crop that keeps the most attention.

    On photographs of up to 512 pixels it compares every position, on larger ones every n-th; scales go down to
    `min_scale` in steps of 2 %.

    Args:
        saliency: the photograph's saliency map of any scale, (H, W).
        ratio: width to height: "16:9", (16, 9), or a number.
        min_scale: the smallest crop's sides, as a share of those of the largest that fits; above 0, at most 1.
        keep: an area, see `regions.regions`, that is never cut.
        density: see `density.attention`.

    Returns:
        A box of integer pixels inside the photograph. Its ratio is as close to `ratio` as integers allow.

    Raises:
        UserError: the ratio or the scale is out of range, or no crop includes all of `keep`.
    """
    target = parse_ratio(ratio)
    if not 0 < min_scale <= 1:
        raise UserError(f"Received a smallest scale of {min_scale:g}, expected a number above 0 and at most 1.")
    shares = attention(saliency, density)
    kept = None if keep is None else find_pixels({"to keep": keep}, shares.shape)["to keep"].window
    sums = integral(shares)
    sizes = crop_sizes(shares.shape, target, min_scale)
    found = [best for best in (_best_position(sums, size, kept) for size in sizes) if best]
    if not found:
        raise UserError(
            f"The area to keep does not fit into a crop of {ratio}: choose another ratio or a smaller area."
        )
    _, top, left, (height, width) = max(found, key=lambda row: row[0])
    share = shares[top : top + height, left : left + width].sum()
    middle = tuple(slice((a - b) // 2, (a + b) // 2) for a, b in zip(shares.shape, sizes[0], strict=True))
    return Crop(left, top, width, height, float(share), float(shares[middle].sum()))


def crop_sizes(shape: tuple[int, int], ratio: float, min_scale: float) -> list[tuple[int, int]]:
    """Heights and widths of crops of a ratio, width to height, from the largest that fits down to `min_scale`."""
    height, width = shape
    largest = (height, height * ratio) if width > height * ratio else (width / ratio, width)
    sizes = []
    scale = 1.0
    while scale > min_scale * SHRINK:
        at = max(scale, min_scale)
        sizes.append((max(1, round(largest[0] * at)), max(1, round(largest[1] * at))))
        scale *= SHRINK
    return sizes


def _best_position(
    sums: np.ndarray, size: tuple[int, int], kept: tuple[slice, slice] | None
) -> tuple[float, int, int, tuple[int, int]] | None:
    """The best crop of one size: its score, top, left and size; None if no position includes the area to keep."""
    shape = sums.shape[0] - 1, sums.shape[1] - 1
    step = -(-max(shape) // POSITIONS)
    tops, lefts = (
        _positions(side, length, step, kept and kept[axis])
        for axis, (side, length) in enumerate(zip(shape, size, strict=True))
    )
    if not (len(tops) and len(lefts)):
        return None
    scores = box_sums(sums, tops, lefts, size) - TIGHTNESS * size[0] * size[1] / (shape[0] * shape[1])
    away = [
        np.abs(starts + length / 2 - side / 2) / side
        for starts, length, side in zip((tops, lefts), size, shape, strict=True)
    ]
    scores -= PULL * (away[0][:, None] + away[1])
    row, column = np.unravel_index(np.argmax(scores), scores.shape)
    return float(scores[row, column]), int(tops[row]), int(lefts[column]), size


def _positions(side: int, length: int, step: int, kept: slice | None) -> np.ndarray:
    """Where a crop may start along one side: every `step` pixels, from both ends, in the center, and around `kept`."""
    first, last = (0, side - length) if kept is None else (max(0, kept.stop - length), min(side - length, kept.start))
    if first > last:
        return np.zeros(0, int)
    center = min(max((side - length) // 2, first), last)
    return np.unique([*range(first, last + 1, step), last, center])


def box_sums(sums: np.ndarray, tops: np.ndarray, lefts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The sums of boxes of one size at all tops and lefts, (tops, lefts)."""
    bottoms, rights = tops + size[0], lefts + size[1]
    corners = [sums[np.ix_(rows, columns)] for rows in (bottoms, tops) for columns in (rights, lefts)]
    return corners[0] - corners[1] - corners[2] + corners[3]
