"""Pixels: image files to tensors, and tensors to the network's input and its maps back."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from . import geometry
from .data import Sample
from .image_files import (
    IMAGE_FORMATS,
    MAP_FORMATS,
    PNG_SIGNATURE,
    STORED,
    UPRIGHT,
    Header,
    Unreadable,
    on_white,
    read_gray,
    read_header,
    read_pixels,
    turn,
    why_unreadable,
)
from .map_files import blend, check_jpeg, encode_array

# Padding values of images and of saliency maps at the network's input size.
IMAGE_PADDING, MAP_PADDING = geometry.PADDING, 0


# --- Geometry: an image to the network's input, and a map back --------------------------------------------------------
#
# Both directions resize with the kernels of TensorFlow 1 (area, bicubic; corners aligned), which `tf.image.resize` of
# TensorFlow 2 no longer has. Pinned by test_images.py::test_resize_and_pad_equals_the_published_preprocessing.


def resize_and_pad(image, size: tuple[int, int], padding: int):
    """Fit an image into the network's input: resize it with its aspect ratio, then pad it.

    Args:
        image: (H, W, C), any number type, 0 to 255.
        size: height and width of the network's input; integers or scalar tensors.
        padding: value of the border.

    Returns:
        float32, (size[0], size[1], C), 0 to 255. An odd row or column of border goes below or to the right.
    """
    return pad(resize_to_fit(image, size), size, padding)


def resize_to_fit(image, size: tuple[int, int]):
    """The first half of `resize_and_pad`: float32, as large as fits into `size` with the image's aspect ratio."""
    shape = tf.shape(image)[:2]
    ratio = tf.reduce_min(tf.convert_to_tensor(size, tf.int32) / shape)
    # The published program fails if a very narrow image would shrink to zero pixels.
    return _resize(image, tf.maximum(tf.cast(tf.round(tf.cast(shape, ratio.dtype) * ratio), tf.int32), 1))


def pad(image, size: tuple[int, int], padding: int):
    """The second half of `resize_and_pad`: pads an image that is no larger than `size`."""
    border = tf.convert_to_tensor(size, tf.int32) - tf.shape(image)[:2]
    before, after = border // 2, border - border // 2
    return tf.pad(image, [(before[0], after[0]), (before[1], after[1]), (0, 0)], constant_values=padding)


def crop_and_restore(saliency, size: tuple[int, int]):
    """The inverse of `resize_and_pad`: the network's output at the size of the image that went in.

    Args:
        saliency: (h, w, 1) float32, 0 to 1, the border included.
        size: height and width of the image; integers or scalar tensors.

    Returns:
        float32, (size[0], size[1], 1), 0 to 255, not rounded.
    """
    size = tf.convert_to_tensor(size, tf.int32)
    shape = tf.shape(saliency)[:2]
    ratio = tf.reduce_max(size / shape)
    resized = _resize(saliency * 255, tf.cast(tf.round(tf.cast(shape, ratio.dtype) * ratio), tf.int32))
    start = (tf.shape(resized)[:2] - size) // 2
    return resized[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]


# A map is resized as a whole and then cropped, unless the resized map would have this many times the image's pixels.
WASTE = 4


def restore_map(saliency: tf.Tensor, size: tuple[int, int]) -> np.ndarray:
    """`crop_and_restore` for one map, in memory that depends only on the image.

    The map of an image of 1×40000 pixels would be 30000 rows high before cropping. In such cases `geometry.restore`
    computes only the rows and columns that are kept; it differs by rounding.

    Args:
        saliency: (h, w, 1) float32, 0 to 1.
        size: height and width of the image.

    Returns:
        float32, (H, W), 0 to 255, not rounded.
    """
    height, width = saliency.shape[:2]
    ratio = max(size[0] / height, size[1] / width)
    if height * width * ratio**2 > WASTE * size[0] * size[1]:
        return geometry.restore(saliency.numpy()[..., 0], size) * np.float32(255)
    return _restore(saliency, size).numpy()[..., 0]


@tf.function(input_signature=[tf.TensorSpec((None, None, 1), tf.float32), tf.TensorSpec((2,), tf.int32)])
def _restore(saliency, size):
    return crop_and_restore(saliency, size)


def _resize(image, size):
    """Area interpolation when either side shrinks, else bicubic; (H, W, C) -> float32 (size[0], size[1], C)."""

    def area():
        return tf.raw_ops.ResizeArea(images=images, size=size, align_corners=True)

    def bicubic():
        return tf.raw_ops.ResizeBicubic(images=images, size=size, align_corners=True, half_pixel_centers=False)

    images = image[None]  # Still uint8: the kernels convert it, which avoids a copy of four times the size.
    resized = tf.cond(tf.reduce_any(size < tf.shape(image)[:2]), area, bicubic)[0]
    return tf.clip_by_value(resized, 0.0, 255.0)


# --- Image files ------------------------------------------------------------------------------------------------------

# Formats that TensorFlow decodes, as in the published program. Pillow decodes all others.
BY_TENSORFLOW = ("JPEG", "PNG")

BIT_DEPTH = 24  # the position of the byte in a PNG file


def decode_image(contents, channels: int):
    """Decode a JPEG or PNG file without turning it; `read_image` reads files of any kind.

    16-bit values keep their upper 8 bits, and palettes are looked up.

    Args:
        contents: scalar string tensor.
        channels: 4 for RGBA, 3 for RGB or 1 for grayscale.

    Returns:
        uint8, (H, W, channels).
    """
    image = tf.io.decode_image(contents, channels, expand_animations=False)
    return tf.ensure_shape(image, (None, None, channels))


def decode_map(contents):
    """Decode the contents of a JPEG or PNG file as a map: float32, (H, W, 1), 0 to 255, with all of its 16 bits."""
    is_png = tf.strings.substr(contents, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE
    is_deep = tf.strings.substr(contents, BIT_DEPTH, 1) == b"\x10"
    return tf.cond(
        is_png & is_deep,
        lambda: tf.cast(tf.io.decode_png(contents, 1, tf.uint16), tf.float32) / 257,
        lambda: tf.cast(decode_image(contents, 1), tf.float32),
    )


def read_image(path: Path, header: Header) -> tf.Tensor:
    """Read and decode an image file: its first frame, turned as `header` says, on white.

    Args:
        path: the file.
        header: from `image_files.read_header`.

    Returns:
        uint8, (H, W, 3).

    Raises:
        Unreadable: it is damaged.
    """
    try:
        pixels = _read_stored(path, header)
    except (tf.errors.OpError, OSError, SyntaxError, ValueError) as error:
        raise Unreadable(_damage(path, error)) from error
    return pixels if header.orientation == 1 else tf.constant(turn(np.asarray(pixels), header.orientation))


def _read_stored(path: Path, header: Header) -> tf.Tensor:
    if header.format not in BY_TENSORFLOW:
        return tf.constant(read_pixels(path))
    try:
        if header.transparent:
            return tf.constant(on_white(decode_image(tf.io.read_file(os.fsencode(path)), 4).numpy()))
        return _decode_file(os.fsencode(path))
    except tf.errors.OpError as error:
        try:
            return tf.constant(read_pixels(path))  # For kinds of JPEG and PNG that TensorFlow cannot decode.
        except (OSError, SyntaxError, ValueError):
            raise error from None


@tf.function(input_signature=[tf.TensorSpec((), tf.string)])
def _decode_file(path):
    return decode_image(tf.io.read_file(path), 3)


def read_stimulus(path: Path, orientation: str = UPRIGHT) -> tf.Tensor:
    """Read a photograph of a dataset, uint8 (H, W, 3)."""
    return read_image(path, read_header(path, orientation=orientation))


def read_map(path: Path) -> np.ndarray:
    """Read a saliency map as stored, float32 (H, W), 0 to 255; 16-bit maps give fractions.

    Raises:
        Unreadable: it is damaged.
    """
    header = read_header(path, MAP_FORMATS, orientation=STORED)
    try:
        if header.format in BY_TENSORFLOW:
            return decode_map(tf.io.read_file(os.fsencode(path))).numpy()[..., 0]
        values = read_gray(path)
    except (tf.errors.OpError, OSError, SyntaxError, ValueError) as error:
        raise Unreadable(_damage(path, error)) from error
    return values.astype(np.float32) / np.float32(257 if values.dtype.itemsize == 2 else 1)


def decodes_alone(path: Path, orientation: str = UPRIGHT, formats: tuple[str, ...] = IMAGE_FORMATS) -> bool:
    """Whether `decode_image` or `decode_map` suffices for a file, according to its header."""
    try:
        header = read_header(path, formats, orientation=orientation)
    except Unreadable:
        return True  # TensorFlow reports the error.
    return header.format in BY_TENSORFLOW and header.orientation == 1 and not header.transparent


# Internal names that TensorFlow adds to its errors.
NODE_OF_TENSORFLOW = r"\{\{function_node .*?\}\} | \[Op:.*"


def _damage(path: Path, error: Exception) -> str:
    reason = why_unreadable(path, error)
    if not reason.startswith("not a readable image"):
        return reason
    lines = str(getattr(error, "message", error)).splitlines()
    # The first lines are the location in TensorFlow's graph.
    said = [line for line in lines if line.strip() and not line.startswith(("Graph exec", "Detected at", "\t", " "))]
    first_line = (said or [type(error).__name__])[0]
    return f"{reason} ({re.sub(NODE_OF_TENSORFLOW, '', first_line)[:120]})"


def find_damaged(samples: Sequence[Sample]) -> list[str]:
    """Decode every stimulus and saliency map; a sentence for each that fails."""
    complaints = []
    for file, read in [pair for s in samples for pair in ((s.stimulus, read_stimulus), (s.saliency, read_map))]:
        try:
            read(file)
        except Unreadable as error:
            complaints.append(f"{file}: {error}")
    return complaints


# --- Maps as files, with the encoders of the published program; see `map_files` ---------------------------------------


def encode_map(saliency: np.ndarray, suffix: str) -> bytes:
    """Like `map_files.encode_map`, with other bytes for the same pixels."""
    if suffix == ".npy":
        return encode_array(saliency)
    image = np.round(saliency).astype(np.uint8)[..., None]
    if suffix == ".png":
        return tf.io.encode_png(image).numpy()
    check_jpeg(image)
    return tf.io.encode_jpeg(image, format="grayscale", quality=100).numpy()


def encode_overlay(photograph: np.ndarray, saliency: np.ndarray) -> bytes:
    """Like `map_files.encode_overlay`."""
    check_jpeg(photograph)
    return tf.io.encode_jpeg(blend(photograph, saliency), quality=95).numpy()
