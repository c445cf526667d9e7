"""Fixations of one image, the common result of all readers."""

from typing import NamedTuple

import numpy as np

# The observer's number if fixations come without it.
UNKNOWN_OBSERVER = -1


class Fixations(NamedTuple):
    """Where people looked in one image.

    Attributes:
        points: int64, (n, 3): x, y and observer of each fixation; 0, 0 is the top left pixel. If an archive has only a
            map of the fixated pixels, each pixel is listed once, with `UNKNOWN_OBSERVER`.
        size: height and width of the image according to the archive, or None.
    """

    points: np.ndarray
    size: tuple[int, int] | None = None


def lit_pixels(image) -> Fixations:
    """Pixels brighter than half of the maximum, row by row. (JPEGs have gray pixels around each fixation.)"""
    image = image.toarray() if hasattr(image, "toarray") else np.asarray(image)  # MATLAB may store it as sparse.
    y, x = np.nonzero(image > image.max() / 2)
    return Fixations(np.column_stack([x, y, np.full(len(x), UNKNOWN_OBSERVER)]), image.shape)
