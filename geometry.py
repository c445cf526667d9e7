"""From a photograph to the network's input, and from its output to a saliency map, with NumPy only.

This file ships with every export for Python, so exports give the same maps as the program. Both directions resize
like TensorFlow 1 (area or bicubic interpolation, corners aligned), which no other library does.
"""

import math

import numpy as np

# Gray level of the border around a photograph.
PADDING = 126

# Pixels of the network's input, which has each photograph's shape.
PIXELS = 240 * 320

# Common aspect ratios of photographs, landscape and portrait.
ASPECT_RATIOS = (1, 4 / 3, 3 / 2, 16 / 9)


def candidate_sizes(pixels: int = PIXELS) -> list[tuple[int, int]]:
    """The sizes that `fitted_size` chooses from: about so many pixels, both sides divisible by 8, sorted."""
    sizes = set()
    for ratio in ASPECT_RATIOS:
        short, long = (max(8, round((pixels * factor) ** 0.5 / 8) * 8) for factor in (1 / ratio, ratio))
        sizes |= {(short, long), (long, short)}
    return sorted(sizes)


def fitted_size(shape: tuple[int, int], pixels: int = PIXELS) -> tuple[int, int]:
    """The network's input size that a photograph fills best, among sizes with about the given number of pixels.

    Args:
        shape: height and width of the photograph.
        pixels: for example 240 · 320, with sizes 240×320, 320×240, 280×280, 224×336, 336×224, 208×368 and 368×208.

    Returns:
        Height and width, divisible by 8, with one of `ASPECT_RATIOS`.
    """

    def filled(size: tuple[int, int]) -> float:
        ratio = min(size[0] / shape[0], size[1] / shape[1])
        return shape[0] * shape[1] * ratio**2 / (size[0] * size[1])

    return max(candidate_sizes(pixels), key=filled)


def fit(photograph, size: tuple[int, int] | None = None, pixels: int = PIXELS) -> np.ndarray:
    """Fit a photograph into the network's input: resize it, keeping its aspect ratio, then pad it.

    Args:
        photograph: RGB, (H, W, 3), any numeric dtype, 0 to 255.
        size: height and width of the network's input; by default, `fitted_size` chooses it by the photograph's shape.
        pixels: about how many pixels the input has if there is no `size`.

    Returns:
        float32, (size[0], size[1], 3), 0 to 255. If the border is odd, the extra row or column is below or on
        the right.
    """
    photograph = np.asarray(photograph)
    shape = photograph.shape[:2]
    size = size or fitted_size(shape, pixels)
    ratio = min(size[0] / shape[0], size[1] / shape[1])
    resized = [max(round(side * ratio), 1) for side in shape]
    top, left = ((size[axis] - resized[axis]) // 2 for axis in (0, 1))
    fitted = np.full((*size, *photograph.shape[2:]), PADDING, np.float32)
    inside = fitted[top : top + resized[0], left : left + resized[1]]
    np.clip(_resize(photograph, resized, ((0, resized[0]), (0, resized[1]))), 0, 255, out=inside)
    return fitted


def restore(saliency, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of `fit`: resize the network's output to the photograph's size, without the border.

    Only pixels inside the photograph are computed, which saves memory for very narrow ones.

    Args:
        saliency: (h, w) or (h, w, 1), float32, 0 to 1, including the border.
        shape: height and width of the photograph: `photograph.shape[:2]`.

    Returns:
        float32, (shape[0], shape[1]), 0 to 1.
    """
    saliency = np.asarray(saliency, np.float32)
    saliency = saliency.reshape(saliency.shape[:2])
    ratio = max(shape[0] / saliency.shape[0], shape[1] / saliency.shape[1])
    resized = [round(side * ratio) for side in saliency.shape]
    kept = [((resized[axis] - shape[axis]) // 2, shape[axis]) for axis in (0, 1)]
    result = _resize(saliency, resized, kept)
    return np.clip(result, 0, 1, out=result)


def _resize(image: np.ndarray, size, kept) -> np.ndarray:
    """Area interpolation if either side shrinks, else bicubic; returns only the `kept` (start, count) of each axis."""
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    kernel = _area if shrinks else _bicubic
    # The axis that shrinks most comes first, which leaves the least work for the other one.
    for axis in sorted((0, 1), key=lambda axis: kept[axis][1] / image.shape[axis]):
        indices, weights = kernel(image.shape[axis], size[axis], *kept[axis])
        image = _combine(image, axis, indices, weights)
    return image


def _combine(image: np.ndarray, axis: int, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of rows (axis 0) or columns (axis 1), float32; `indices` and `weights` are (taps, count)."""
    shape = [1] * image.ndim
    shape[axis] = -1
    total: np.ndarray = np.zeros((), np.float32)
    for index, weight in zip(indices, weights.astype(np.float32), strict=True):
        total = total + np.take(image, index, axis) * weight.reshape(shape)
    return total


def _area(old: int, new: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each new pixel is the mean of the old pixels that it covers, weighted by overlap."""
    scale = _scale(old, new)
    outputs = np.arange(start, start + count, dtype=np.float32)
    low, high = outputs * scale, (outputs + 1) * scale  # float32, as in TensorFlow
    pixels = np.floor(low) + np.arange(math.ceil(scale) + 2)[:, None]  # (taps, count), float64 from here on
    covered = np.minimum(pixels + 1, high) - np.maximum(pixels, low)
    return np.minimum(pixels, old - 1).astype(np.int64), np.maximum(covered, 0) / scale


def _bicubic(old: int, new: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys' cubic with a = -0.75, which TensorFlow reads from a table of 1024 steps; border pixels repeat."""
    position = np.arange(start, start + count, dtype=np.float32) * _scale(old, new)  # float32, as in TensorFlow
    below = np.floor(position)
    offset = np.round((position - below) * 1024).astype(np.float64) / 1024
    indices = np.clip(below.astype(np.int64) + np.arange(-1, 3)[:, None], 0, old - 1)  # (4, count)
    return indices, np.stack([_cubic(distance) for distance in (1 + offset, offset, 1 - offset, 2 - offset)])


def _cubic(x: np.ndarray) -> np.ndarray:
    a = -0.75
    return np.where(x <= 1, ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a)


def _scale(old: int, new: int) -> np.float32:
    """Old pixels per new pixel; with aligned corners, the centers of the outermost pixels do not move."""
    return np.float32((old - 1) / (new - 1) if new > 1 else old / new)
