"""The batches of a training run: which images are in each, how they are loaded, augmented and sent to the devices."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from ...data import Group, Sample
from ...geometry import fitted_size
from ...image_files import MAP_FORMATS, STORED, image_size
from ...images import (
    IMAGE_PADDING,
    MAP_PADDING,
    decode_image,
    decode_map,
    decodes_alone,
    pad,
    read_map,
    read_stimulus,
    resize_to_fit,
)

# --- Plans: which images are in each batch ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One training step, or a device's share of it.

    Attributes:
        samples: its images.
        size: height and width of the network's input.
        seed: of the augmentation, together with a sample's position in the whole step.
        first: position of the first sample in the whole step.
    """

    samples: Sequence[Sample]
    size: tuple[int, int]
    seed: int = 0
    first: int = 0


def group_by_shape(groups: tuple[Group, Group], pixels: int) -> list[tuple[Group, Group]]:
    """Split both parts of a dataset by the input size, of about so many pixels, that fits each image's shape.

    The groups' own sizes are ignored; see `geometry.fitted_size`.
    """
    by_size: dict[tuple[int, int], tuple[list[Sample], list[Sample]]] = {}
    for part, group in enumerate(groups):
        for sample in group.samples:
            size = fitted_size(image_size(sample.stimulus, orientation=sample.orientation), pixels)
            by_size.setdefault(size, ([], []))[part].append(sample)
    return [(Group(train, size), Group(valid, size)) for size, (train, valid) in sorted(by_size.items())]


def training_plan(
    groups: Sequence[Group], batch_size: int, seed: int, epoch: int, scales: Sequence[float] = (1.0,)
) -> list[Batch]:
    """The batches of one epoch, in order; a pure function of its arguments, so any epoch can be repeated.

    Args:
        groups: every sample of each is used once; each batch has samples of one group only.
        batch_size: the last batch of a group may be smaller.
        seed, epoch: together they determine the order, the scales and the augmentation.
        scales: factors on the network's input size, rounded to multiples of 8; each batch draws one.
    """
    random = np.random.default_rng([seed, epoch])
    batches = []
    for group in groups:
        order = random.permutation(len(group.samples))
        for start in range(0, len(order), batch_size):
            samples = [group.samples[i] for i in order[start : start + batch_size]]
            scale = random.choice(scales)
            height, width = (max(8, round(side * scale / 8) * 8) for side in group.size)
            batches.append(Batch(samples, (height, width), int(random.integers(2**31))))
    return [batches[i] for i in random.permutation(len(batches))]


def validation_plan(groups: Sequence[Group], batch_size: int) -> list[Batch]:
    """Every sample of every group once, in order, at its full size."""
    return [
        Batch(group.samples[start : start + batch_size], group.size)
        for group in groups
        for start in range(0, len(group.samples), batch_size)
    ]


def share_out(plan: Sequence[Batch], devices: int) -> list[Batch]:
    """Split each batch of a plan into one share per device, in turn.

    The shares of a batch differ by at most one sample. If a batch has fewer samples than there are devices, some
    samples are in several shares, because no share may be empty.
    """
    shares = []
    for batch in plan:
        size, surplus = divmod(len(batch.samples), devices)
        for device in range(devices):
            first = device * size + min(device, surplus)
            samples = batch.samples[first : first + size + (device < surplus)]
            if not samples:
                first = device % len(batch.samples)
                samples = batch.samples[first : first + 1]
            shares.append(replace(batch, samples=samples, first=first))
    return shares


# --- Loading ----------------------------------------------------------------------------------------------------------

TENSORFLOW = "tensorflow"


def load_batches(plan: Sequence[Batch], augmentation: dict | None = None) -> tf.data.Dataset:
    """Read, decode, augment, resize and pad the batches of a plan, in parallel and prefetched.

    `augmentation` has options of `augment`; None leaves images unchanged.

    Returns:
        Pairs: images (B, H, W, 3) and saliency maps (B, H, W, 1), float32, 0 to 255.
    """

    def rows():
        for batch in plan:
            # As bytes, because a file name need not be valid text.
            stimuli = [os.fsencode(sample.stimulus) for sample in batch.samples]
            saliency = [os.fsencode(sample.saliency) for sample in batch.samples]
            yield stimuli, saliency, [readers(sample) for sample in batch.samples], batch.size, batch.seed, batch.first

    @functools.cache
    def readers(sample: Sample) -> tuple[str, str]:
        """How to read its two files: by TensorFlow alone, which is fast, or by a function in Python."""
        stimulus = TENSORFLOW if decodes_alone(sample.stimulus, sample.orientation) else sample.orientation
        return stimulus, TENSORFLOW if decodes_alone(sample.saliency, STORED, MAP_FORMATS) else STORED

    def load(stimuli, saliency, readers, size, seed, first):
        def load_one(row):
            stimulus, saliency, reader, index = row
            image = _read(stimulus, reader[0], lambda x: decode_image(x, 3), _stimulus_in_python, tf.uint8)
            truth = _read(saliency, reader[1], decode_map, _map_in_python, tf.float32)
            image, truth = augment(image, truth, tf.stack([seed, index]), size=size, **(augmentation or {}))
            return pad(image, size, IMAGE_PADDING), pad(truth, size, MAP_PADDING)

        images, truths = tf.map_fn(
            load_one,
            (stimuli, saliency, readers, first + tf.range(tf.size(stimuli))),
            fn_output_signature=(tf.float32, tf.float32),
        )
        return tf.ensure_shape(images, (None, None, None, 3)), tf.ensure_shape(truths, (None, None, None, 1))

    files, size, number = tf.TensorSpec((None,), tf.string), tf.TensorSpec((2,), tf.int32), tf.TensorSpec((), tf.int32)
    signature = (files, files, tf.TensorSpec((None, 2), tf.string), size, number, number)
    dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(plan)))
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _read(path, reader, decode: Callable, in_python: Callable, dtype):
    """An image of a file, by TensorFlow alone or by a function in Python; (H, W, 1 or 3)."""
    image = tf.cond(
        reader == TENSORFLOW,
        lambda: decode(tf.io.read_file(path)),
        lambda: tf.numpy_function(in_python, [path, reader], dtype, stateful=False),
    )
    return tf.ensure_shape(image, (None, None, 3 if dtype == tf.uint8 else 1))


def _stimulus_in_python(path: bytes, orientation: bytes) -> np.ndarray:
    return read_stimulus(Path(os.fsdecode(path)), orientation.decode()).numpy()


def _map_in_python(path: bytes, _: bytes) -> np.ndarray:
    return read_map(Path(os.fsdecode(path)))[..., None]


def feed(strategy: tf.distribute.Strategy, plan: Sequence[Batch], augmentation: dict | None = None):
    """The batches of a plan, each split across the devices of a strategy; see `load_batches`."""
    devices = strategy.num_replicas_in_sync
    if devices == 1:
        return load_batches(plan, augmentation)
    shares = share_out(plan, devices)
    # Endless, because Keras does not learn the length of a distributed dataset and stops by its number of steps.
    return strategy.distribute_datasets_from_function(lambda _: load_batches(shares, augmentation).repeat())


# --- Augmentation -----------------------------------------------------------------------------------------------------


def augment(image, truth, seed, *, size=None, mirror: bool = False, color: float = 0.0, crop: float = 0.0):
    """Vary an image at random; its saliency map is moved with it.

    Args:
        image: (H, W, 3) uint8.
        truth: its saliency map, (H, W, 1) uint8 or float32.
        seed: (2,) integers that determine everything.
        size: height and width that image and map are then resized to fit into; integers, a tensor, or None to keep
            their size.
        mirror: swap left and right in half of the cases.
        color: largest relative change of brightness, contrast and saturation.
        crop: largest share of each side that is cropped.

    Returns:
        The image as float32, 0 to 255, and the map, both of the same new size.
    """
    # One independent stream for each decision.
    seeds = tf.unstack(tf.random.split(tf.cast(seed, tf.int32), 6), num=6)
    if crop:
        image, truth = _crop(image, truth, seeds[:2], crop)
    if mirror and tf.random.stateless_uniform((), seeds[2]) < 0.5:
        image, truth = image[:, ::-1], truth[:, ::-1]
    if size is not None:  # Before the colors, which take less time for fewer pixels.
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
