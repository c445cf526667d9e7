"""The probabilistic version: where people look as a distribution over pixels, and the maps that each metric deserves.

A log density is float64, (H, W), natural logarithm, and its exponentials sum to 1.
"""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp

from scoring.metrics import as_distribution
from utils import UserError, write_json

# Keeps the density of a map's black pixels above zero.
FLOOR = 1e-8

# Cells along each side of the grid on which fixations of images of any size are counted together.
CELLS = 128

# Images that decide a bandwidth; more would change it little.
MOST_IMAGES = 200


def default_log_density(saliency: np.ndarray) -> np.ndarray:
    """The log density that a saliency map is taken for when nothing was fitted: log(map / sum + 1e-8), normalised."""
    density = as_distribution(saliency) + FLOOR
    return np.log(density / density.sum())


def normalize(log_density: np.ndarray) -> np.ndarray:
    """Make the exponentials sum to 1."""
    return log_density - logsumexp(log_density)


def relative(fixations: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels' centres as shares of the image's sides: (N, 2) integers -> (N, 2) float64 between 0 and 1."""
    return (np.asarray(fixations, np.float64).reshape(-1, 2) + 0.5) / shape


# --- Kernel density on a grid -----------------------------------------------------------------------------------------


def cells_of(positions: np.ndarray) -> np.ndarray:
    """The cell of each relative position, (N, 2) integers."""
    return np.minimum((np.asarray(positions) * CELLS).astype(int), CELLS - 1)


def histogram(positions: np.ndarray) -> np.ndarray:
    """Counts of relative positions, (CELLS, CELLS) float64."""
    rows, columns = cells_of(positions).T
    return np.bincount(rows * CELLS + columns, minlength=CELLS**2).reshape(CELLS, CELLS).astype(np.float64)


@functools.lru_cache(maxsize=256)
def kernel_matrix(bandwidth: float) -> np.ndarray:
    """Row i is the Gaussian around cell i, (CELLS, CELLS); what goes over the border is lost.

    Args:
        bandwidth: standard deviation as a share of the image's side.
    """
    distance = np.subtract.outer(np.arange(CELLS), np.arange(CELLS)) / (CELLS * bandwidth)
    kernel = np.exp(-(distance**2) / 2)
    return kernel / kernel[CELLS // 2].sum()


def on_pixels(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A density on a grid of any size as one on another, by linear interpolation; float64, `shape`, of sum 1."""
    for axis, side in enumerate(shape):
        cells = values.shape[axis]
        position = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
        lower = np.minimum(position.astype(int), max(cells - 2, 0))
        upper, share = np.minimum(lower + 1, cells - 1), np.expand_dims(position - lower, 1 - axis)
        values = values.take(lower, axis) * (1 - share) + values.take(upper, axis) * share
    return values / values.sum()


def kernel_sums(cells: np.ndarray, sources: np.ndarray, of_rows: np.ndarray, of_columns: np.ndarray) -> np.ndarray:
    """The kernel density of source cells (M, 2), not normalised, at cells (N, 2); (N,)."""
    near_rows = of_rows[np.ix_(cells[:, 0], sources[:, 0])]  # (N, M)
    return np.einsum("nm,nm->n", near_rows, of_columns[np.ix_(cells[:, 1], sources[:, 1])])


def mixed(values: np.ndarray, others: np.ndarray | float) -> tuple[float, float]:
    """The share of `others` with which a mixture of two densities explains fixations best.

    Args:
        values, others: both densities at the fixations, (N,), or a number for all.

    Returns:
        The share, 1e-4 to 1 - 1e-4, and the mean log likelihood with it.
    """

    def loss(share):
        return -np.mean(np.log((1 - share) * values + share * others))

    found = minimize_scalar(loss, bounds=(1e-4, 1 - 1e-4), method="bounded", options={"xatol": 1e-4})
    return float(found.x), -float(found.fun)


# --- Centre bias ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CentreBias:
    """Where people look whatever the image shows: a kernel density of the fixations of many images.

    Attributes:
        counts: of the fixations of all images, (CELLS, CELLS).
        bandwidth: of the Gaussian kernel, as a share of each side of the image.
        uniform: share of the uniform distribution in the mixture.
    """

    counts: np.ndarray
    bandwidth: float
    uniform: float

    def grid(self, without: np.ndarray | None = None) -> np.ndarray:
        """The density on the grid, of sum 1.

        Args:
            without: relative positions, (N, 2), that were counted and shall not be: those of the image to explain.
        """
        kernel = kernel_matrix(self.bandwidth)
        counts = self.counts if without is None else self.counts - histogram(without)
        density = kernel @ counts @ kernel.T
        mass = density.sum()
        density = density / mass if mass > 0 else np.full(density.shape, 1 / CELLS**2)
        return (1 - self.uniform) * density + self.uniform / CELLS**2

    def log_density(self, shape: tuple[int, int], without: np.ndarray | None = None) -> np.ndarray:
        """The log density for an image of `shape`; `without` as in `grid`."""
        return np.log(on_pixels(self.grid(without), shape))


def fit_centre_bias(positions: Sequence[np.ndarray]) -> CentreBias:
    """Choose bandwidth and mixture by the likelihood of each image's fixations under those of the others.

    Args:
        positions: for each image, the relative positions of its fixations, (N, 2).
    """
    every = np.concatenate([np.zeros((0, 2)), *positions])
    counts = histogram(every)
    chosen = [p for p in positions[:: max(1, len(positions) // MOST_IMAGES)] if len(p)]
    if len(chosen) < 2:
        return CentreBias(counts, 0.1, 1.0)  # Nothing to learn from: uniform.
    cells = [cells_of(p) for p in chosen]

    def best_mixture(bandwidth):
        kernel = kernel_matrix(float(bandwidth))
        total, mass = kernel @ counts @ kernel.T, np.outer(kernel.sum(0), kernel.sum(0))
        values = []
        for own in cells:
            rows, columns = own.T
            others = total[rows, columns] - kernel_sums(own, own, kernel, kernel)
            values.append(others / ((mass * counts).sum() - mass[rows, columns].sum()))
        return mixed(np.maximum(np.concatenate(values), 0), 1 / CELLS**2)

    bandwidth = minimum(lambda x: -best_mixture(x)[1], 0.01, 0.3)
    return CentreBias(counts, bandwidth, best_mixture(bandwidth)[0])


def minimum(loss: Callable[[float], float], lowest: float, highest: float) -> float:
    """Where a function of a positive number is least, to 2 %."""
    bounds = np.log(lowest), np.log(highest)
    return float(np.exp(minimize_scalar(lambda x: loss(np.exp(x)), bounds=bounds, options={"xatol": 0.02}).x))


# --- Gold standard ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoldStandard:
    """Observers predict another observer: a kernel density of their fixations in the same image.

    Attributes:
        bandwidth: of the Gaussian kernel, as a share of the square root of the image's area.
        centre: share of the centre bias in the mixture.
    """

    bandwidth: float
    centre: float

    def grid(self, positions: np.ndarray, shape: tuple[int, int], centre_grid: np.ndarray) -> np.ndarray:
        """The density on the grid that observers' fixations give, of sum 1.

        Args:
            positions: relative positions of their fixations, (N, 2).
            shape: of the image.
            centre_grid: `CentreBias.grid` without this image.
        """
        of_rows, of_columns = observers_kernels(shape, self.bandwidth)
        density = of_rows @ histogram(positions) @ of_columns.T
        mass = density.sum()
        density = density / mass if mass > 0 else centre_grid
        return (1 - self.centre) * density + self.centre * centre_grid


def observers_kernels(shape: tuple[int, int], bandwidth: float) -> tuple[np.ndarray, np.ndarray]:
    """The matrices, for rows and for columns, of a kernel that is round in pixels."""
    # Rounded, so that few matrices serve many images.
    rows, columns = (kernel_matrix(round(float(np.sqrt(shape[0] * shape[1]) * bandwidth / side), 4)) for side in shape)
    return rows, columns


def fit_gold_standard(
    images: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]],
) -> GoldStandard:
    """Choose bandwidth and mixture by the likelihood of each observer's fixations under those of the others.

    Args:
        images: for each, the relative positions (N, 2), their observers (N,), the image's shape, and the centre bias
            without the image on the grid.
    """
    images = images[:: max(1, len(images) // MOST_IMAGES)]

    def best_mixture(bandwidth):
        values, centres = [], []
        for positions, observers, shape, centre_grid in images:
            of_rows, of_columns = observers_kernels(shape, bandwidth)
            cells = cells_of(positions)
            masses = of_rows.sum(0)[cells[:, 0]] * of_columns.sum(0)[cells[:, 1]]
            for observer in np.unique(observers):
                own = observers == observer
                density = kernel_sums(cells[own], cells[~own], of_rows, of_columns)
                values.append(density / masses[~own].sum())
                centres.append(centre_grid[tuple(cells[own].T)])
        return mixed(np.concatenate(values), np.concatenate(centres))

    bandwidth = minimum(lambda x: -best_mixture(x)[1], 0.01, 0.2)
    return GoldStandard(bandwidth, best_mixture(bandwidth)[0])


# --- Fitted to fixations ----------------------------------------------------------------------------------------------

KNOTS, CENTRE_KNOTS = 20, 12

# Where the knots of the curve are: closer at small values, which most pixels have, and where its logarithm is steep.
CURVE_AT = np.linspace(0, 1, KNOTS) ** 2

# Weight of the squared steps of the centre bias, beside the likelihood of a fixation in nats.
SMOOTHING = 1e-3

# Of the free parameters, see `unpack`: beyond, numbers overflow, or a single fixation could cost without limit.
BOUNDS = [(-6, -0.7), (-3, 3), *[(-10, 2)] * KNOTS, *[(-15, 15)] * CENTRE_KNOTS]

# Fitting sees maps on a grid with this many cells along each side.
FIT_CELLS = 128

# Fitting starts from the best of these. The least leaves a map as it is.
BLURS = (np.exp(BOUNDS[0][0]), 0.005, 0.01, 0.02, 0.04, 0.08)


@dataclass(frozen=True)
class FittedDensity:
    """How a saliency map becomes a density: blurred, put through a monotone curve, times an elliptic centre bias.

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
        # Divided by what the blur leaves of a white image, so that it does not darken the border.
        white = [gaussian_filter1d(np.ones(side), sigma, mode="constant") for side in scaled.shape]
        blurred = gaussian_filter(scaled, sigma, mode="constant") / np.outer(*white)
        curve = np.interp(blurred, CURVE_AT, self.curve)
        distance = elliptic_distance(scaled.shape, self.ratio)
        return normalize(np.log(curve) + np.interp(distance, np.linspace(0, 1, CENTRE_KNOTS), self.centre))

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


def stretched(saliency: np.ndarray) -> np.ndarray:
    """A map from its minimum to its maximum as 0 to 1; a constant one as 0."""
    saliency = np.asarray(saliency, np.float64) - np.min(saliency)
    return saliency / (saliency.max() or 1)


def elliptic_distance(shape: tuple[int, int], ratio: float) -> np.ndarray:
    """Each pixel's distance from the centre, from 0 to 1 in the corners; (H, W)."""
    vertical, horizontal = ((np.arange(side) + 0.5) * 2 / side - 1 for side in shape)
    return np.sqrt((ratio * vertical[:, None] ** 2 + horizontal**2) / (1 + ratio))


def fit_density(
    maps: Iterable[np.ndarray], positions: Sequence[np.ndarray], steps: int = 150
) -> tuple[FittedDensity, float, float]:
    """Fit a density by the likelihood of fixations: starting from the default density, it can only rise.

    Args:
        maps: saliency maps, (H, W), of any sizes.
        positions: for each of them, the relative positions of its image's fixations, (N, 2).
        steps: most iterations of the optimiser, L-BFGS with TensorFlow's gradients.

    Returns:
        The density, and the mean log likelihood of a fixation over that of a uniform density, in bits, with the default
        and with the fitted values.
    """
    loss, start = likelihood_loss(maps, positions)

    def smoothed_loss(parameters):
        """A centre bias may be as steep as it must, but shall not fall where merely few fixations are."""
        value, gradient = loss(parameters)
        slopes = np.diff(parameters[2 + KNOTS :])
        gradient[2 + KNOTS :] += 2 * SMOOTHING * (np.append(0, slopes) - np.append(slopes, 0))
        return value + SMOOTHING * np.sum(slopes**2), gradient

    # A descent hardly leaves a blur of less than a cell, so it starts from the best one.
    starts = [np.append(np.log(blur), start[1:]) for blur in BLURS]
    best = min(starts, key=lambda parameters: loss(parameters)[0])
    found = minimize(smoothed_loss, best, jac=True, method="L-BFGS-B", bounds=BOUNDS, options={"maxiter": steps})
    return unpack(found.x), -loss(start)[0] / np.log(2), -loss(found.x)[0] / np.log(2)


def likelihood_loss(maps: Iterable[np.ndarray], positions: Sequence[np.ndarray]):
    """The function that `fit_density` minimises, and where it starts.

    Returns:
        A function from parameters, (34,) float64, to the negative mean log likelihood of a fixation over uniform, in
        nats, and its gradient, (34,) float64; and the parameters of the default density. See `unpack`.
    """
    import tensorflow as tf

    images, counts, scales, lowest = [], [], [], []
    for saliency, own in zip(maps, positions, strict=True):
        images.append(on_pixels(stretched(saliency) + 1e-12, (FIT_CELLS, FIT_CELLS)))
        images[-1] *= stretched(saliency).mean() * FIT_CELLS**2  # Back from a sum of 1 to the map's scale.
        cells = np.minimum((own * FIT_CELLS).astype(int), FIT_CELLS - 1)
        counts.append(np.bincount(cells[:, 0] * FIT_CELLS + cells[:, 1], minlength=FIT_CELLS**2))
        default = as_distribution(saliency)
        lowest.append((default.min() + FLOOR) / (np.ptp(default) or 1))  # On the scale of `stretched`.
        # The blur's standard deviation in rows and columns of the grid, for a `blur` of 1.
        scales.append(FIT_CELLS * np.sqrt(np.prod(saliency.shape)) / np.array(saliency.shape))
    images, scales = tf.constant(np.clip(images, 0, 1)), tf.constant(np.array(scales))  # (B, n, n), (B, 2)
    counts = tf.constant(np.array(counts, np.float64))  # (B, n * n)
    counts /= tf.reduce_sum(counts)
    vertical, horizontal = np.meshgrid(*[(np.arange(FIT_CELLS) + 0.5) * 2 / FIT_CELLS - 1] * 2, indexing="ij")
    centre_at = np.linspace(0, 1, CENTRE_KNOTS)
    squares = tf.constant((np.subtract.outer(np.arange(FIT_CELLS), np.arange(FIT_CELLS)) ** 2).astype(np.float64))

    def interpolate(position, at, values):
        """The piecewise linear function through `values` at the positions `at`, like `np.interp`."""
        lower = tf.clip_by_value(tf.searchsorted(at, tf.reshape(position, [-1]), side="right") - 1, 0, len(at) - 2)
        lower = tf.reshape(lower, tf.shape(position))
        slopes = (values[1:] - values[:-1]) / np.diff(at)
        return tf.gather(values, lower) + tf.gather(slopes, lower) * (position - tf.gather(at, lower))

    @tf.function(autograph=False)
    def value_and_gradient(parameters):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            blur, ratio = tf.exp(parameters[0]), tf.exp(parameters[1])
            curve, centre = tf.cumsum(tf.exp(parameters[2 : 2 + KNOTS])), parameters[2 + KNOTS :]
            kernels = tf.exp(-squares / (2 * (blur * scales[..., None, None]) ** 2))  # (B, 2, n, n)
            kernels /= tf.reduce_sum(kernels, -1, keepdims=True)
            blurred = tf.linalg.matmul(kernels[:, 0] @ images, kernels[:, 1], transpose_b=True)  # (B, n, n)
            distance = tf.sqrt((ratio * vertical**2 + horizontal**2) / (1 + ratio))
            logits = tf.math.log(interpolate(blurred, CURVE_AT, curve)) + interpolate(distance, centre_at, centre)
            logits = tf.reshape(logits, (-1, FIT_CELLS**2))
            loss = -tf.reduce_sum(counts * tf.nn.log_softmax(logits)) - np.log(FIT_CELLS**2)
        return loss, tape.gradient(loss, parameters)

    def loss(parameters):
        value, gradient = value_and_gradient(tf.constant(parameters, tf.float64))
        return float(value), gradient.numpy()

    curve_steps = np.append(np.median(lowest), np.diff(CURVE_AT))
    start = np.concatenate([[np.log(BLURS[0]), 0], np.log(curve_steps), np.zeros(CENTRE_KNOTS)])
    return loss, np.clip(start, *np.transpose(BOUNDS))


def unpack(parameters: np.ndarray) -> FittedDensity:
    """Free parameters, (34,), as a density: logarithms of blur, ratio and the curve's steps; the centre bias."""
    return FittedDensity(
        float(np.exp(parameters[0])),
        np.cumsum(np.exp(parameters[2 : 2 + KNOTS])),
        np.array(parameters[2 + KNOTS :]),
        float(np.exp(parameters[1])),
    )


# --- The map that each metric deserves (Kümmerer et al., ECCV 2018) ---------------------------------------------------

# True maps that are drawn to find the map of the highest expected similarity, and the cells that a kernel's standard
# deviation shall have in it.
SIM_DRAWS, SIM_CELLS = 200, 2.5


def metric_maps(
    log_density: np.ndarray, others: np.ndarray, kernel: float, count: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """For each metric of the MIT/Tübingen protocol the map that scores best, were the density true.

    Args:
        log_density: of the image, (H, W).
        others: the average density of the other images, (H, W).
        kernel: standard deviation in pixels of the blur that makes true maps of fixations.
        count: of fixations in a true map.
        seed: of the draws for `similarity_map`.
    """
    values = np.exp(log_density)
    blurred = gaussian_filter(values, kernel)
    return {
        "AUC": values,
        "sAUC": values / others,
        "NSS": values,
        "CC": blurred,
        "SIM": similarity_map(values, kernel, count, seed),
        "KLD": blurred,
        "IG": log_density,
    }


def similarity_map(values: np.ndarray, kernel: float, count: int, seed: int = 0, draws: int = SIM_DRAWS) -> np.ndarray:
    """The map that maximises the expected similarity under a density.

    The similarity with true maps q is the sum of E[min(p, q)] over the pixels. On the simplex it is greatest where
    P(q > p) is the same everywhere: where p is everywhere the same quantile of the pixel's true values, the one for
    which the map's sum is 1. So the maximum over drawn true maps is exact, and needs no descent.

    Args:
        values: the density, (H, W).
        kernel, count, seed: as in `metric_maps`.
        draws: true maps to draw.

    Returns:
        float64, (H, W), of sum 1.
    """
    # The kernel's blur leaves no detail that a coarser grid would lose.
    height, width = (max(1, int(np.ceil(side * min(1, SIM_CELLS / kernel)))) for side in values.shape)
    shape = height, width
    sigma = [kernel * cells / side for cells, side in zip(shape, values.shape, strict=True)]
    random, density = np.random.default_rng(seed), on_pixels(values, shape).ravel()
    drawn = random.multinomial(count, density / density.sum(), draws).reshape(draws, *shape)
    truths = gaussian_filter(drawn.astype(np.float32), (0, *sigma)).reshape(draws, -1)
    truths = np.sort(truths / truths.sum(1, keepdims=True), axis=0)
    rank = np.interp(1, truths.sum(1, dtype=np.float64), np.arange(draws))
    lower = min(int(rank), draws - 2)
    quantile = truths[lower] * (lower + 1 - rank) + truths[lower + 1] * (rank - lower)
    return on_pixels(quantile.reshape(shape).astype(np.float64), values.shape)
