"""Where attention gathers in a photograph: its hot spots, its center of mass, its spread and its focus."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter

from .density import LogDensity, attention, cell_sums

# Maps are reduced to at most this many cells along the longer side: a network's map has no finer detail.
CELLS = 160

# Peaks closer than this share of the longer side belong to one hot spot.
REACH = 0.06

# The share of a photograph whose mass is the focus score.
FOCUSED = 0.1


@dataclass(frozen=True)
class HotSpot:
    """A peak of attention and what gathers around it.

    Attributes:
        x, y: of the peak, in pixels from the top left corner.
        radius: in pixels, of the circle around it that holds half of the spot's attention.
        share: of the photograph's attention, 0 to 1; the shares of all spots sum to 1.
    """

    x: float
    y: float
    radius: float
    share: float


@dataclass(frozen=True)
class Gathering:
    """How attention is distributed over a photograph.

    Attributes:
        spots: the hot spots with the highest shares, the highest first.
        center_x, center_y: the center of mass, in pixels from the top left corner.
        spread: root mean square distance from it, as a share of the photograph's diagonal.
        focus: share of attention in the tenth of the pixels that receive the most: 0.1 where it is the same everywhere,
            1 where no other pixel receives any.
    """

    spots: tuple[HotSpot, ...]
    center_x: float
    center_y: float
    spread: float
    focus: float


def hot_spots(saliency: np.ndarray, count: int = 5, density: LogDensity | None = None) -> Gathering:
    """Where attention gathers in a photograph.

    Args:
        saliency: the photograph's saliency map of any scale, (H, W).
        count: most hot spots to return. Those that hold less than 1 % of the attention are left out.
        density: see `density.attention`.

    Returns:
        Positions in pixels of the map, shares from 0 to 1.

    Raises:
        UserError: see `density.attention`.
    """
    pixels = attention(saliency, density)
    shares, edges = cell_sums(pixels, CELLS)
    y, x = np.meshgrid(*((ends[:-1] + ends[1:]) / 2 for ends in edges), indexing="ij")
    # Of equal cells, as in maps of 255 gray values, the one nearest to the center is the peak.
    nearness = 2 - ((2 * y / pixels.shape[0] - 1) ** 2 + (2 * x / pixels.shape[1] - 1) ** 2)
    peaks = _climb(shares + 1e-9 * shares.mean() * nearness)
    masses = np.bincount(peaks.ravel(), shares.ravel(), shares.size)
    spots = []
    for peak in np.argsort(-masses, kind="stable")[:count]:
        if masses[peak] < 0.01:
            break
        own = peaks.ravel() == peak
        distances = np.hypot(y.ravel() - y.flat[peak], x.ravel() - x.flat[peak])[own]
        order = np.argsort(distances)
        half = np.searchsorted(np.cumsum(shares.ravel()[own][order]), masses[peak] / 2)
        radius = float(distances[order][min(half, len(order) - 1)])
        spots.append(HotSpot(float(x.flat[peak]), float(y.flat[peak]), radius, float(masses[peak])))
    center_x, center_y = float(np.sum(shares * x)), float(np.sum(shares * y))
    spread = np.sqrt(np.sum(shares * ((x - center_x) ** 2 + (y - center_y) ** 2))) / np.hypot(*pixels.shape)
    return Gathering(tuple(spots), center_x, center_y, float(spread), _focus(pixels))


def _focus(pixels: np.ndarray) -> float:
    count = max(1, round(FOCUSED * pixels.size))
    return float(np.partition(pixels.ravel(), pixels.size - count)[-count:].sum())


def _climb(shares: np.ndarray) -> np.ndarray:
    """The peak that each cell leads to, as its position in the flattened array, (H, W).

    Each cell leads to the greatest cell within reach, that one to the greatest within its reach, and so on.
    """
    reach = max(1, round(REACH * max(shares.shape)))
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    # Ranks are unique, unlike shares: of equal cells, the first has the highest rank.
    order = np.lexsort((-np.arange(shares.size), shares.ravel()))
    ranks = np.empty(shares.size, int)
    ranks[order] = np.arange(shares.size)
    highest = maximum_filter(ranks.reshape(shares.shape), footprint=np.hypot(y, x) <= reach, mode="constant", cval=-1)
    leads_to = order[highest]
    while np.any(leads_to != (further := leads_to.ravel()[leads_to])):
        leads_to = further
    return leads_to
