"""Saliency metrics as the two benchmarks define them: NumPy and SciPy only, float64, one short function each.

Functions ending in `_tuebingen` follow the MIT/Tübingen benchmark (Kümmerer et al., ECCV 2018, and its metric library,
pysaliency): every fixation counts, however many share a pixel. Those ending in `_mit` follow the original MIT
benchmark (Bylinskii et al., "What do different evaluation metrics tell us about saliency models?", 2016, and its
MATLAB code): fixations are a binary map, in which duplicates collapse. `cc` and `kld` are the same in both.
All are pinned to both sources' numbers by test_metrics.py::test_deterministic_metrics_equal_the_benchmarks.

Everywhere:
    saliency: (H, W), any number type; its scale matters only if the docstring says so.
    fixations: (N, 2) integers, row and column, zero-based.
    fixation_map: (H, W) bool, true at pixels with at least one fixation.

Special cases:
    no fixations: NaN, for every metric that needs them; also for `cc`, `sim_*`, `kld` and `emd_mit` if the ground truth
        is zero everywhere.
    constant map: 0.5 for every AUC, 0 for NSS and CC; elsewhere a constant map, even of zeros, is the uniform
        distribution.
    NaN or infinity in a map, fixations outside it, and maps of different sizes: a `UserError`.
"""

import numpy as np
from scipy.integrate import trapezoid
from scipy.special import xlogy

from ..utils import UserError

# MATLAB's `eps`, which both benchmarks add to probabilities.
EPSILON = 2.2204e-16

# Cutoff frequency of the MIT benchmark's ground truth, and draws and threshold steps of its sampled AUCs.
CUTOFF_CYCLES = 8
AUC_SPLITS, AUC_STEP = 100, 0.1

# Factor by which the MIT benchmark shrinks maps for the earth mover's distance.
EMD_SHRINK = 32


# --- Both protocols ---------------------------------------------------------------------------------------------------


def cc(saliency: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's correlation coefficient of two maps; -1 to 1, more is better."""
    saliency, truth = _pair(saliency, truth)
    if not truth.any():
        return np.nan
    if _is_constant(saliency) or _is_constant(truth):
        return 0.0
    saliency, truth = saliency - saliency.mean(), truth - truth.mean()
    # Multiply the roots, not the sums: the product of tiny sums would underflow.
    return float(np.sum(saliency * truth) / (np.sqrt(np.sum(saliency**2)) * np.sqrt(np.sum(truth**2))))


def kld(saliency: np.ndarray, truth: np.ndarray) -> float:
    """Kullback-Leibler divergence of the prediction from the true distribution, in nats; less is better.

    Both maps are divided by their sums. Sources: KLdiv.m of the MIT benchmark, pysaliency's image-based KL divergence.
    """
    saliency, truth = _pair(saliency, truth)
    if not truth.any():
        return np.nan
    saliency, truth = as_distribution(saliency), as_distribution(truth)
    return float(np.sum(xlogy(truth, EPSILON + truth / (saliency + EPSILON))))


# --- MIT/Tübingen: every fixation counts ------------------------------------------------------------------------------


def auc_tuebingen(saliency: np.ndarray, fixations: np.ndarray) -> float:
    """Probability that a fixated pixel has more saliency than a pixel of the image; ties count one half."""
    saliency = _checked(saliency)
    return _mean(_shares_below(_at(saliency, fixations), saliency))


def sauc_tuebingen(
    saliency: np.ndarray, fixations: np.ndarray, negatives: np.ndarray, counts: np.ndarray | None = None
) -> float:
    """Shuffled AUC: probability that a fixated pixel has more saliency than one fixated in another image.

    Args:
        saliency, fixations: see the module.
        negatives: (M, 2), all fixations of the other images, rescaled to this image's size.
        counts: (M,), how often each occurs, if they are distinct pixels.
    """
    saliency = _checked(saliency)
    positives, values = _at(saliency, fixations), _at(saliency, negatives)
    if not positives.size or not values.size:
        return np.nan
    return float(np.average(1 - _shares_below(values, positives), weights=counts))


def nss_tuebingen(saliency: np.ndarray, fixations: np.ndarray) -> float:
    """Normalized scanpath saliency: mean at the fixations, in (population) standard deviations of the map."""
    return _nss(_checked(saliency), fixations, degrees=0)


def sim_tuebingen(saliency: np.ndarray, truth: np.ndarray) -> float:
    """Similarity: sum of the smaller of both maps, each shifted if negative and divided by its sum; 0 to 1."""
    saliency, truth = _pair(saliency, truth)
    if not truth.any():
        return np.nan
    return float(np.sum(np.minimum(as_distribution(saliency), as_distribution(truth))))


def ig_tuebingen(log_density: np.ndarray, log_baseline: np.ndarray, fixations: np.ndarray) -> float:
    """Information gain over a baseline, in bits per fixation; both are natural-log densities (see `density`)."""
    log_density, log_baseline = _pair(log_density, log_baseline)
    return _mean(_at(log_density, fixations) - _at(log_baseline, fixations)) / np.log(2)


# --- MIT: fixations as a binary map -----------------------------------------------------------------------------------


def auc_judd_mit(saliency: np.ndarray, fixation_map: np.ndarray, jitter: float = 1e-7, seed: int = 0) -> float:
    """Area under the curve with thresholds at the fixated pixels, against all other pixels (AUC_Judd.m).

    Args:
        saliency, fixation_map: see the module.
        jitter: largest random value added to break ties; it is absolute, so scale the map to 0 to 1.
        seed: of the jitter.
    """
    saliency, fixated = _pair(saliency, fixation_map)
    if not fixated.any():
        return np.nan
    if _is_constant(saliency):
        return 0.5
    if jitter:
        saliency = saliency + jitter * np.random.default_rng(seed).random(saliency.shape)
    thresholds = np.sort(saliency[fixated > 0])[::-1]
    count = thresholds.size
    above = saliency.size - np.searchsorted(np.sort(saliency, axis=None), thresholds, "left")
    order = np.arange(1, count + 1)
    others = max(saliency.size - count, 1)
    return float(trapezoid([0, *order / count, 1], [0, *(above - order) / others, 1]))


def auc_borji_mit(saliency: np.ndarray, fixation_map: np.ndarray, seed: int = 0) -> float:
    """Mean area under the curve against as many random pixels as there are fixated ones (AUC_Borji.m)."""
    saliency, fixated = _pair(saliency, fixation_map)
    count = int(np.count_nonzero(fixated))
    drawn = np.random.default_rng(seed).integers(0, saliency.size, (AUC_SPLITS, count))
    return _sampled_auc(saliency, fixated, saliency.ravel()[drawn])


def auc_shuffled_mit(saliency: np.ndarray, fixation_map: np.ndarray, other_map: np.ndarray, seed: int = 0) -> float:
    """Mean area under the curve against pixels fixated in other images (AUC_shuffled.m).

    Args:
        saliency, fixation_map: see the module.
        other_map: (H, W) bool, true at pixels with a fixation in another image.
        seed: of the draws, each without replacement and of as many pixels as are fixated, if available.
    """
    saliency, fixated = _pair(saliency, fixation_map)
    _, other = _pair(saliency, other_map)
    candidates = saliency[other > 0]
    if not candidates.size:
        return np.nan
    count = min(int(np.count_nonzero(fixated)), candidates.size)
    random = np.random.default_rng(seed)
    drawn = np.stack([random.choice(candidates, count, replace=False) for _ in range(AUC_SPLITS)])
    return _sampled_auc(saliency, fixated, drawn)


def nss_mit(saliency: np.ndarray, fixation_map: np.ndarray) -> float:
    """Normalized scanpath saliency with the sample's standard deviation, n - 1 (NSS.m)."""
    saliency, fixated = _pair(saliency, fixation_map)
    return _nss(saliency, np.argwhere(fixated > 0), degrees=1)


def sim_mit(saliency: np.ndarray, truth: np.ndarray) -> float:
    """Similarity of both maps, each scaled from minimum to maximum, then divided by its sum (similarity.m)."""
    saliency, truth = _pair(saliency, truth)
    if not truth.any():
        return np.nan
    return float(np.sum(np.minimum(_stretched_distribution(saliency), _stretched_distribution(truth))))


def ig_mit(saliency: np.ndarray, fixation_map: np.ndarray, baseline: np.ndarray) -> float:
    """Information gain over a baseline map, in bits per fixation; both maps scaled as in `sim_mit` (InfoGain.m)."""
    saliency, fixated = _pair(saliency, fixation_map)
    _, baseline = _pair(saliency, baseline)
    saliency, baseline = _stretched_distribution(saliency), _stretched_distribution(baseline)
    gain = np.log2(EPSILON + saliency[fixated > 0]) - np.log2(EPSILON + baseline[fixated > 0])
    return _mean(gain)


def emd_mit(saliency: np.ndarray, truth: np.ndarray) -> float:
    """Earth mover's distance between both maps at 1/32 of their size, in pixels of that size; less is better (EMD.m).

    Raises:
        UserError: the optimal-transport library that computes it is not installed.
    """
    saliency, truth = _pair(saliency, truth)
    if not truth.any():
        return np.nan
    transport = optimal_transport()
    height, width = (int(np.ceil(side / EMD_SHRINK)) for side in truth.shape)
    # Shrinking with a cubic kernel can undershoot zero, and mass must not be negative.
    source, target = (as_distribution(np.maximum(resize_mit(image, (height, width)), 0)) for image in (saliency, truth))
    cells = np.moveaxis(np.indices((height, width)), 0, -1).reshape(-1, 2)
    distances = np.linalg.norm(cells[:, None] - cells[None], axis=-1)
    return float(transport.emd2(target.ravel(), source.ravel(), distances, numItermax=1_000_000))


def optimal_transport():
    """Import the library POT, which is optional: only `emd_mit` needs it."""
    import os

    # Otherwise POT loads TensorFlow for a backend that is not used here.
    os.environ.setdefault("POT_BACKEND_DISABLE_TENSORFLOW", "1")
    try:
        import ot
    except ImportError as error:
        raise UserError(
            "The earth mover's distance needs the library POT, which is not installed: 'python -m pip install pot'."
        ) from error
    return ot


def resize_mit(saliency: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a map with an anti-aliased cubic kernel, as MATLAB's imresize does; float64, `shape`."""
    from PIL import Image

    saliency = _checked(saliency)
    if saliency.shape == tuple(shape):
        return saliency
    image = Image.fromarray(saliency.astype(np.float32))
    return np.asarray(image.resize(shape[::-1], Image.Resampling.BICUBIC), np.float64)


def blur_mit(fixation_map: np.ndarray, cycles: float = CUTOFF_CYCLES) -> np.ndarray:
    """The MIT benchmark's ground truth: a Gaussian in the frequency domain, with a gain of 0.5 at `cycles` per image.

    Args:
        fixation_map: (H, W); padded with zeros to a square with a power of two as its side (antonioGaussian.m).

    Returns:
        float64, (H, W), non-negative.
    """
    height, width = fixation_map.shape
    side = 2 ** int(np.ceil(np.log2(max(height, width))))
    frequency = np.fft.fftfreq(side, 1 / side)
    gain = np.exp(-(frequency**2) * np.log(2) / cycles**2)
    spectrum = np.fft.fft2(fixation_map.astype(np.float64), (side, side)) * gain[:, None] * gain
    # The transform leaves rounding errors below zero.
    return np.maximum(np.fft.ifft2(spectrum).real[:height, :width], 0)


# --- Shared -----------------------------------------------------------------------------------------------------------


def as_distribution(saliency: np.ndarray) -> np.ndarray:
    """Shifted to zero if negative, then divided by its sum; uniform if nothing is left."""
    saliency = np.asarray(saliency, np.float64)
    if (lowest := saliency.min()) < 0:
        saliency = saliency - lowest
    # Divide by the maximum first: the sum of tiny or huge values would underflow or overflow.
    peak = saliency.max()
    if peak == 0:
        return np.full(saliency.shape, 1 / saliency.size)
    saliency = saliency / peak
    return saliency / saliency.sum()


def fixation_map(fixations: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Fixations as a binary map, (H, W) bool."""
    return count_map(fixations, shape) > 0


def count_map(fixations: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Number of fixations of each pixel, (H, W) float64."""
    rows, columns = _inside(fixations, shape).T
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def _shares_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of the others that are below each value; ties count one half."""
    others = np.sort(others, axis=None)
    return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2 * others.size)


def _stretched_distribution(saliency: np.ndarray) -> np.ndarray:
    return as_distribution(saliency if _is_constant(saliency) else saliency - saliency.min())


def _nss(saliency: np.ndarray, fixations: np.ndarray, degrees: int) -> float:
    if _is_constant(saliency):
        return 0.0 if len(fixations) else np.nan
    return (_mean(_at(saliency, fixations)) - saliency.mean()) / saliency.std(ddof=degrees)


def _sampled_auc(saliency: np.ndarray, fixated: np.ndarray, drawn: np.ndarray) -> float:
    """Mean area under the curves of many draws, (splits, n), with thresholds in steps from 0 to 1."""
    if not fixated.any():
        return np.nan
    if _is_constant(saliency):
        return 0.5
    low, scale = saliency.min(), np.ptp(saliency)
    positives, drawn = (saliency[fixated > 0] - low) / scale, (drawn - low) / scale
    # Thresholds above the highest value would repeat the curve's first point.
    thresholds = np.arange(round(1 / AUC_STEP), -1, -1) * AUC_STEP
    hits = [np.mean(positives >= threshold) for threshold in thresholds]
    alarms = np.stack([np.mean(drawn >= threshold, axis=1) for threshold in thresholds], 1)  # (splits, thresholds)
    return float(np.mean([trapezoid([0, *hits, 1], [0, *row, 1]) for row in alarms]))


def _checked(saliency: np.ndarray) -> np.ndarray:
    saliency = np.asarray(saliency, np.float64)
    if saliency.ndim != 2 or not saliency.size:
        raise UserError(f"A map has shape {saliency.shape}, expected (height, width).")
    if not np.isfinite(saliency).all():
        raise UserError("A map has values that are not finite numbers. Make it again.")
    return saliency


def _pair(saliency: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    saliency, truth = _checked(saliency), _checked(truth)
    if saliency.shape != truth.shape:
        raise UserError(
            f"A map is {_size(saliency.shape)} and its ground truth {_size(truth.shape)} (width × height): resize one."
        )
    return saliency, truth


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]}×{shape[0]}"


def _inside(fixations: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    fixations = np.asarray(fixations, np.int64).reshape(-1, 2)
    if len(fixations) and (fixations.min() < 0 or (fixations >= shape).any()):
        outside = fixations[((fixations < 0) | (fixations >= shape)).any(1)][0]
        raise UserError(
            f"A fixation is at row {outside[0]}, column {outside[1]}, outside an image of {_size(shape)} pixels."
        )
    return fixations


def _at(saliency: np.ndarray, fixations: np.ndarray) -> np.ndarray:
    return saliency[tuple(_inside(fixations, saliency.shape).T)]


def _is_constant(saliency: np.ndarray) -> bool:
    return bool(saliency.min() == saliency.max())


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if values.size else np.nan
