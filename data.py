"""Datasets: which files belong together, which train and which validate, and how they become tensors.

A dataset is a folder with `stimuli/`, `saliency/` and, where known, `fixations/` or `fixations.csv`. The files of one
image have the same path below each of them, up to the suffix.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils import UserError, name_some

# What TensorFlow decodes: to three channels all of these, to one channel only those of maps.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
MAP_SUFFIXES = (".jpg", ".jpeg", ".png")
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
MAP_FORMATS = ("JPEG", "PNG")

# What fills the rest of the network's input around an image, and around its saliency map.
IMAGE_PADDING, MAP_PADDING = 126, 0


@dataclass(frozen=True)
class DatasetSpec:
    """What the published program knows of a dataset.

    Attributes:
        train, valid: numbers of images that train and that validate.
        split: "given" (the archive has folders `train` and `val`), "shuffled", or "per category" (the same shuffled
            positions in each of the folders that the stimuli are in).
        categories: number of those folders.
    """

    train: int
    valid: int
    split: str = "shuffled"
    categories: int = 1


DATASETS = {
    "salicon": DatasetSpec(10_000, 5_000, "given"),
    "mit1003": DatasetSpec(803, 200),
    "cat2000": DatasetSpec(1_600, 400, "per category", categories=20),
    "dutomron": DatasetSpec(4_168, 1_000),
    "pascals": DatasetSpec(650, 200),
    "osie": DatasetSpec(500, 200),
    "fiwi": DatasetSpec(99, 50),
}

# The split must be the published one whatever seed a run uses.
SPLIT_SEED = 42


@dataclass(frozen=True)
class Sample:
    """The files of one image; `name` is their common path below the dataset's folders, without suffix."""

    name: str
    stimulus: Path
    saliency: Path
    fixations: Path | None = None


# --- Which files ------------------------------------------------------------------------------------------------------


def find_dataset(name: str, path: Path) -> Path:
    """The folder of a dataset: `path` itself, or the folder called `name` in it, which is downloaded when missing.

    Raises:
        UserError: neither holds a folder `stimuli`, and the dataset is not a published one or cannot be downloaded.
    """
    for folder in (path / name, path):
        if (folder / "stimuli").is_dir():
            return folder
    if name in DATASETS:
        import download

        return download.dataset(name, path)
    if not path.exists():
        raise UserError(f"No such folder: {path}. Name the dataset's folder, or the one it is in, with -p.")
    raise UserError(
        f"No {name} dataset in {path}: expected the photographs in {path / 'stimuli'} or {path / name / 'stimuli'}, "
        f"and beside them 'saliency', 'fixations' or fixations.csv."
    )


def list_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Every image file below a folder, in the order of their paths; hidden files and folders are passed over."""
    return sorted(
        (
            file
            for file in folder.rglob("*")
            if file.suffix.lower() in suffixes and _is_visible(file, folder) and not file.is_dir()
        ),
        key=lambda file: file.relative_to(folder).as_posix(),
    )


def pair_files(folder: Path) -> list[Sample]:
    """Pair stimuli with saliency maps, and with fixation maps where that folder exists, by name.

    Returns:
        One `Sample` a stimulus, in the order of `files_by_name`.

    Raises:
        UserError: it lists every stimulus without a map and every map without a stimulus.
    """
    stimuli = files_by_name(folder / "stimuli", IMAGE_SUFFIXES)
    saliency = files_by_name(folder / "saliency", MAP_SUFFIXES)
    fixations = files_by_name(folder / "fixations", MAP_SUFFIXES) if (folder / "fixations").is_dir() else None
    if not stimuli:
        raise UserError(f"No image in {folder / 'stimuli'}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    complaints = []
    for kind, files in (("saliency", saliency), ("fixations", fixations)):
        if files is not None:
            complaints += [f"{kind}/{name} is missing" for name in stimuli if name not in files]
            complaints += [f"{kind}/{name} has no stimulus" for name in files if name not in stimuli]
    if complaints:
        raise UserError(f"The files in {folder} do not pair up by name: {'; '.join(complaints)}.")
    return [Sample(name, stimuli[name], saliency[name], fixations[name] if fixations else None) for name in stimuli]


def split(samples: Sequence[Sample], spec: DatasetSpec) -> tuple[list[Sample], list[Sample]]:
    """The published split of a dataset.

    Args:
        samples: all of it, in the order of `files_by_name`.
        spec: its row of `DATASETS`.

    Returns:
        The samples that train and those that validate.

    Raises:
        UserError: their number is not the one that the split is made for.
    """
    if spec.split == "given":
        parts = [[s for s in samples if s.name.startswith(part)] for part in ("train/", "val/")]
        _check_count("images in the folder train", len(parts[0]), spec.train)
        _check_count("images in the folder val", len(parts[1]), spec.valid)
        return parts[0], parts[1]
    _check_count("images", len(samples), spec.train + spec.valid)
    groups = [list(samples)]
    if spec.split == "per category":
        folders = sorted({s.name.rpartition("/")[0] for s in samples})
        _check_count("category folders", len(folders), spec.categories)
        groups = [[s for s in samples if s.name.rpartition("/")[0] == folder] for folder in folders]
    train, valid = split_indices(spec)
    for group in groups:
        _check_count("images in each category", len(group), len(train) + len(valid))
    return [group[i] for group in groups for i in train], [group[i] for group in groups for i in valid]


def split_indices(spec: DatasetSpec) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the name-sorted list (of each category) that train and that validate, as published."""
    train, valid = spec.train // spec.categories, spec.valid // spec.categories
    order = np.arange(train + valid)
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    return order[:train], order[train:]


def files_by_name(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Every image file below a folder by its name, the path there without suffix.

    They are in the order of their paths with the suffix, as the published splits count them: "a-1.jpg" before "a.jpg".

    Raises:
        UserError: two files share a name.
    """
    files: dict[str, Path] = {}
    for file in list_images(folder, suffixes):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise UserError(f"Two files for one image: {files[name]} and {file}. Keep one of them.")
        files[name] = file
    return files


def image_size(file: Path, formats: Sequence[str] = IMAGE_FORMATS) -> tuple[int, int]:
    """Height and width of an image as stored, from the file's header alone.

    Raises:
        UserError: the file cannot be read as one of `formats`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Nothing is decompressed here.
            with Image.open(file, formats=formats) as image:
                return image.height, image.width
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: {_unreadable(file, error)}. Expected {' or '.join(formats)}.") from error


def check_files(samples: Sequence[Sample]) -> None:
    """Check that stimuli and saliency maps are images of equal size. It reads headers only, so it is quick.

    Raises:
        UserError: it names the files with a fault, or the first few of many.
    """
    complaints = []
    for sample in samples:
        try:
            size, found = image_size(sample.stimulus), image_size(sample.saliency, MAP_FORMATS)
        except UserError as error:
            complaints.append(str(error).rstrip("."))
        else:
            if found != size:
                complaints.append(
                    f"{sample.saliency} is {found[1]}×{found[0]} pixels, its stimulus {size[1]}×{size[0]}"
                )
    if complaints:
        raise UserError(f"{name_some(complaints, '; ')}.")


def _unreadable(file: Path, error: Exception) -> str:
    if not file.exists():
        return "no such file"
    if file.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return "too large an image"
    return "not an image that can be read, or damaged"


def _is_visible(file: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _check_count(what: str, received: int, expected: int) -> None:
    if received != expected:
        raise UserError(
            f"Found {received} {what}, expected {expected}: the published split needs the complete dataset. "
            f"Complete the folder, or train on what is there as your own dataset with -d custom."
        )


def load_groups(
    name: str, path: Path, size: tuple[int, int], *, valid_fraction: float = 0.2
) -> tuple["Group", "Group"]:
    """What trains and what validates of one dataset.

    Args:
        name: a key of `DATASETS`, or "custom" for one's own photographs.
        path: see `find_dataset`.
        size: height and width of the network's input.
        valid_fraction: of one's own photographs; see `split_custom`.
    """
    samples = pair_files(find_dataset(name, path))
    if name == "custom":
        check_files(samples)
    parts = split_custom(samples, valid_fraction) if name == "custom" else split(samples, DATASETS[name])
    return Group(parts[0], tuple(size)), Group(parts[1], tuple(size))


def split_custom(samples: Sequence[Sample], valid_fraction: float) -> tuple[list[Sample], list[Sample]]:
    """The split of one's own photographs: by the folders `train` and `val` where there are both, else at random.

    At random, at least one image trains, and if `valid_fraction` is above 0, one of several validates. The seed is that
    of the published splits, so that no evaluation scores images that trained because a run had another seed.

    Raises:
        UserError: there are images outside of the folders `train` and `val`.
    """
    given = [[s for s in samples if s.name.startswith(part)] for part in ("train/", "val/")]
    if all(given):
        if outside := [s.name for s in samples if not s.name.startswith(("train/", "val/"))]:
            raise UserError(
                f"Of the images in 'stimuli', some are neither in its folder 'train' nor in 'val': "
                f"{name_some(outside)}. Move them into one of the two, or out of the dataset."
            )
        return given[0], given[1]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(samples))
    count = min(max(round(valid_fraction * len(samples)), valid_fraction > 0), len(samples) - 1)
    valid = {int(i) for i in order[:count]}
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for i, sample in enumerate(samples):
        parts[i in valid].append(sample)
    return parts


# --- Geometry: an image into the network's input, and a map back out --------------------------------------------------
#
# Both ways resize with the kernels of TensorFlow 1 (area, bicubic; corners aligned), which `tf.image.resize` of
# TensorFlow 2 no longer has. Pinned by test_data.py::test_resize_and_pad_equals_the_published_preprocessing.


def resize_and_pad(image, size: tuple[int, int], padding: int):
    """Fit an image into the network's input: resize it at its own aspect ratio, then pad it around.

    Args:
        image: (H, W, C), any number type, 0 to 255.
        size: height and width of the network's input; integers or scalar tensors.
        padding: value of the border.

    Returns:
        float32, (size[0], size[1], C), 0 to 255. An odd row or column of border goes below or to the right.
    """
    import tensorflow as tf

    size = tf.convert_to_tensor(size, tf.int32)
    shape = tf.shape(image)[:2]
    ratio = tf.reduce_min(size / shape)
    # The published program fails where a very long and narrow image would shrink to no pixel at all.
    resized = _resize(image, tf.maximum(tf.cast(tf.round(tf.cast(shape, ratio.dtype) * ratio), tf.int32), 1))
    border = size - tf.shape(resized)[:2]
    before, after = border // 2, border - border // 2
    return tf.pad(resized, [(before[0], after[0]), (before[1], after[1]), (0, 0)], constant_values=padding)


def crop_and_restore(saliency, size: tuple[int, int]):
    """The inverse of `resize_and_pad`: the network's output at the size of the image that went in.

    Args:
        saliency: (h, w, 1) float32, 0 to 1, the border included.
        size: height and width of the image; integers or scalar tensors.

    Returns:
        float32, (size[0], size[1], 1), 0 to 255, not rounded.
    """
    import tensorflow as tf

    size = tf.convert_to_tensor(size, tf.int32)
    shape = tf.shape(saliency)[:2]
    ratio = tf.reduce_max(size / shape)
    resized = _resize(saliency * 255, tf.cast(tf.round(tf.cast(shape, ratio.dtype) * ratio), tf.int32))
    start = (tf.shape(resized)[:2] - size) // 2
    return resized[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]


def _resize(image, size):
    """Area interpolation when either side shrinks, else bicubic; (H, W, C) -> float32 (size[0], size[1], C)."""
    import tensorflow as tf

    def area():
        return tf.raw_ops.ResizeArea(images=images, size=size, align_corners=True)

    def bicubic():
        return tf.raw_ops.ResizeBicubic(images=images, size=size, align_corners=True, half_pixel_centers=False)

    images = tf.cast(image, tf.float32)[None]
    resized = tf.cond(tf.reduce_any(size < tf.shape(image)[:2]), area, bicubic)[0]
    return tf.clip_by_value(resized, 0.0, 255.0)


# --- Batches for training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Samples that share the size of the network's input, as (height, width)."""

    samples: Sequence[Sample]
    size: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """One training step: its samples, the size that the network sees them in, and the seed of their augmentation."""

    samples: Sequence[Sample]
    size: tuple[int, int]
    seed: int = 0


def training_plan(
    groups: Sequence[Group], batch_size: int, seed: int, epoch: int, scales: Sequence[float] = (1.0,)
) -> list[Batch]:
    """The batches of one epoch, in order; a pure function of its arguments, so that any epoch can be repeated.

    Args:
        groups: every sample of each is used once; a batch has samples of one group only.
        batch_size: the last batch of a group may be smaller.
        seed, epoch: together they decide the order, the scales and the augmentation.
        scales: factors on the network's input size, of which each batch draws one.
    """
    random = np.random.default_rng([seed, epoch])
    batches = []
    for group in groups:
        order = random.permutation(len(group.samples))
        for start in range(0, len(order), batch_size):
            samples = [group.samples[i] for i in order[start : start + batch_size]]
            size = scaled_size(group.size, random.choice(scales))
            batches.append(Batch(samples, size, int(random.integers(2**31))))
    return [batches[i] for i in random.permutation(len(batches))]


def validation_plan(groups: Sequence[Group], batch_size: int) -> list[Batch]:
    """Every sample of every group once, in order, at its full size."""
    return [
        Batch(group.samples[start : start + batch_size], group.size)
        for group in groups
        for start in range(0, len(group.samples), batch_size)
    ]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """A network input size times a factor, each side rounded to a multiple of 8."""
    height, width = (max(8, round(side * scale / 8) * 8) for side in size)
    return height, width


def load_batches(plan: Sequence[Batch], augmentation: dict | None = None):
    """Read, decode, augment, resize and pad the batches of a plan, in parallel and ahead of their use.

    Args:
        plan: batches in order, of one epoch or of many.
        augmentation: options of `augment`, or None for images as they are.

    Returns:
        A `tf.data.Dataset` of pairs: images (B, H, W, 3) and saliency maps (B, H, W, 1), float32, 0 to 255.
    """
    import tensorflow as tf

    def rows():
        for batch in plan:
            # As bytes, because a file's name need not be valid text.
            stimuli = [os.fsencode(sample.stimulus) for sample in batch.samples]
            yield stimuli, [os.fsencode(sample.saliency) for sample in batch.samples], batch.size, batch.seed

    def load(stimuli, saliency, size, seed):
        def load_one(row):
            stimulus, saliency, index = row
            image = decode_image(tf.io.read_file(stimulus), 3)
            truth = decode_image(tf.io.read_file(saliency), 1)
            if augmentation:
                image, truth = augment(image, truth, tf.stack([seed, index]), **augmentation)
            return resize_and_pad(image, size, IMAGE_PADDING), resize_and_pad(truth, size, MAP_PADDING)

        images, truths = tf.map_fn(
            load_one, (stimuli, saliency, tf.range(tf.size(stimuli))), fn_output_signature=(tf.float32, tf.float32)
        )
        return tf.ensure_shape(images, (None, None, None, 3)), tf.ensure_shape(truths, (None, None, None, 1))

    signature = (
        tf.TensorSpec((None,), tf.string),
        tf.TensorSpec((None,), tf.string),
        tf.TensorSpec((2,), tf.int32),
        tf.TensorSpec((), tf.int32),
    )
    dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(plan)))
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


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
    import tensorflow as tf

    image = tf.io.decode_image(contents, channels, expand_animations=False)
    return tf.ensure_shape(image, (None, None, channels))


def find_damaged(samples: Sequence[Sample]) -> list[str]:
    """Decode every stimulus and saliency map to find those that cannot be; a sentence for each."""
    import tensorflow as tf

    complaints = []
    for file, channels in [pair for s in samples for pair in ((s.stimulus, 3), (s.saliency, 1))]:
        try:
            decode_image(tf.io.read_file(os.fsencode(file)), channels)
        except (tf.errors.OpError, ValueError) as error:
            complaints.append(f"{file}: {_unreadable(file, error)}")
    return complaints


def augment(image, truth, seed, *, mirror: bool = False, color: float = 0.0, crop: float = 0.0):
    """Vary an image at random; what moves pixels moves those of its saliency map alike.

    Args:
        image: (H, W, 3) uint8.
        truth: its saliency map, (H, W, 1) uint8.
        seed: (2,) integers that decide everything.
        mirror: swap left and right in half of the cases.
        color: greatest relative change of brightness, contrast and saturation.
        crop: greatest share of each side that is cut away.

    Returns:
        The image as float32, 0 to 255, and the map, both of one new size.
    """
    import tensorflow as tf

    # One independent stream for each decision.
    seeds = tf.unstack(tf.random.split(tf.cast(seed, tf.int32), 6), num=6)
    image = tf.cast(image, tf.float32)
    if crop:
        shape = tf.shape(image)[:2]
        side = tf.random.stateless_uniform((), seeds[0], 1.0 - crop, 1.0)
        size = tf.maximum(tf.cast(tf.cast(shape, tf.float32) * side, tf.int32), 1)
        position = tf.random.stateless_uniform((2,), seeds[1])
        top, left = tf.unstack(tf.cast(position * tf.cast(shape - size + 1, tf.float32), tf.int32))
        image = image[top : top + size[0], left : left + size[1]]
        truth = truth[top : top + size[0], left : left + size[1]]
    if mirror and tf.random.stateless_uniform((), seeds[2]) < 0.5:
        image, truth = image[:, ::-1], truth[:, ::-1]
    if color:
        brightness, contrast, saturation = (
            tf.random.stateless_uniform((), s, 1.0 - color, 1.0 + color) for s in seeds[3:]
        )
        image = tf.image.adjust_contrast(image * brightness, contrast)
        gray = tf.image.rgb_to_grayscale(image)
        image = tf.clip_by_value(gray + (image - gray) * saturation, 0.0, 255.0)
    return image, truth
