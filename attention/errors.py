"""How far people's shares of attention lie from predicted ones: 90 % intervals, measured by `benchmarks/areas.py`.

Errors grow with the share, and small shares are more often too small than too large. The intervals come from areas of
2 to 25 % of a photograph. They hold for photographs and about 100 fixations of 15 people, whose own sampling error is
included.
"""

import numpy as np

from .measured import MEASURED

# Predicted shares at which the errors were measured; between them, they are interpolated.
KNOTS = np.array([0, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 1])

COVERAGE = 0.9


def scale(share: np.ndarray | float) -> np.ndarray:
    """The unit in which errors are measured: the standard deviation of one fixation's being inside, but never 0."""
    share = np.asarray(share, np.float64)
    return np.sqrt((share + 0.01) * (1.01 - share))


def interval(share: np.ndarray | float, errors: dict | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Between which shares 90 % of people's shares lie.

    Args:
        share: predicted share of attention, 0 to 1, any shape.
        errors: "low" and "high" at `KNOTS`, in units of `scale`; None for those measured with the medium network.

    Returns:
        The lower and the upper end, 0 to 1, of the shape of `share`.
    """
    errors = errors or MEASURED["interval"]
    ends = [share + scale(share) * np.interp(share, KNOTS, errors[end]) for end in ("low", "high")]
    return np.clip(ends[0], 0, share), np.clip(ends[1], share, 1)


def difference_interval(first: float, second: float) -> tuple[float, float]:
    """The 90 % interval of `second - first`, two predicted shares with independent errors.

    Errors are similar for two versions of one picture, so their interval is slightly too wide.
    """
    (low_first, high_first), (low_second, high_second) = interval(first), interval(second)
    difference = second - first
    low = difference - np.hypot(second - low_second, high_first - first)
    high = difference + np.hypot(high_second - second, first - low_first)
    return max(float(low), -1.0), min(float(high), 1.0)
