"""From a saliency map to the share of attention of each pixel, and the center bias to compare it with."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..scoring.density import on_pixels
from ..scoring.metrics import as_distribution
from ..utils import UserError
from .measured import MEASURED

# What the errors were measured on, and what a share says; every record and every printed table repeats it.
DOMAIN = "photographs"
MEANING = (
    "A share of attention predicts the share of fixations of people who look at a photograph freely for a few seconds."
)

# Cells along the longer side of the maps that fitted densities receive.
DENSITY_CELLS = 640


class LogDensity(Protocol):
    """What turns a map into a log density, such as `scoring.fitted.FittedDensity`."""

    def log_density(self, saliency: np.ndarray) -> np.ndarray:
        """(H, W) to (H, W), natural logarithm."""


@dataclass(frozen=True)
class Reduced:
    """A density that receives reduced maps: it takes matrices of their sides, and large maps have no finer detail."""

    density: LogDensity

    def log_density(self, saliency: np.ndarray) -> np.ndarray:
        if max(saliency.shape) <= DENSITY_CELLS:
            return self.density.log_density(saliency)
        sums, edges = cell_sums(saliency, DENSITY_CELLS)
        means = sums / np.outer(*(np.diff(ends) for ends in edges))
        return np.log(on_pixels(np.exp(self.density.log_density(means)), saliency.shape))


def attention(saliency: np.ndarray, density: LogDensity | None = None) -> np.ndarray:
    """The share of attention that each pixel of a photograph receives.

    Args:
        saliency: a saliency map of any scale, (H, W) or (H, W, 1).
        density: fitted to a network's maps by 'evaluate --fit'; None to divide the map by its sum. No power and no
            mixture with the center bias predicts people's shares clearly better (`benchmarks/areas.py`).

    Returns:
        float64, (H, W), of sum 1: the predicted share of the fixations of people who look at the photograph freely for
        a few seconds.

    Raises:
        UserError: the map has another shape, is empty, or holds NaN, infinity or negative values.
    """
    saliency = check_map(saliency)
    return as_distribution(saliency) if density is None else np.exp(density.log_density(saliency))


def center_bias(shape: tuple[int, int]) -> np.ndarray:
    """Where people look whatever a photograph shows: a Gaussian, in shares of the sides; float64, (H, W), of sum 1."""
    bias = MEASURED["center_bias"]
    y, x = ((np.arange(side) + 0.5) / side for side in shape)
    rows = np.exp(-(((y - bias["y"]) / bias["sigma_y"]) ** 2) / 2)
    columns = np.exp(-(((x - 0.5) / bias["sigma_x"]) ** 2) / 2)
    return np.outer(rows / rows.sum(), columns / columns.sum())


def integral(values: np.ndarray) -> np.ndarray:
    """Sums from the top left corner, (H + 1, W + 1): four of them give the sum of any box."""
    return np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def cell_sums(values: np.ndarray, most: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sums over cells, at most `most` along the longer side, and where the cells of each axis begin and end."""
    sums, edges = values, []
    for axis, side in enumerate(values.shape):
        cells = min(side, max(1, round(most * side / max(values.shape))))
        edges.append(np.round(np.linspace(0, side, cells + 1)).astype(int))
        sums = np.add.reduceat(sums, edges[-1][:-1], axis=axis)
    return sums, edges


def check_map(saliency: np.ndarray) -> np.ndarray:
    """A saliency map as float64, (H, W); see `attention`."""
    try:
        values = np.asarray(saliency, np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or not values.size:
        raise UserError(f"Received a saliency map of shape {np.shape(saliency)}, expected (height, width).")
    if not np.isfinite(values).all() or values.min() < 0:
        raise UserError("The saliency map holds negative values, NaN or infinity: expected numbers from 0 upwards.")
    return values
