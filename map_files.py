"""Saliency maps and overlays as the contents of image files, without TensorFlow."""

import io

import numpy as np
from PIL import Image

from .utils import UserError

# Overlay colormap: perceptually uniform, dark at low saliency.
OVERLAY_COLORS = "inferno"

# Limit of the JPEG library.
MOST_JPEG_SIDE = 65_500


class Unwritable(UserError):
    """A map that its format cannot store; the message says why in a few words, without the file's name."""


def encode_map(saliency: np.ndarray, suffix: str) -> bytes:
    """A saliency map as the contents of a file.

    Args:
        saliency: float32, (H, W), 0 to 255.
        suffix: ".jpeg" (grayscale, quality 100, as published), ".png" (8 bits) or ".npy" (float32, 0 to 1).

    Raises:
        Unwritable: the map is too high or wide for a JPEG.
    """
    if suffix == ".npy":
        return encode_array(saliency)
    image = np.round(saliency).astype(np.uint8)
    return _encode(image, "PNG") if suffix == ".png" else _encode_jpeg(image, 100)


def encode_array(saliency: np.ndarray) -> bytes:
    """A map as a NumPy file, float32, 0 to 1."""
    buffer = io.BytesIO()
    np.save(buffer, saliency / np.float32(255))
    return buffer.getvalue()


def encode_overlay(photograph: np.ndarray, saliency: np.ndarray) -> bytes:
    """A photograph blended with its map, as the contents of a JPEG file; see `blend`."""
    return _encode_jpeg(blend(photograph, saliency), 95)


def _encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """With the settings of TensorFlow's encoder."""
    check_jpeg(image)
    return _encode(image, "JPEG", quality=quality, dpi=(300, 300))


def _encode(image: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def check_jpeg(image: np.ndarray) -> None:
    """Raise `Unwritable` for an image, (H, W) or (H, W, C), that is too high or wide for a JPEG."""
    height, width = image.shape[:2]
    if max(height, width) > MOST_JPEG_SIDE:
        raise Unwritable(
            f"its map cannot be written: received {width}×{height} pixels, expected at most {MOST_JPEG_SIDE} per side "
            f"for a JPEG; use --format png or npy, without --overlay"
        )


def blend(photograph: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """The mean of a photograph and its map in color.

    Args:
        photograph: uint8, (H, W, 3).
        saliency: float32, (H, W), 0 to 255.

    Returns:
        uint8, (H, W, 3).
    """
    import matplotlib  # Here, because only overlays need it.

    colors = matplotlib.colormaps[OVERLAY_COLORS](np.round(saliency).astype(np.uint8), bytes=True)[..., :3]
    return ((photograph.astype(np.uint16) + colors) // 2).astype(np.uint8)
