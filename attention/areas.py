"""Areas of a photograph and the pixels that belong to them: a pixel belongs to an area if its center does.

Coordinates are x to the right and y down, in pixels from the photograph's top left corner, so the center of the
top left pixel is at 0.5, 0.5. A center on the left or upper border of an area belongs to it; one on the right or lower
border does not. Adjacent areas therefore never share a pixel, and leave none out between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..utils import UserError, name_some

# Annotation tools round: coordinates may lie this many pixels outside the photograph.
TOLERANCE = 1.0


@dataclass(frozen=True)
class Union:
    """Several areas that are one: a pixel belongs to it if it belongs to any of them."""

    parts: Sequence["Area"]


# An area is four numbers (x, y, width, height); the corners of a polygon that does not cross itself, (N, 2), where the
# last is joined to the first; a mask of the photograph's size, (H, W) bool; or a union.
Area = Sequence[Any] | np.ndarray | Union


@dataclass(frozen=True)
class Pixels:
    """The pixels of one area.

    Attributes:
        top, left: row and column of the smallest rectangle around them.
        inside: (h, w) bool, that rectangle; true where a pixel belongs to the area.
        count: how many do.
    """

    top: int
    left: int
    inside: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the rectangle, to take it out of an array of the photograph's size."""
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self.inside))

    def sum(self, values: np.ndarray) -> float:
        """The sum of an array of the photograph's size, (H, W), over the area."""
        return float(values[self.window][self.inside].sum())

    def shared(self, other: "Pixels") -> int:
        """How many pixels belong to both areas."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = (min(a.stop, b.stop) for a, b in zip(self.window, other.window, strict=True))
        if top >= bottom or left >= right:
            return 0
        first, second = (
            area.inside[top - area.top : bottom - area.top, left - area.left : right - area.left]
            for area in (self, other)
        )
        return int(np.count_nonzero(first & second))


def as_array(value: Any) -> np.ndarray:
    """An `Area` that is no union as float, (4,) or (N, 2), or bool, (H, W); a `UserError` for anything else."""
    try:
        array = np.asarray(value)
        if array.ndim == 2 and array.dtype == bool:
            return array
        if array.shape == (4,) or (array.ndim == 2 and array.shape[1] == 2):
            return array.astype(float)
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"Received the area {str(value)[:60]!r}, expected (x, y, width, height), corners of shape (N, 2), or a boolean "
        f"mask of the photograph's size."
    )


def find_pixels(areas: Mapping[str, Any], shape: tuple[int, int]) -> dict[str, Pixels]:
    """The pixels of each `Area` of a photograph of this height and width.

    Raises:
        UserError: an area lies outside the photograph, holds no pixel, or is not a simple polygon.
    """
    if not areas:
        raise UserError("Received no area, expected at least one.")
    return {name: _pixels_of(name, area, shape) for name, area in areas.items()}


def overlaps(pixels: Mapping[str, Pixels]) -> list[tuple[str, str, int]]:
    """The pairs of areas that share pixels, and how many: (name, other name, pixels)."""
    pairs = [
        (name, other_name, area.shared(other)) for (name, area), (other_name, other) in combinations(pixels.items(), 2)
    ]
    return [pair for pair in pairs if pair[2]]


# --- From shapes to pixels --------------------------------------------------------------------------------------------


def _pixels_of(name: str, area: Area, shape: tuple[int, int]) -> Pixels:
    top = left = 0
    if isinstance(area, Union):
        inside = np.zeros(shape, bool)
        for part in (_pixels_of(name, part, shape) for part in area.parts):
            inside[part.window] |= part.inside
    elif (area := as_array(area)).dtype == bool:
        inside = area
        if area.shape != tuple(shape):
            raise UserError(
                f"The mask of area {name!r} is {area.shape[1]}×{area.shape[0]} pixels, the photograph "
                f"{shape[1]}×{shape[0]}: make them equal."
            )
    else:
        corners = _corners_of_box(name, *area) if area.ndim == 1 else area
        _check_polygon(name, corners, shape)
        left, top = np.maximum(np.floor(corners.min(0)), 0).astype(int)
        right, bottom = np.minimum(np.ceil(corners.max(0)), shape[::-1]).astype(int)
        size = max(0, bottom - top), max(0, right - left)
        inside = _fill(corners - (left, top), size)
    if not inside.any():
        raise UserError(f"Area {name!r} holds the center of no pixel: make it larger.")
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    inside = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Pixels(int(top + rows[0]), int(left + columns[0]), inside)


def _corners_of_box(name: str, x: float, y: float, width: float, height: float) -> np.ndarray:
    if not (width > 0 and height > 0):  # Also for NaN.
        raise UserError(f"Area {name!r} is {width:g}×{height:g} pixels, expected a width and a height above 0.")
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


def _check_polygon(name: str, corners: np.ndarray, shape: tuple[int, int]) -> None:
    if len(corners) < 3:
        raise UserError(f"Area {name!r} has {len(corners)} corners, expected at least 3.")
    if crossing := _first_crossing(corners):
        raise UserError(
            f"The outline of area {name!r} crosses itself (sides {crossing[0] + 1} and {crossing[1] + 1}): order its "
            f"corners along the outline, or split it into several areas."
        )
    low, high = corners.min(0), corners.max(0)
    if not (np.all(low >= -TOLERANCE) and np.all(high <= np.array(shape[::-1]) + TOLERANCE)):  # Also for NaN.
        raise UserError(
            f"Area {name!r} reaches from {low[0]:g}, {low[1]:g} to {high[0]:g}, {high[1]:g}, outside the photograph of "
            f"{shape[1]}×{shape[0]} pixels: correct its coordinates (x, y from the top left corner)."
        )


def _fill(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centers are inside a polygon, (N, 2) float, x and y; (H, W) bool.

    Going along a row, every side that is crossed switches between outside and inside.
    """
    height, width = shape
    switches = np.zeros((height, width + 1), np.int32)
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        # Sorted, so two polygons that share a side round it the same way.
        (x0, y0), (x1, y1) = sorted((tuple(start), tuple(end)), key=lambda point: point[::-1])
        rows = np.arange(max(0, int(np.ceil(y0 - 0.5))), min(height, int(np.ceil(y1 - 0.5))))
        if len(rows):
            x = x0 + (rows + 0.5 - y0) / (y1 - y0) * (x1 - x0)
            switches[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] += 1
    return np.cumsum(switches, axis=1)[:, :width] % 2 == 1


def _first_crossing(points: np.ndarray) -> tuple[int, int] | None:
    """The first two sides of a polygon, (N, 2), that cross, as positions; None where none do. Touching is allowed.

    Side i goes from corner i to the next.
    """
    starts, ends = points, np.roll(points, -1, axis=0)
    for i in range(len(points) - 2):
        others = slice(i + 2, len(points) - (i == 0))  # Neighbors share a corner.
        a, b, c, d = starts[i], ends[i], starts[others], ends[others]
        apart = _turn(a, b, c) * _turn(a, b, d) < 0
        crossing = apart & (_turn(c, d, a) * _turn(c, d, b) < 0)
        if crossing.any():
            return i, i + 2 + int(np.argmax(crossing))
    return None


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Positive, negative or zero: to which side of the line from a to b the points c lie; signs, (N,)."""
    return np.sign((b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0])


def parse_ratio(ratio: Any) -> float:
    """Width over height from "16:9", (16, 9) or a number above 0; a `UserError` for anything else."""
    try:
        parts = ratio.split(":") if isinstance(ratio, str) else ratio if np.ndim(ratio) else (ratio, 1)
        width, height = (float(part) for part in parts)
        if 0 < width < np.inf and 0 < height < np.inf:
            return width / height
    except (TypeError, ValueError):
        pass
    raise UserError(f"Received the ratio {str(ratio)[:40]!r}, expected width:height above 0, such as 16:9.")


def check_names(names: Sequence[str]) -> None:
    """Raise a `UserError` that names areas of one photograph that share a name."""
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise UserError(f"Several areas have the name {name_some(repeated)}: give each area of a photograph its own.")
