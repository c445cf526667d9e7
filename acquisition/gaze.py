"""Where people looked in an image: what every reader of fixations gives, and the blur that makes a map of them."""

from typing import NamedTuple

import numpy as np

# In place of an observer's number where fixations come without it.
UNKNOWN_OBSERVER = -1


class Fixations(NamedTuple):
    """Where people looked in one image.

    Attributes:
        points: int64, (n, 3): x, y and observer of each fixation; 0, 0 is the top left pixel. Archives that hold
            only a map of the fixated pixels give each pixel once, and `UNKNOWN_OBSERVER`.
        size: height and width of the image as the archive says, or None.
    """

    points: np.ndarray
    size: tuple[int, int] | None = None


def lit_pixels(image) -> Fixations:
    """The pixels that are brighter than half of the brightest, row by row. A JPEG has grey around each fixation."""
    image = image.toarray() if hasattr(image, "toarray") else np.asarray(image)  # MATLAB may store it as sparse.
    y, x = np.nonzero(image > image.max() / 2)
    return Fixations(np.column_stack([x, y, np.full(len(x), UNKNOWN_OBSERVER)]), image.shape)


def gaussian_blur(counts: np.ndarray, sigma: float) -> np.ndarray:
    """Spread each fixation by a Gaussian: what every saliency map of fixations is a multiple of.

    Args:
        counts: how many fixations each pixel has, float32 or float64, (H, W).
        sigma: standard deviation in pixels.

    Returns:
        What `scipy.ndimage.gaussian_filter` gives, but for rounding, of the type of `counts`, (H, W).
    """
    from scipy.ndimage import gaussian_filter1d

    # Only few rows hold a fixation. Blurring those alone, and then spreading them over the others in one product of
    # matrices, takes a small part of the time that the whole image would.
    rows = np.flatnonzero(counts.any(axis=1))
    if not len(rows):
        return np.zeros_like(counts)
    impulses = np.zeros((len(rows), len(counts)), counts.dtype)
    impulses[np.arange(len(rows)), rows] = 1
    across, down = gaussian_filter1d(counts[rows], sigma), gaussian_filter1d(impulses, sigma)  # (rows, W), (rows, H)
    return down.T @ across  # (H, W)
