"""Fitted densities: the formula that turns a saliency map into a density of fixations, its fit, and its file."""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from scipy.optimize import minimize

from ..installation import command
from ..progress import ProgressBar
from ..utils import UserError, write_json
from .density import FLOOR, histogram, on_pixels
from .metrics import as_distribution

KNOTS, CENTER_KNOTS = 20, 12

# Positions of the curve's knots: denser at small values, which most pixels have, and where its logarithm is steep.
CURVE_AT = np.linspace(0, 1, KNOTS) ** 2
CENTER_AT = np.linspace(0, 1, CENTER_KNOTS)

# Weight of the squared steps of the center bias, relative to the likelihood of a fixation in nats.
SMOOTHING = 1e-3

# Bounds of the parameters, see `_split`: beyond them numbers overflow, or a single fixation could cost any amount.
BOUNDS = [(-6, -0.7), (-3, 3), *[(-10, 2)] * KNOTS, *[(-15, 15)] * CENTER_KNOTS]

# Fitting uses maps on a grid with this many cells along each side, and this many maps at a time.
FIT_CELLS = 128
FIT_BATCH = 16

# Fitting starts from the best of these blurs. The smallest leaves a map unchanged.
BLURS = (np.exp(BOUNDS[0][0]), 0.005, 0.01, 0.02, 0.04, 0.08)


@dataclass(frozen=True)
class FittedDensity:
    """A saliency map is blurred, mapped through a monotone curve, and multiplied by an elliptic center bias.

    Attributes:
        blur: standard deviation of the Gaussian, relative to the square root of the image's area.
        curve: (20,) positive and rising, at the values `CURVE_AT` of the blurred map, which was scaled to 0 to 1.
        center: (12,) logarithms of the factors at equal steps of the elliptic distance, from the center to a corner.
        ratio: weight of the vertical in that distance, relative to the horizontal; both relative to half the side.
        plain: metrics for which the saliency map itself scored better on the images of the fit than the map that is
            made from the density; see `contenders.plain_metrics`.
    """

    blur: float
    curve: np.ndarray
    center: np.ndarray
    ratio: float
    plain: tuple[str, ...] = ()

    def log_density(self, saliency: np.ndarray) -> np.ndarray:
        """The log density of a saliency map of any scale, (H, W) -> float64 (H, W)."""
        scaled = stretched(saliency)
        sigmas = np.full((1, 2), self.blur * np.sqrt(scaled.size))
        with _on_processor():
            return _log_densities(scaled[None], sigmas, self.curve, self.center, self.ratio).numpy()[0]

    def save(self, path: Path) -> None:
        curves = {"curve": self.curve.tolist(), "centre": self.center.tolist()}
        write_json(path, {"blur": self.blur, **curves, "ratio": self.ratio, "plain": self.plain})

    @classmethod
    def load(cls, path: Path) -> "FittedDensity":
        """Read a file of `save`; a `UserError` if it is missing or invalid."""
        if not path.exists():
            raise UserError(f"No such file: {path}. Make one with '{command()} evaluate --fit'.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            curve, center = (np.array(content[name], np.float64) for name in ("curve", "centre"))
            plain = tuple(map(str, content.get("plain", ())))
            loaded = cls(float(content["blur"]), curve, center, float(content["ratio"]), plain)
            positive = [loaded.blur, loaded.ratio, *curve]
            if curve.shape != (KNOTS,) or center.shape != (CENTER_KNOTS,) or min(positive) <= 0:
                raise ValueError("its values are out of range")
            if not np.isfinite([*positive, *center]).all():
                raise ValueError("its values are not finite")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a fitted density: {error}. Make one with 'evaluate --fit'.") from error
        return loaded


# --- The formula, in TensorFlow for its derivatives -------------------------------------------------------------------


def stretched(saliency: np.ndarray) -> np.ndarray:
    """A map scaled from its minimum and maximum to 0 and 1; a constant map becomes 0."""
    saliency = np.asarray(saliency, np.float64) - np.min(saliency)
    return saliency / (saliency.max() or 1)


def _on_processor():
    return tf.device("/CPU:0")  # GPUs are slow in float64.


def _log_densities(saliency, sigmas, curve, center, ratio):
    """Log densities of maps, float64 (B, H, W), 0 to 1; `sigmas` of the blur in rows and columns, float64 (B, 2)."""
    height, width = tf.unstack(tf.shape(saliency)[1:])
    blurred = _gaussians(height, sigmas[:, 0]) @ saliency @ _gaussians(width, sigmas[:, 1], transposed=True)
    unnormalized = tf.math.log(_interpolate(blurred, CURVE_AT, curve))
    sides = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    vertical, horizontal = ((tf.range(0.5, side) * 2 / side - 1) ** 2 for side in sides)  # -1 to 1, squared
    distance = tf.sqrt((ratio * vertical[:, None] + horizontal) / (1 + ratio))  # (H, W), 0 to 1 in the corners
    unnormalized += _interpolate(distance, CENTER_AT, center)
    return unnormalized - tf.reduce_logsumexp(unnormalized, axis=(1, 2), keepdims=True)


def _gaussians(side, sigmas, transposed: bool = False):
    """The blur along one side of each map as a matrix, (B, side, side): row i is the Gaussian around pixel i.

    Every row has the sum 1, so a white map stays white up to its border.
    """
    pixels = tf.range(tf.cast(side, tf.float64))
    kernels = tf.exp(-((pixels[:, None] - pixels) ** 2) / (2 * sigmas[:, None, None] ** 2))
    return kernels / tf.reduce_sum(kernels, axis=1 if transposed else 2, keepdims=True)


def _interpolate(positions, knots: np.ndarray, values):
    """The piecewise linear function with `values` at the knots, (n,), at positions of any shape."""
    lower = tf.reshape(tf.searchsorted(knots, tf.reshape(positions, [-1]), side="right"), tf.shape(positions)) - 1
    lower = tf.clip_by_value(lower, 0, len(knots) - 2)
    slopes = (values[1:] - values[:-1]) / np.diff(knots)
    return tf.gather(values, lower) + tf.gather(slopes, lower) * (positions - tf.gather(knots, lower))


# --- The fit ----------------------------------------------------------------------------------------------------------


def fit_density(
    maps: Iterable[np.ndarray], positions: Sequence[np.ndarray], steps: int = 150
) -> tuple[FittedDensity, float, float]:
    """Fit a density by the likelihood of fixations, starting from the default density, in at most `steps` of L-BFGS.

    For each saliency map, (H, W), `positions` has the relative positions of the image's fixations, (N, 2).

    Returns:
        The density, and the mean log likelihood of a fixation relative to a uniform density, in bits, before and after
        the fit.
    """
    loss, start = likelihood_loss(maps, positions)
    # The optimizer rarely leaves a blur of less than a cell, so it starts from the best one.
    starts = [np.append(np.log(blur), start[1:]) for blur in BLURS]
    best = min(starts, key=lambda parameters: loss(parameters)[0])
    # Smoothing keeps the center bias from falling where there are merely few fixations.
    smoothed = functools.partial(loss, smoothing=SMOOTHING)
    with ProgressBar(total=steps, desc="Fit, at most", unit="step") as bar:
        settings = {"bounds": BOUNDS, "options": {"maxiter": steps}, "callback": lambda _: bar.update()}
        found = minimize(smoothed, best, jac=True, method="L-BFGS-B", **settings)
    return unpack(found.x), -loss(start)[0] / np.log(2), -loss(found.x)[0] / np.log(2)


def likelihood_loss(
    maps: Iterable[np.ndarray], positions: Sequence[np.ndarray]
) -> tuple[Callable[..., tuple[float, np.ndarray]], np.ndarray]:
    """The function that `fit_density` minimizes, and its start.

    It maps parameters, (34,) float64, see `_split`, to the negative mean log likelihood of a fixation relative to
    uniform, in nats, and its gradient. The start are the parameters of the default density.
    """
    rows, lowest, total = [], [], sum(map(len, positions))
    for saliency, own in zip(maps, positions, strict=True):
        rows.append(_on_grid(saliency, own, total))
        default = as_distribution(saliency)
        lowest.append((default.min() + FLOOR) / (np.ptp(default) or 1))  # On the scale of `stretched`.
    curve_steps = np.append(np.median(lowest), np.diff(CURVE_AT))
    start = np.concatenate([[np.log(BLURS[0]), 0], np.log(curve_steps), np.zeros(CENTER_KNOTS)])
    dataset = [np.stack(column) for column in zip(*rows, strict=True)]

    @tf.function(reduce_retracing=True)
    def batch_loss(parameters, smoothing, saliency, shares, scales):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            blur, ratio, curve, center = _split(parameters)
            value = -tf.reduce_sum(shares * _log_densities(saliency, blur * scales, curve, center, ratio))
            value += smoothing * tf.reduce_sum((center[1:] - center[:-1]) ** 2)
        return value, tape.gradient(value, parameters)

    def loss(parameters, smoothing: float = 0.0):
        value, gradient = -np.log(FIT_CELLS**2), np.zeros(len(parameters))
        with _on_processor():
            for first in range(0, len(rows), FIT_BATCH):
                batch = [tf.constant(column[first : first + FIT_BATCH]) for column in dataset]
                weight = smoothing * len(batch[0]) / len(rows)
                parts = batch_loss(tf.constant(parameters), tf.constant(weight, tf.float64), *batch)
                value, gradient = value + float(parts[0]), gradient + parts[1].numpy()
        return value, gradient

    return loss, np.clip(start, *np.transpose(BOUNDS))


def _on_grid(saliency: np.ndarray, positions: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A training image on the fit's grid.

    The map, (n, n), 0 to 1; each cell's share of the fixations of all images, (n, n); and the standard deviation in
    rows and columns of the grid for a `blur` of 1.
    """
    scaled = stretched(saliency)
    values = on_pixels(scaled + 1e-12, (FIT_CELLS, FIT_CELLS))
    values = values * scaled.mean() * FIT_CELLS**2  # From a sum of 1 back to the map's scale.
    counts = histogram(positions, (FIT_CELLS, FIT_CELLS))
    return np.clip(values, 0, 1), counts / total, FIT_CELLS * np.sqrt(scaled.size) / np.array(scaled.shape)


def _split(parameters):
    """Blur, ratio, curve and center bias from a tensor, (34,): logarithms of all but the last, the curve as steps."""
    blur, ratio = tf.unstack(tf.exp(parameters[:2]))
    return blur, ratio, tf.cumsum(tf.exp(parameters[2 : 2 + KNOTS])), parameters[2 + KNOTS :]


def unpack(parameters: np.ndarray) -> FittedDensity:
    """Parameters, (34,), as a density; see `_split`."""
    blur, ratio, curve, center = (part.numpy() for part in _split(tf.constant(parameters)))
    return FittedDensity(float(blur), curve, center, float(ratio))
