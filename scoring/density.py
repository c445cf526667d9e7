"""Where people look as a distribution over pixels, and the optimal map of each metric.

A log density is float64, (H, W), natural logarithm, and its exponentials sum to 1.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from .metrics import as_distribution, count_map

# Keeps the density of a map's black pixels above zero.
FLOOR = 1e-8

# Cells along each side of the grid on which fixations are counted, whatever the size of the image.
CELLS = 128

# Images used to choose a bandwidth; more would hardly change it.
MOST_IMAGES = 200


def default_log_density(saliency: np.ndarray) -> np.ndarray:
    """The log density of a saliency map if none was fitted: log(map / sum + 1e-8), normalized."""
    density = as_distribution(saliency) + FLOOR
    return np.log(density / density.sum())


def normalize(log_density: np.ndarray) -> np.ndarray:
    """Make the exponentials sum to 1."""
    return log_density - logsumexp(log_density)


def relative(fixations: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Centers of pixels relative to the image's sides: (N, 2) integers -> (N, 2) float64 between 0 and 1."""
    return (np.asarray(fixations, np.float64).reshape(-1, 2) + 0.5) / shape


# --- Kernel density on a grid -----------------------------------------------------------------------------------------


GRID = (CELLS, CELLS)


def pixels_at(positions: np.ndarray, shape: tuple[int, int] = GRID) -> np.ndarray:
    """Relative positions as pixels of an image, or as cells of the grid, (N, 2) integers."""
    return np.minimum((np.asarray(positions) * shape).astype(int), np.subtract(shape, 1))


def histogram(positions: np.ndarray, shape: tuple[int, int] = GRID) -> np.ndarray:
    """Counts of relative positions in the pixels of an image, or in the cells of the grid; float64."""
    return count_map(pixels_at(positions, shape), shape)


@functools.lru_cache(maxsize=256)
def kernel_matrix(bandwidth: float) -> np.ndarray:
    """Row i is the Gaussian around cell i, cut off at the border; the bandwidth is relative to the image's side."""
    distance = np.subtract.outer(np.arange(CELLS), np.arange(CELLS)) / (CELLS * bandwidth)
    kernel = np.exp(-(distance**2) / 2)
    return kernel / kernel[CELLS // 2].sum()


def on_pixels(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample a density from a grid of any size by linear interpolation; float64, `shape`, with sum 1."""
    for axis, side in enumerate(shape):
        cells = values.shape[axis]
        position = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
        lower = np.minimum(position.astype(int), max(cells - 2, 0))
        upper, share = np.minimum(lower + 1, cells - 1), np.expand_dims(position - lower, 1 - axis)
        values = values.take(lower, axis) * (1 - share) + values.take(upper, axis) * share
    return values / values.sum()


def kernel_sums(cells: np.ndarray, sources: np.ndarray, of_rows: np.ndarray, of_columns: np.ndarray) -> np.ndarray:
    """The unnormalized kernel density of source cells (M, 2) at cells (N, 2); (N,)."""
    near_rows = of_rows[np.ix_(cells[:, 0], sources[:, 0])]  # (N, M)
    return np.einsum("nm,nm->n", near_rows, of_columns[np.ix_(cells[:, 1], sources[:, 1])])


def mixed(values: np.ndarray, others: np.ndarray | float) -> tuple[float, float]:
    """The share of `others` in the mixture of two densities with the highest likelihood, and its logarithm's mean.

    Both densities are given at the fixations, (N,), or as one number for all.
    """

    def loss(share):
        return -np.mean(np.log((1 - share) * values + share * others))

    found = minimize_scalar(loss, bounds=(1e-4, 1 - 1e-4), method="bounded", options={"xatol": 1e-4})
    return float(found.x), -float(found.fun)


# --- Center bias ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CenterBias:
    """Where people look regardless of the image: a kernel density of the fixations of many images.

    Attributes:
        counts: of the fixations of all images, (CELLS, CELLS).
        bandwidth: of the Gaussian kernel, relative to each side of the image.
        uniform: share of the uniform distribution in the mixture.
    """

    counts: np.ndarray
    bandwidth: float
    uniform: float

    def grid(self, without: np.ndarray | None = None) -> np.ndarray:
        """The density on the grid, with sum 1; without the positions, (N, 2), of the image to explain."""
        kernel = kernel_matrix(self.bandwidth)
        counts = self.counts if without is None else self.counts - histogram(without)
        density = kernel @ counts @ kernel.T
        mass = density.sum()
        density = density / mass if mass > 0 else np.full(density.shape, 1 / CELLS**2)
        return (1 - self.uniform) * density + self.uniform / CELLS**2

    def log_density(self, shape: tuple[int, int], without: np.ndarray | None = None) -> np.ndarray:
        """The log density for an image of `shape`; `without` as in `grid`."""
        return np.log(on_pixels(self.grid(without), shape))


def fit_center_bias(positions: Sequence[np.ndarray]) -> CenterBias:
    """Choose bandwidth and mixture by the likelihood of each image's fixations, (N, 2), under those of the others."""
    every = np.concatenate([np.zeros((0, 2)), *positions])
    counts = histogram(every)
    chosen = [p for p in positions[:: max(1, len(positions) // MOST_IMAGES)] if len(p)]
    if len(chosen) < 2:
        return CenterBias(counts, 0.1, 1.0)  # Too little data: uniform.
    cells = [pixels_at(p) for p in chosen]

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
    return CenterBias(counts, bandwidth, best_mixture(bandwidth)[0])


def minimum(loss: Callable[[float], float], lowest: float, highest: float) -> float:
    """The minimum of a function of a positive number, to 2 %."""
    bounds = np.log(lowest), np.log(highest)
    return float(np.exp(minimize_scalar(lambda x: loss(np.exp(x)), bounds=bounds, options={"xatol": 0.02}).x))


# --- Gold standard ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoldStandard:
    """Observers predict another observer: a kernel density of their fixations in the same image.

    Attributes:
        bandwidth: of the Gaussian kernel, relative to the square root of the image's area.
        center: share of the center bias in the mixture.
    """

    bandwidth: float
    center: float

    def grid(self, positions: np.ndarray, shape: tuple[int, int], center_grid: np.ndarray) -> np.ndarray:
        """The density of observers' fixations, (N, 2), on the grid; `center_grid` is `CenterBias.grid` without them."""
        of_rows, of_columns = observers_kernels(shape, self.bandwidth)
        density = of_rows @ histogram(positions) @ of_columns.T
        mass = density.sum()
        density = density / mass if mass > 0 else center_grid
        return (1 - self.center) * density + self.center * center_grid


def observers_kernels(shape: tuple[int, int], bandwidth: float) -> tuple[np.ndarray, np.ndarray]:
    """The matrices, for rows and for columns, of an isotropic kernel in pixels."""
    # Rounded, so many images share few matrices.
    rows, columns = (kernel_matrix(round(float(np.sqrt(shape[0] * shape[1]) * bandwidth / side), 4)) for side in shape)
    return rows, columns


def fit_gold_standard(
    images: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]],
) -> GoldStandard:
    """Choose bandwidth and mixture by the likelihood of each observer's fixations under those of the others.

    Images have relative positions (N, 2), their observers (N,), a shape, and the center bias without them on the grid.
    """
    images = images[:: max(1, len(images) // MOST_IMAGES)]

    def best_mixture(bandwidth):
        values, centers = [], []
        for positions, observers, shape, center_grid in images:
            of_rows, of_columns = observers_kernels(shape, bandwidth)
            cells = pixels_at(positions)
            masses = of_rows.sum(0)[cells[:, 0]] * of_columns.sum(0)[cells[:, 1]]
            for observer in np.unique(observers):
                own = observers == observer
                density = kernel_sums(cells[own], cells[~own], of_rows, of_columns)
                values.append(density / masses[~own].sum())
                centers.append(center_grid[tuple(cells[own].T)])
        return mixed(np.concatenate(values), np.concatenate(centers))

    bandwidth = minimum(lambda x: -best_mixture(x)[1], 0.01, 0.2)
    return GoldStandard(bandwidth, best_mixture(bandwidth)[0])


# --- The optimal map of each metric (Kümmerer et al., ECCV 2018) ------------------------------------------------------

# Number of true maps drawn to find the map with the highest expected similarity, and the kernel's standard deviation in
# cells of their grid.
SIM_DRAWS, SIM_CELLS = 200, 2.5


def metric_maps(
    log_density: np.ndarray, others: np.ndarray, kernel: float, count: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """For each metric of the MIT/Tübingen protocol, the map that scores best if the density is true.

    A fitted density is only approximate; see `contenders.plain_metrics`.

    Args:
        log_density, others: of the image, and the average density of the other images, (H, W).
        kernel: standard deviation, in pixels, of the blur from fixations to true maps.
        count, seed: of fixations in a true map, and of the draws for `similarity_map`.
    """
    values, expected = np.exp(log_density), blurred(log_density, kernel)
    return {
        "AUC": values,
        "sAUC": values / others,
        "NSS": values,
        "CC": expected,
        "SIM": similarity_map(values, kernel, count, seed),
        "KLD": expected,
        "IG": log_density,
    }


def blurred(log_density: np.ndarray, kernel: float) -> np.ndarray:
    """The expected true map of a density: blurred like the fixations; see `metric_maps`."""
    return gaussian_filter(np.exp(log_density), kernel)


def similarity_map(values: np.ndarray, kernel: float, count: int, seed: int = 0, draws: int = SIM_DRAWS) -> np.ndarray:
    """The map, (H, W) with sum 1, that maximizes the expected similarity under a density, `values`.

    The expected similarity with true maps q is the sum of E[min(p, q)] over the pixels. On the simplex it is maximal if
    P(q > p) is the same for all pixels, so p is the same quantile of each pixel's true values, with a sum of 1 over the
    map. The maximum over the drawn true maps is exact and needs no iterations.
    """
    # The kernel removes the details that a coarser grid would lose.
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
