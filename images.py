"""Pixels: image files into tensors, tensors into the network's input and back out, and batches for training."""

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils import UserError, check_space  # Before TensorFlow, for its settings.

# isort: split
import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image

import geometry
from config import MAX_PIXELS
from data import Batch, Group, Header, Sample, Unreadable, read_header, why_unreadable

# What fills the rest of the network's input around an image, and around its saliency map.
IMAGE_PADDING, MAP_PADDING = 126, 0

# Of maps laid over photographs: perceptually uniform, and dark where nobody looks.
OVERLAY_COLORS = "inferno"


# --- Geometry: an image into the network's input, and a map back out --------------------------------------------------
#
# Both ways resize with the kernels of TensorFlow 1 (area, bicubic; corners aligned), which `tf.image.resize` of
# TensorFlow 2 no longer has. Pinned by test_images.py::test_resize_and_pad_equals_the_published_preprocessing.


def resize_and_pad(image, size: tuple[int, int], padding: int):
    """Fit an image into the network's input: resize it at its own aspect ratio, then pad it around.

    Args:
        image: (H, W, C), any number type, 0 to 255.
        size: height and width of the network's input; integers or scalar tensors.
        padding: value of the border.

    Returns:
        float32, (size[0], size[1], C), 0 to 255. An odd row or column of border goes below or to the right.
    """
    return pad(resize_to_fit(image, size), size, padding)


def resize_to_fit(image, size: tuple[int, int]):
    """The first half of `resize_and_pad`: float32, as large as fits into `size` at the image's own aspect ratio."""
    shape = tf.shape(image)[:2]
    ratio = tf.reduce_min(tf.convert_to_tensor(size, tf.int32) / shape)
    # The published program fails where a very long and narrow image would shrink to no pixel at all.
    return _resize(image, tf.maximum(tf.cast(tf.round(tf.cast(shape, ratio.dtype) * ratio), tf.int32), 1))


def pad(image, size: tuple[int, int], padding: int):
    """The second half of `resize_and_pad`: a border around an image that is no larger than `size`."""
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


# A map is brought back as a whole and then cropped, unless what is cropped away is so many times what is kept.
WASTE = 4


def restore_map(saliency: tf.Tensor, size: tuple[int, int]) -> np.ndarray:
    """`crop_and_restore` for one map at a time, in memory that depends on the image alone.

    A picture of 1×40000 pixels keeps a sliver of a map that would be 30000 rows high. Such a one is computed by
    `geometry.restore`, which makes only the rows and columns that are kept and differs by rounding.

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

    images = image[None]  # Of bytes: the kernels convert them on their way, which spares a copy of four times the size.
    resized = tf.cond(tf.reduce_any(size < tf.shape(image)[:2]), area, bicubic)[0]
    return tf.clip_by_value(resized, 0.0, 255.0)


# --- Batches for training ---------------------------------------------------------------------------------------------


def load_batches(plan: Sequence[Batch], augmentation: dict | None = None):
    """Read, decode, augment, resize and pad the batches of a plan, in parallel and ahead of their use.

    Args:
        plan: batches in order, of one epoch or of many.
        augmentation: options of `augment`, or None for images as they are.

    Returns:
        A `tf.data.Dataset` of pairs: images (B, H, W, 3) and saliency maps (B, H, W, 1), float32, 0 to 255.
    """

    def rows():
        for batch in plan:
            # As bytes, because a file's name need not be valid text.
            stimuli = [os.fsencode(sample.stimulus) for sample in batch.samples]
            yield (
                stimuli,
                [os.fsencode(sample.saliency) for sample in batch.samples],
                batch.size,
                batch.seed,
                batch.first,
            )

    def load(stimuli, saliency, size, seed, first):
        def load_one(row):
            stimulus, saliency, index = row
            image = decode_image(tf.io.read_file(stimulus), 3)
            truth = decode_image(tf.io.read_file(saliency), 1)
            image, truth = augment(image, truth, tf.stack([seed, index]), size=size, **(augmentation or {}))
            return pad(image, size, IMAGE_PADDING), pad(truth, size, MAP_PADDING)

        images, truths = tf.map_fn(
            load_one,
            (stimuli, saliency, first + tf.range(tf.size(stimuli))),
            fn_output_signature=(tf.float32, tf.float32),
        )
        return tf.ensure_shape(images, (None, None, None, 3)), tf.ensure_shape(truths, (None, None, None, 1))

    signature = (
        tf.TensorSpec((None,), tf.string),
        tf.TensorSpec((None,), tf.string),
        tf.TensorSpec((2,), tf.int32),
        tf.TensorSpec((), tf.int32),
        tf.TensorSpec((), tf.int32),
    )
    dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(plan)))
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def load_cached(plan: Sequence[Batch], files: Mapping[tuple[Sample, tuple[int, int]], Path]):
    """Like `load_batches` without augmentation, from files that `write_cache` made."""

    def rows():
        for batch in plan:
            yield [os.fsencode(files[sample, batch.size]) for sample in batch.samples], batch.size

    def load(paths, size):
        pairs = tf.map_fn(
            lambda path: tf.reshape(tf.io.decode_raw(tf.io.read_file(path), tf.float32), (size[0], size[1], 4)),
            paths,
            fn_output_signature=tf.TensorSpec((None, None, 4), tf.float32),
        )
        return pairs[..., :3], pairs[..., 3:]

    signature = tf.TensorSpec((None,), tf.string), tf.TensorSpec((2,), tf.int32)
    dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(plan)))
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def write_cache(groups: Sequence[Group], folder: Path) -> dict[tuple[Sample, tuple[int, int]], Path]:
    """Decode, resize and pad every sample once, and keep the numbers, 16 bytes for each pixel of the network's input.

    Args:
        groups: samples, and the size of the network's input for each.
        folder: for one file of each; the system keeps in memory what it has room for.

    Returns:
        The file of each sample at its size, for `load_cached`.

    Raises:
        UserError: they would not fit on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_space(folder, sum(16 * len(group.samples) * group.size[0] * group.size[1] for group in groups))
    plan = [Batch([sample], group.size) for group in groups for sample in group.samples]
    files = {}
    for i, (batch, (image, truth)) in enumerate(zip(plan, load_batches(plan), strict=True)):
        file = folder / f"{i}.raw"
        np.concatenate([image[0], truth[0]], axis=-1).tofile(file)
        files[batch.samples[0], batch.size] = file
    return files


def decode_image(contents, channels: int):
    """Decode an image file's contents.

    Pixels stay as stored: an EXIF orientation is not applied, as in the benchmarks. Transparency is dropped, 16-bit
    values keep their upper 8 bits, palettes are looked up, and of an animation the first frame counts.

    Args:
        contents: scalar string tensor, a JPEG, PNG, BMP, GIF or WebP file.
        channels: 3 for RGB or 1 for grayscale.

    Returns:
        uint8, (H, W, channels).
    """
    image = tf.io.decode_image(contents, channels, expand_animations=False)
    return tf.ensure_shape(image, (None, None, channels))


def read_image(path: Path, header: Header) -> tf.Tensor:
    """Read and decode an image file.

    Args:
        path: the file.
        header: see `data.read_header`, which has to come first.

    Returns:
        uint8, (H, W, 3).

    Raises:
        Unreadable: it is damaged.
    """
    try:
        if header.format == "WEBP" and header.animated:  # TensorFlow reads no animated ones.
            with Image.open(path) as image:
                return tf.constant(np.asarray(image.convert("RGB")))
        return _decode_file(os.fsencode(path))
    except (tf.errors.OpError, OSError, SyntaxError, ValueError) as error:
        raise Unreadable(_damage(path, error)) from error


@tf.function(input_signature=[tf.TensorSpec((), tf.string)])
def _decode_file(path):
    return decode_image(tf.io.read_file(path), 3)


# What TensorFlow adds to its errors, and nobody can use.
NODE_OF_TENSORFLOW = r"\{\{function_node .*?\}\} | \[Op:.*"


def _damage(path: Path, error: Exception) -> str:
    reason = why_unreadable(path, error)
    if not reason.startswith("not an image"):
        return reason
    lines = str(getattr(error, "message", error)).splitlines()
    # TensorFlow begins with where in its graph it happened.
    said = [line for line in lines if line.strip() and not line.startswith(("Graph exec", "Detected at", "\t", " "))]
    first_line = (said or [type(error).__name__])[0]
    return f"{reason} ({re.sub(NODE_OF_TENSORFLOW, '', first_line)[:120]})"


def find_damaged(samples: Sequence[Sample]) -> list[str]:
    """Decode every stimulus and saliency map to find those that cannot be; a sentence for each."""
    complaints = []
    for file, channels in [pair for s in samples for pair in ((s.stimulus, 3), (s.saliency, 1))]:
        try:
            decode_image(tf.io.read_file(os.fsencode(file)), channels)
        except (tf.errors.OpError, ValueError) as error:
            complaints.append(f"{file}: {why_unreadable(file, error)}")
    return complaints


def augment(image, truth, seed, *, size=None, mirror: bool = False, color: float = 0.0, crop: float = 0.0):
    """Vary an image at random; what moves pixels moves those of its saliency map alike.

    Args:
        image: (H, W, 3) uint8.
        truth: its saliency map, (H, W, 1) uint8.
        seed: (2,) integers that decide everything.
        size: height and width that image and map are then resized to fit into; integers, a tensor, or None to leave
            them as large as they are.
        mirror: swap left and right in half of the cases.
        color: greatest relative change of brightness, contrast and saturation.
        crop: greatest share of each side that is cut away.

    Returns:
        The image as float32, 0 to 255, and the map, both of one new size.
    """
    # One independent stream for each decision.
    seeds = tf.unstack(tf.random.split(tf.cast(seed, tf.int32), 6), num=6)
    if crop:
        image, truth = _crop(image, truth, seeds[:2], crop)
    if mirror and tf.random.stateless_uniform((), seeds[2]) < 0.5:
        image, truth = image[:, ::-1], truth[:, ::-1]
    if size is not None:  # Before the colours, which take less time for fewer pixels.
        image, truth = resize_to_fit(image, size), resize_to_fit(truth, size)
    image = tf.cast(image, tf.float32)
    return _recolor(image, seeds[3:], color) if color else image, truth


def _crop(image, truth, seeds, most: float):
    shape = tf.shape(image)[:2]
    side = tf.random.stateless_uniform((), seeds[0], 1.0 - most, 1.0)
    size = tf.maximum(tf.cast(tf.cast(shape, tf.float32) * side, tf.int32), 1)
    position = tf.random.stateless_uniform((2,), seeds[1])
    top, left = tf.unstack(tf.cast(position * tf.cast(shape - size + 1, tf.float32), tf.int32))
    return tuple(x[top : top + size[0], left : left + size[1]] for x in (image, truth))


def _recolor(image, seeds, most: float):
    brightness, contrast, saturation = (tf.random.stateless_uniform((), s, 1.0 - most, 1.0 + most) for s in seeds)
    image = tf.image.adjust_contrast(image * brightness, contrast)
    gray = tf.image.rgb_to_grayscale(image)
    return tf.clip_by_value(gray + (image - gray) * saturation, 0.0, 255.0)


# --- Maps as files ----------------------------------------------------------------------------------------------------

# What the JPEG library writes.
MOST_JPEG_SIDE = 65_500


class Unwritable(UserError):
    """A map that its format cannot hold; the message says why in a few words, without the file's name."""


def encode_map(saliency: np.ndarray, suffix: str) -> bytes:
    """A saliency map as the contents of a file.

    Args:
        saliency: float32, (H, W), 0 to 255.
        suffix: ".jpeg" (grayscale, quality 100, as published), ".png" (8 bits) or ".npy" (float32, 0 to 1).

    Raises:
        Unwritable: a JPEG cannot be so high or wide.
    """
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, saliency / np.float32(255))
        return buffer.getvalue()
    image = np.round(saliency).astype(np.uint8)[..., None]
    if suffix == ".png":
        return tf.io.encode_png(image).numpy()
    _check_jpeg(image)
    return tf.io.encode_jpeg(image, format="grayscale", quality=100).numpy()


def encode_overlay(path: Path, saliency: np.ndarray, max_pixels: int = MAX_PIXELS) -> bytes:
    """A photograph with its map laid over it, as the contents of a JPEG file; see `blend`."""
    photograph = read_image(path, read_header(path, most_pixels=max_pixels)).numpy()
    _check_jpeg(photograph)
    return tf.io.encode_jpeg(blend(photograph, saliency), quality=95).numpy()


def _check_jpeg(image: np.ndarray) -> None:
    height, width = image.shape[:2]
    if max(height, width) > MOST_JPEG_SIDE:
        raise Unwritable(
            f"its map cannot be written: a JPEG has at most {MOST_JPEG_SIDE} pixels a side, this has {width}×{height}; "
            f"--format png has no such bound, nor has npy, and overlays are always JPEG"
        )


def blend(photograph: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """The photograph with its map in colour laid over it by half.

    Args:
        photograph: uint8, (H, W, 3).
        saliency: float32, (H, W), 0 to 255.

    Returns:
        uint8, (H, W, 3).
    """
    colors = matplotlib.colormaps[OVERLAY_COLORS](np.round(saliency).astype(np.uint8), bytes=True)[..., :3]
    return ((photograph.astype(np.uint16) + colors) // 2).astype(np.uint8)
