"""How a saliency map becomes a density that fixations were seen to follow: its formula, its fit, and its file.

The formula stands once, in `FittedDensity`; `Likelihood` applies it to training images, with its derivatives beside it.
"""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from scoring.density import FLOOR, normalize, on_pixels
from scoring.metrics import as_distribution
from utils import UserError, parallel_map, write_json

KNOTS, CENTRE_KNOTS = 20, 12

# Where the knots of the curve are: closer at small values, which most pixels have, and where its logarithm is steep.
CURVE_AT = np.linspace(0, 1, KNOTS) ** 2
CENTRE_AT = np.linspace(0, 1, CENTRE_KNOTS)

# Weight of the squared steps of the centre bias, beside the likelihood of a fixation in nats.
SMOOTHING = 1e-3

# Of the free parameters, see `unpack`: beyond, numbers overflow, or a single fixation could cost without limit.
BOUNDS = [(-6, -0.7), (-3, 3), *[(-10, 2)] * KNOTS, *[(-15, 15)] * CENTRE_KNOTS]

# Where each kind is among the free parameters.
BLUR, RATIO, CURVE, CENTRE = 0, 1, slice(2, 2 + KNOTS), slice(2 + KNOTS, None)

# Fitting sees maps on a grid with this many cells along each side.
FIT_CELLS = 128

# Fitting starts from the best of these. The least leaves a map as it is.
BLURS = (np.exp(BOUNDS[BLUR][0]), 0.005, 0.01, 0.02, 0.04, 0.08)


@dataclass(frozen=True)
class FittedDensity:
    """A saliency map is blurred, put through a monotone curve, and multiplied by an elliptic centre bias.

    Attributes:
        blur: standard deviation of the Gaussian, as a share of the square root of the image's area.
        curve: (20,) positive and rising, at the values `CURVE_AT` of the blurred map, after it was scaled to 0 to 1.
        centre: (12,) logarithms of the factors at equal steps of the elliptic distance, from the centre to a corner.
        ratio: weight of the vertical in that distance, relative to the horizontal; both in shares of half the side.
    """

    blur: float
    curve: np.ndarray
    centre: np.ndarray
    ratio: float

    def log_density(self, saliency: np.ndarray) -> np.ndarray:
        """The log density of a saliency map of any scale, (H, W) -> float64 (H, W)."""
        scaled = stretched(saliency)
        sigma = self.blur * np.sqrt(scaled.size)
        of_rows, of_columns = (gaussian_matrix(side, sigma) for side in scaled.shape)
        curve, centre = self.along_curve(of_rows @ scaled @ of_columns.T), self.along_centre(scaled.shape)
        return normalize(np.log(curve.of(self.curve)) + centre.of(self.centre))

    def along_curve(self, blurred: np.ndarray) -> "Interpolation":
        """Where the pixels of a blurred map, (H, W), are between the knots of the curve."""
        return Interpolation(blurred, CURVE_AT)

    def along_centre(self, shape: tuple[int, int]) -> "Interpolation":
        """Where the pixels of a map of this shape are between the knots of the centre bias."""
        return Interpolation(elliptic_distance(shape, self.ratio), CENTRE_AT)

    def save(self, path: Path) -> None:
        content = {
            "blur": self.blur,
            "curve": self.curve.tolist(),
            "centre": self.centre.tolist(),
            "ratio": self.ratio,
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> "FittedDensity":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or holds something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            loaded = cls(
                float(content["blur"]), np.array(content["curve"]), np.array(content["centre"]), float(content["ratio"])
            )
            valid = (
                loaded.curve.shape == (KNOTS,)
                and loaded.centre.shape == (CENTRE_KNOTS,)
                and min(loaded.blur, loaded.ratio, *loaded.curve) > 0
                and np.isfinite([*loaded.curve, *loaded.centre, loaded.blur, loaded.ratio]).all()
            )
        except FileNotFoundError as error:
            raise UserError(f"No such file: {path}. Make one with 'python main.py evaluate --fit'.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no fitted density: {error}. Make one with 'evaluate --fit'.") from error
        if not valid:
            raise UserError(f"{path} is no fitted density: its values are out of range. Make it with 'evaluate --fit'.")
        return loaded


# --- Parts of the formula, and their derivatives ----------------------------------------------------------------------


def stretched(saliency: np.ndarray) -> np.ndarray:
    """A map from its minimum to its maximum as 0 to 1; a constant one as 0."""
    saliency = np.asarray(saliency, np.float64) - np.min(saliency)
    return saliency / (saliency.max() or 1)


@functools.lru_cache(maxsize=16)
def gaussian_matrix(side: int, sigma: float) -> np.ndarray:
    """The blur along one side of a map as a matrix, (side, side): row i is the Gaussian around pixel i, of sum 1.

    Every row has that sum, so that a white map stays white up to its border.

    Args:
        side: in pixels.
        sigma: standard deviation in pixels, above 0.
    """
    kernel = np.exp(-_squares(side) / (2 * sigma**2))
    return kernel / kernel.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=16)
def gaussian_slope(side: int, sigma: float) -> np.ndarray:
    """The derivative of `gaussian_matrix` with respect to the logarithm of its sigma, (side, side)."""
    matrix = gaussian_matrix(side, sigma)
    steepness = matrix * _squares(side) / sigma**2
    return steepness - matrix * steepness.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=4)
def _squares(side: int) -> np.ndarray:
    return np.subtract.outer(np.arange(side), np.arange(side)) ** 2.0


def elliptic_distance(shape: tuple[int, int], ratio: float) -> np.ndarray:
    """Each pixel's distance from the centre, from 0 to 1 in the corners; (H, W)."""
    vertical, horizontal = _squared_axes(shape)
    return np.sqrt((ratio * vertical + horizontal) / (1 + ratio))


def distance_slope(shape: tuple[int, int], ratio: float) -> np.ndarray:
    """The derivative of `elliptic_distance` with respect to the logarithm of the ratio, (H, W)."""
    vertical, horizontal = _squared_axes(shape)
    distance = elliptic_distance(shape, ratio)
    slope = ratio * (vertical - horizontal) / (2 * (1 + ratio) ** 2)
    return np.divide(slope, distance, out=np.zeros_like(distance), where=distance > 0)


def _squared_axes(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Squares of the vertical, (H, 1), and of the horizontal position, (W,), from -1 to 1."""
    vertical, horizontal = (((np.arange(side) + 0.5) * 2 / side - 1) ** 2 for side in shape)
    return vertical[:, None], horizontal


class Interpolation:
    """Positions between knots: the piecewise linear function through any values there, and its derivatives.

    Args:
        positions: any shape, between the first knot and the last.
        knots: (n,), rising.
    """

    def __init__(self, positions: np.ndarray, knots: np.ndarray):
        self.knots = knots
        self.lower = np.clip(np.searchsorted(knots, positions, "right") - 1, 0, len(knots) - 2)
        self.share = (positions - knots[self.lower]) / np.diff(knots)[self.lower]

    def of(self, values: np.ndarray) -> np.ndarray:
        """The function through `values`, (n,), at the positions."""
        return values[self.lower] + np.diff(values)[self.lower] * self.share

    def slope(self, values: np.ndarray) -> np.ndarray:
        """Its derivative with respect to the positions."""
        return (np.diff(values) / np.diff(self.knots))[self.lower]

    def back(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient with respect to the values, (n,), given that with respect to the function at each position."""
        count, lower, upper = len(self.knots), self.lower.ravel(), self.lower.ravel() + 1
        above = (gradient * self.share).ravel()
        return np.bincount(lower, gradient.ravel() - above, count) + np.bincount(upper, above, count)


# --- The fit ----------------------------------------------------------------------------------------------------------


def fit_density(
    maps: Iterable[np.ndarray], positions: Sequence[np.ndarray], steps: int = 150
) -> tuple[FittedDensity, float, float]:
    """Fit a density by the likelihood of fixations: starting from the default density, it can only rise.

    Args:
        maps: saliency maps, (H, W), of any sizes.
        positions: for each of them, the relative positions of its image's fixations, (N, 2).
        steps: most iterations of the optimiser, L-BFGS.

    Returns:
        The density, and the mean log likelihood of a fixation over that of a uniform density, in bits, with the default
        and with the fitted values.
    """
    loss, start = likelihood_loss(maps, positions)

    def smoothed_loss(parameters):
        """A centre bias may be as steep as it must, but shall not fall where merely few fixations are."""
        value, gradient = loss(parameters)
        slopes = np.diff(parameters[CENTRE])
        gradient[CENTRE] += 2 * SMOOTHING * (np.append(0, slopes) - np.append(slopes, 0))
        return value + SMOOTHING * np.sum(slopes**2), gradient

    # A descent hardly leaves a blur of less than a cell, so it starts from the best one.
    starts = [np.append(np.log(blur), start[1:]) for blur in BLURS]
    best = min(starts, key=lambda parameters: loss(parameters)[0])
    found = minimize(smoothed_loss, best, jac=True, method="L-BFGS-B", bounds=BOUNDS, options={"maxiter": steps})
    return unpack(found.x), -loss(start)[0] / np.log(2), -loss(found.x)[0] / np.log(2)


@dataclass(frozen=True)
class Scene:
    """A training image on the fit's grid.

    Attributes:
        saliency: (n, n), 0 to 1.
        shares: of all fixations of all images, those in each cell, (n, n).
        scale: the blur's standard deviation in rows and in columns of the grid, for a `blur` of 1.
    """

    saliency: np.ndarray
    shares: np.ndarray
    scale: tuple[float, float]


def likelihood_loss(
    maps: Iterable[np.ndarray], positions: Sequence[np.ndarray]
) -> tuple[Callable[[np.ndarray], tuple[float, np.ndarray]], np.ndarray]:
    """The function that `fit_density` minimises, and where it starts.

    Returns:
        A function from parameters, (34,) float64, to the negative mean log likelihood of a fixation over uniform, in
        nats, and its gradient, (34,) float64; and the parameters of the default density. See `unpack`.
    """
    scenes, lowest, total = [], [], sum(map(len, positions))
    for saliency, own in zip(maps, positions, strict=True):
        scenes.append(_scene(saliency, own, total))
        default = as_distribution(saliency)
        lowest.append((default.min() + FLOOR) / (np.ptp(default) or 1))  # On the scale of `stretched`.
    curve_steps = np.append(np.median(lowest), np.diff(CURVE_AT))
    start = np.concatenate([[np.log(BLURS[0]), 0], np.log(curve_steps), np.zeros(CENTRE_KNOTS)])

    def loss(parameters):
        density = unpack(parameters)
        centre = density.along_centre((FIT_CELLS, FIT_CELLS))
        centre_bias = centre.of(density.centre)
        value, by_blur, by_curve, residual = -np.log(FIT_CELLS**2), 0.0, np.zeros(KNOTS), np.zeros_like(centre_bias)
        # Every core has an image of its own; that products of matrices take several cores too would only hinder.
        with threadpool_limits(1, "blas"):
            for part in parallel_map(lambda scene: _loss(density, centre_bias, scene), scenes):
                value, by_blur, by_curve = value + part[0], by_blur + part[1], by_curve + part[2]
                residual += part[3]
        by_ratio = np.sum(residual * centre.slope(density.centre) * distance_slope(residual.shape, density.ratio))
        # The curve is the running sum of its steps, whose logarithms are free.
        by_step = np.cumsum(by_curve[::-1])[::-1] * np.exp(parameters[CURVE])
        return float(value), np.concatenate([[by_blur, by_ratio], by_step, centre.back(residual)])

    return loss, np.clip(start, *np.transpose(BOUNDS))


def _scene(saliency: np.ndarray, positions: np.ndarray, total: int) -> Scene:
    scaled = stretched(saliency)
    on_grid = on_pixels(scaled + 1e-12, (FIT_CELLS, FIT_CELLS))
    on_grid = on_grid * scaled.mean() * FIT_CELLS**2  # Back from a sum of 1 to the map's scale.
    rows, columns = np.minimum((positions * FIT_CELLS).astype(int), FIT_CELLS - 1).T
    counts = np.bincount(rows * FIT_CELLS + columns, minlength=FIT_CELLS**2).reshape(FIT_CELLS, FIT_CELLS)
    scale = FIT_CELLS * np.sqrt(scaled.size) / np.array(scaled.shape)
    return Scene(np.clip(on_grid, 0, 1), counts / total, tuple(scale))


def _loss(density: FittedDensity, centre_bias: np.ndarray, scene: Scene) -> tuple[float, float, np.ndarray, np.ndarray]:
    """What an image adds to the negative log likelihood, and its derivatives.

    Args:
        density: whose likelihood it is.
        centre_bias: its centre bias on the grid, as a logarithm, (n, n).
        scene: the image.

    Returns:
        The value; its derivatives by the logarithm of the blur, by the values of the curve, (20,), and by the logarithm
        of the density in each cell before it is normalised, (n, n).
    """
    sigmas = [density.blur * scale for scale in scene.scale]
    of_rows, of_columns = (gaussian_matrix(FIT_CELLS, sigma) for sigma in sigmas)
    down, sideways = (gaussian_slope(FIT_CELLS, sigma) for sigma in sigmas)
    across = scene.saliency @ of_columns.T
    curve = density.along_curve(of_rows @ across)
    values = curve.of(density.curve)
    log_density = normalize(np.log(values) + centre_bias)
    residual = np.exp(log_density) * scene.shares.sum() - scene.shares
    by_value = residual / values
    blurring = down @ across + of_rows @ (scene.saliency @ sideways.T)
    by_blur = np.sum(by_value * curve.slope(density.curve) * blurring)
    return -np.sum(scene.shares * log_density), by_blur, curve.back(by_value), residual


def unpack(parameters: np.ndarray) -> FittedDensity:
    """Free parameters, (34,), as a density: logarithms of blur, ratio and the curve's steps; the centre bias."""
    return FittedDensity(
        float(np.exp(parameters[BLUR])),
        np.cumsum(np.exp(parameters[CURVE])),
        np.array(parameters[CENTRE]),
        float(np.exp(parameters[RATIO])),
    )
