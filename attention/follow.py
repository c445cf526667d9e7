"""A path that follows attention through a clip with bounded speed, for crops that move like a camera."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.ndimage import gaussian_filter1d

# Standard deviation, in seconds, of the Gaussian that smooths targets.
STEADINESS = 0.5


def follow(targets: np.ndarray, times: np.ndarray, speed: float, cuts: Sequence[int] = ()) -> np.ndarray:
    """Positions that follow targets, and move by at most `speed` per second except at cuts.

    The targets are smoothed over time. The path is the mean of one that chases them forward in time, and one that
    chases them backward, so it neither lags nor leads.

    Args:
        targets: (N, D), one for each frame.
        times: of the frames in seconds, (N,), increasing.
        speed: in units of the targets per second, for each of the D directions.
        cuts: frames with which another scene begins.

    Returns:
        float64, (N, D).
    """
    path = np.empty(targets.shape)
    for first, end in pairwise([0, *cuts, len(targets)]):
        steps = np.diff(times[first:end])
        smooth = np.asarray(targets[first:end], np.float64)
        if len(steps) and np.median(steps) > 0:
            smooth = gaussian_filter1d(smooth, STEADINESS / np.median(steps), axis=0, mode="nearest")
        ahead, back = _chase(smooth, speed * steps), _chase(smooth[::-1], speed * steps[::-1])[::-1]
        path[first:end] = (ahead + back) / 2
    return path


def _chase(targets: np.ndarray, steps: np.ndarray) -> np.ndarray:
    path = targets.copy()
    for i, step in enumerate(steps):
        path[i + 1] = np.clip(targets[i + 1], path[i] - step, path[i] + step)
    return path
