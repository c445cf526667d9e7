"""Datasets: which files belong together, and which of them train and which validate.

A dataset is a folder with `stimuli/`, `saliency/` and, where known, `fixations/` or `fixations.csv`. The files of one
image have the same path below each of them, up to the suffix.
"""

import hashlib
import json
import os
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

import utils
from acquisition.datasets import CUSTOM, DATASETS, Dataset
from config import MAX_PIXELS
from utils import UserError, name_some

# What TensorFlow decodes: to three channels all of these, to one channel only those of maps.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
MAP_SUFFIXES = (".jpg", ".jpeg", ".png")
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
MAP_FORMATS = ("JPEG", "PNG")

# Of the end of a file that `files_hash` reads.
TAIL_BYTES = 4096

# The split must be the published one whatever seed a run uses.
SPLIT_SEED = 42


class Unreadable(Exception):
    """An image file that cannot be read; its message says why in a few words, without the file's name."""


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


def list_images(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Every image file below a folder, in the order of their paths; hidden files and folders are passed over.

    Raises:
        UserError: a folder below it cannot be read.
    """
    return utils.list_files(folder, tuple(suffixes))


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
    complaints = [f"stimuli/{name} is not a regular file" for name, file in stimuli.items() if not file.is_file()]
    for kind, files in (("saliency", saliency), ("fixations", fixations)):
        if files is not None:
            complaints += [f"{kind}/{name} is not a regular file" for name, file in files.items() if not file.is_file()]
            complaints += [f"{kind}/{name} is missing" for name in stimuli if name not in files]
            complaints += [f"{kind}/{name} has no stimulus" for name in files if name not in stimuli]
    if complaints:
        raise UserError(f"The files in {folder} do not pair up by name: {'; '.join(complaints)}.")
    return [Sample(name, stimuli[name], saliency[name], fixations[name] if fixations else None) for name in stimuli]


def split(samples: Sequence[Sample], row: Dataset) -> tuple[list[Sample], list[Sample]]:
    """The published split of a dataset.

    Args:
        samples: all of it, in the order of `files_by_name`.
        row: its row of `DATASETS`.

    Returns:
        The samples that train and those that validate.

    Raises:
        UserError: their number is not the one that the split is made for.
    """
    if row.split == "given":
        parts = [[s for s in samples if s.name.startswith(part)] for part in ("train/", "val/")]
        _check_count("images in the folder train", len(parts[0]), row.train)
        _check_count("images in the folder val", len(parts[1]), row.valid)
        return parts[0], parts[1]
    _check_count("images", len(samples), row.train + row.valid)
    groups = [list(samples)]
    if row.split == "per category":
        folders = sorted({s.name.rpartition("/")[0] for s in samples})
        _check_count("category folders", len(folders), row.categories)
        groups = [[s for s in samples if s.name.rpartition("/")[0] == folder] for folder in folders]
    train, valid = split_indices(row)
    for group in groups:
        _check_count("images in each category", len(group), len(train) + len(valid))
    return [group[i] for group in groups for i in train], [group[i] for group in groups for i in valid]


def split_indices(row: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the name-sorted list (of each category) that train and that validate, as published."""
    train, valid = row.train // row.categories, row.valid // row.categories
    order = np.arange(train + valid)
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    return order[:train], order[train:]


def files_by_name(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Every image file below a folder by its name, the path there without suffix.

    They are in the order of their paths with the suffix, as the published splits count them: "a-1.jpg" before "a.jpg".

    Raises:
        UserError: two files share a name.
    """
    return utils.files_by_name(folder, list_images(folder, suffixes))


@dataclass(frozen=True)
class Header:
    """What an image file says of itself: height and width as stored, its format, and whether it has several frames."""

    size: tuple[int, int]
    format: str
    animated: bool = False

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


def read_header(file: Path, formats: tuple[str, ...] = IMAGE_FORMATS, most_pixels: int = MAX_PIXELS) -> Header:
    """Read the header of an image file: the one place where image files enter, before anything is decompressed.

    Args:
        file: a regular file. A pipe, which may never end, or a device is refused.
        formats: of Pillow's names, those to accept.
        most_pixels: an image of more is refused, as a file of a few bytes may claim any number of them.

    Raises:
        Unreadable: it says in a few words why.
    """
    if file.exists() and not file.is_file():
        raise Unreadable("not a regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Nothing is decompressed here.
            with Image.open(file, formats=formats) as image:
                header = Header((image.height, image.width), image.format or "", getattr(image, "is_animated", False))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(why_unreadable(file, error)) from error
    if header.pixels > most_pixels:
        height, width = header.size
        raise Unreadable(f"{width}×{height} pixels, at most {most_pixels} are read: shrink it, or raise --max-pixels")
    return header


def image_size(file: Path, formats: tuple[str, ...] = IMAGE_FORMATS) -> tuple[int, int]:
    """Height and width of an image as stored, from the file's header alone.

    Raises:
        UserError: the file cannot be read as one of `formats`.
    """
    try:
        return read_header(file, formats).size
    except Unreadable as error:
        raise UserError(f"{file}: {error}. Expected {' or '.join(formats)}.") from error


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


def why_unreadable(file: Path, error: Exception) -> str:
    """Why a file could not be read as an image, in a few words; `error` is what the attempt raised."""
    if not file.exists():
        return "no such file"
    if file.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than Pillow reads"
    return "not an image that can be read, or damaged"


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
    if name == CUSTOM:
        check_files(samples)
    parts = split_custom(samples, valid_fraction) if name == CUSTOM else split(samples, DATASETS[name])
    height, width = size
    return Group(parts[0], (height, width)), Group(parts[1], (height, width))


def split_custom(samples: Sequence[Sample], valid_fraction: float) -> tuple[list[Sample], list[Sample]]:
    """The split of one's own photographs: by the folders `train` and `val` where there are both, else by their names.

    Whether an image validates depends on its name alone, so that no other moves when images are added or removed, and
    no evaluation scores images that trained because a run had another seed. At least one image trains, and if
    `valid_fraction` is above 0, one of several validates: only for that may another move, where images are few.

    Raises:
        UserError: there are images outside of the folders `train` and `val`.
    """
    if is_split_by_folders(samples):
        if outside := [s.name for s in samples if not s.name.startswith(("train/", "val/"))]:
            raise UserError(
                f"Of the images in 'stimuli', some are neither in its folder 'train' nor in 'val': "
                f"{name_some(outside)}. Move them into one of the two, or out of the dataset."
            )
        return _divide(samples, {s.name for s in samples if s.name.startswith("val/")})
    order = sorted((s.name for s in samples), key=position_of_name)
    valid = [name for name in order if position_of_name(name) < valid_fraction]
    if valid_fraction > 0:
        valid = valid or order[:1]
    return _divide(samples, set(valid[: len(order) - 1]))


def is_split_by_folders(samples: Sequence[Sample]) -> bool:
    """Whether one's own photographs are in folders that say which train and which validate."""
    return all(any(s.name.startswith(part) for s in samples) for part in ("train/", "val/"))


def position_of_name(name: str) -> float:
    """A number from 0 to below 1 that is as good as drawn at random, but the same for a name wherever it is asked."""
    # Macintoshes write an accent as a letter of its own.
    text = f"validates {unicodedata.normalize('NFC', name)}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # A float holds 48 bits exactly, so that it stays below 1.


def _divide(samples: Sequence[Sample], valid: set[str]) -> tuple[list[Sample], list[Sample]]:
    return [s for s in samples if s.name not in valid], [s for s in samples if s.name in valid]


def names_hash(train: Iterable[str], valid: Iterable[str]) -> str:
    """SHA-256 in hexadecimal of the names of the images that train and that validate, whatever their order."""
    return hashlib.sha256(json.dumps([sorted(train), sorted(valid)]).encode()).hexdigest()


def files_hash(samples: Iterable[Sample]) -> str:
    """SHA-256 in hexadecimal by which changed photographs and maps are noticed, while whole folders may be copied.

    It is of names, sizes in bytes and the files' ends, which are quick to read. A PNG that changes anywhere changes its
    checksum there, and a JPEG all but always its size.
    """
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps(sample.name).encode())
        for path in (sample.stimulus, sample.saliency):
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                digest.update(size.to_bytes(8, "big") + file.read())
    return digest.hexdigest()


# --- What a training step sees ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Samples that share the size of the network's input, as (height, width)."""

    samples: Sequence[Sample]
    size: tuple[int, int]


def group_by_shape(groups: tuple[Group, Group], pixels: int) -> list[tuple[Group, Group]]:
    """What trains and what validates of one dataset, by the input size that suits each image's shape.

    Args:
        groups: as `load_groups` returns them; their own sizes do not count.
        pixels: of the network's input; see `fitted_size`.
    """
    by_size: dict[tuple[int, int], tuple[list[Sample], list[Sample]]] = {}
    for part, group in enumerate(groups):
        for sample in group.samples:
            size = fitted_size(image_size(sample.stimulus), pixels)
            by_size.setdefault(size, ([], []))[part].append(sample)
    return [(Group(train, size), Group(valid, size)) for size, (train, valid) in sorted(by_size.items())]


@dataclass(frozen=True)
class Batch:
    """One training step, or a device's share of one.

    Attributes:
        samples: what is in it.
        size: height and width that the network sees them in.
        seed: of their augmentation, together with a sample's position in the whole step.
        first: position of the first sample in the whole step.
    """

    samples: Sequence[Sample]
    size: tuple[int, int]
    seed: int = 0
    first: int = 0


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


def share_out(plan: Sequence[Batch], devices: int) -> list[Batch]:
    """Each batch of a plan as one share for each device, in turn.

    The shares of a batch differ by one sample at most. Where it has fewer samples than there are devices, some are
    in several shares, as no device can be without.
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


# Width to height, and height to width, of the photographs that there are.
ASPECT_RATIOS = (1, 4 / 3, 3 / 2, 16 / 9)


def fitted_size(shape: tuple[int, int], pixels: int) -> tuple[int, int]:
    """The network's input size that a photograph fills best, of those with about so many pixels.

    Args:
        shape: height and width of the photograph.
        pixels: such as 240 · 320, which gives 240×320, 320×240, 280×280, 224×336, 336×224, 208×368 and 368×208.

    Returns:
        Height and width, divisible by 8, of one of `ASPECT_RATIOS`, lying or upright.
    """
    sizes = set()
    for ratio in ASPECT_RATIOS:
        short, long = (max(8, round((pixels * factor) ** 0.5 / 8) * 8) for factor in (1 / ratio, ratio))
        sizes |= {(short, long), (long, short)}

    def filled(size: tuple[int, int]) -> float:
        ratio = min(size[0] / shape[0], size[1] / shape[1])
        return shape[0] * shape[1] * ratio**2 / (size[0] * size[1])

    return max(sorted(sizes), key=filled)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """A network input size times a factor, each side rounded to a multiple of 8."""
    height, width = (max(8, round(side * scale / 8) * 8) for side in size)
    return height, width
