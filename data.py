"""Datasets: which files belong together, and how they are split into training and validation.

A dataset is a folder with `stimuli/`, `saliency/` and, where known, `fixations/` or `fixations.csv`. The files of one
image have the same path below each of them, up to the suffix.
"""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import listing
from .acquisition.datasets import CUSTOM, DATASETS, Dataset, is_unpacked
from .config import VALID_FRACTION
from .image_files import (
    IMAGE_SUFFIXES,
    MAP_FORMATS,
    MAP_SUFFIXES,
    STORED,
    UPRIGHT,
    image_size,
    read_gray,
    why_unreadable,
)
from .utils import UserError, name_some, parallel_map

# How many bytes at the end of a file `files_hash` reads.
TAIL_BYTES = 4096

# Seed of the published split, independent of a run's seed.
SPLIT_SEED = 42


@dataclass(frozen=True)
class Sample:
    """The files of one image.

    Attributes:
        name: common path of the files below the dataset's folders, without suffix.
        stimulus, saliency, fixations: the files.
        orientation: of the photograph; its maps have the size of the photograph in this orientation.
    """

    name: str
    stimulus: Path
    saliency: Path
    fixations: Path | None = None
    orientation: str = UPRIGHT


@dataclass(frozen=True)
class Group:
    """Samples with the same size of the network's input, as (height, width)."""

    samples: Sequence[Sample]
    size: tuple[int, int]


# --- Pairs and published splits ---------------------------------------------------------------------------------------


def find_dataset(name: str, path: Path) -> Path:
    """The folder of a dataset: `path` itself or the folder `name` in it, downloaded when missing.

    Raises:
        UserError: neither has a folder `stimuli`, and the dataset is not a published one or cannot be downloaded.
    """
    for folder in (path / name, path):
        if (folder / "stimuli").is_dir() or is_unpacked(folder):
            return folder
    if name in DATASETS:
        from . import download

        return download.dataset(name, path)
    if not path.exists():
        raise UserError(f"No such folder: {path}. Name the dataset's folder, or its parent folder, with -p.")
    raise UserError(
        f"No {name} dataset in {path}: expected the photographs in {path / 'stimuli'} or {path / name / 'stimuli'}, "
        f"and next to them 'saliency', 'fixations' or fixations.csv."
    )


def part(folder: Path, kind: str) -> Path:
    """The folder of a dataset's "stimuli" or "saliency"."""
    return folder / ({"stimuli": "images", "saliency": "maps"}[kind] if is_unpacked(folder) else kind)


def orientation_of(name: str, chosen: str) -> str:
    """The orientation of a dataset's photographs: as chosen for your own; published fixations fit the stored pixels."""
    return chosen if name == CUSTOM else STORED


def list_images(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Every image file below a folder, sorted by path; see `listing.list_names`."""
    return listing.list_files(folder, tuple(suffixes))


def pair_files(folder: Path, orientation: str = STORED) -> list[Sample]:
    """Pair stimuli with saliency maps, and with fixation maps if that folder exists, by name.

    Raises:
        UserError: some files have no partner; the message lists them.
    """
    stimuli = files_by_name(part(folder, "stimuli"), IMAGE_SUFFIXES)
    saliency = files_by_name(part(folder, "saliency"), MAP_SUFFIXES)
    fixations = None
    if is_unpacked(folder):  # Its fixations are .mat files, and its test photographs have no maps.
        stimuli = {name: file for name, file in stimuli.items() if not name.startswith("test/")}
    elif (folder / "fixations").is_dir():
        fixations = files_by_name(folder / "fixations", MAP_SUFFIXES)
    if not stimuli:
        raise UserError(f"No image in {part(folder, 'stimuli')}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    complaints = [f"stimuli/{name} is not a regular file" for name, file in stimuli.items() if not file.is_file()]
    for kind, files in (("saliency", saliency), ("fixations", fixations)):
        if files is not None:
            complaints += [f"{kind}/{name} is not a regular file" for name, file in files.items() if not file.is_file()]
            complaints += [f"{kind}/{name} is missing" for name in stimuli if name not in files]
            complaints += [f"{kind}/{name} has no stimulus" for name in files if name not in stimuli]
            if stimuli.keys() - files.keys():
                complaints += not_maps(folder / kind)
    if complaints:
        raise UserError(f"The files in {folder} do not pair up by name: {'; '.join(complaints)}.")
    return [
        Sample(name, stimuli[name], saliency[name], fixations[name] if fixations else None, orientation)
        for name in stimuli
    ]


def not_maps(folder: Path) -> list[str]:
    """A complaint about the files in a folder of maps that have other suffixes; empty if there are none."""
    others = listing.count_suffixes(
        file for file in listing.list_files(folder) if not is_named_like(file, MAP_SUFFIXES)
    )
    return [f"{folder} has {others}, expected {', '.join(MAP_SUFFIXES)}"] if others else []


def is_named_like(file: Path, suffixes: tuple[str, ...]) -> bool:
    return file.name.lower().endswith(suffixes)


def split(samples: Sequence[Sample], row: Dataset) -> tuple[list[Sample], list[Sample]]:
    """The training and the validation samples of a dataset's published split; `samples` as from `pair_files`.

    Raises:
        UserError: the number of samples is not the published one.
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
    """Published positions of training and validation images in the name-sorted list (of each category)."""
    train, valid = row.train // row.categories, row.valid // row.categories
    order = np.arange(train + valid)
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    return order[:train], order[train:]


def files_by_name(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Every image file below a folder by its name, see `listing.files_by_name`.

    Sorted by path including the suffix, the order of the published splits: "a-1.jpg" before "a.jpg".
    """
    return listing.files_by_name(folder, list_images(folder, suffixes))


# --- Image files ------------------------------------------------------------------------------------------------------


def check_files(samples: Sequence[Sample]) -> None:
    """Check that stimuli and saliency maps are images of equal size, from their headers, and that no map is black.

    Raises:
        UserError: some are not; the message names the first few.
    """
    complaints = []
    for sample in samples:
        try:
            size = image_size(sample.stimulus, orientation=sample.orientation)
            found = image_size(sample.saliency, MAP_FORMATS, STORED)
        except UserError as error:
            complaints.append(str(error).rstrip("."))
        else:
            if found != size:
                complaints.append(other_size(sample.saliency, found, sample.stimulus, size))
    if not complaints:
        complaints = list(filter(None, parallel_map(_check_map, samples)))
    if complaints:
        raise UserError(f"{name_some(complaints, '; ')}.")


def _check_map(sample: Sample) -> str:
    """What is wrong with the values of a saliency map, or ""."""
    try:
        black = not read_gray(sample.saliency).any()
    except (OSError, ValueError, SyntaxError) as error:
        return f"{sample.saliency}: {why_unreadable(sample.saliency, error)}"
    return f"{sample.saliency} is black: {BLACK}" if black else ""


BLACK = "every pixel is 0, so it says nothing about where people look; make it again, or remove it with its photograph"


def other_size(file: Path, found: tuple[int, int], stimulus: Path, size: tuple[int, int]) -> str:
    """The complaint about a map whose size, as (height, width), differs from that of its stimulus."""
    text = f"{file} is {found[1]}×{found[0]} pixels, its stimulus {size[1]}×{size[0]}"
    if found == size[::-1] == image_size(stimulus, orientation=STORED):
        text += (
            "; it fits the photograph as stored, which its EXIF orientation turns: turn the map too, or pass "
            "--orientation stored"
        )
    return text


def _check_count(what: str, received: int, expected: int) -> None:
    if received != expected:
        raise UserError(
            f"Found {received} {what}, expected {expected}: the published split needs the complete dataset. "
            f"Complete the folder, or train on these images as your own dataset with -d custom."
        )


# --- Training and validation ------------------------------------------------------------------------------------------


def load_groups(
    name: str, path: Path, size: tuple[int, int], *, valid_fraction: float = VALID_FRACTION, orientation: str = UPRIGHT
) -> tuple[Group, Group]:
    """The training and the validation images of a dataset, or of your own photographs ("custom").

    Args:
        path: see `find_dataset`.
        size: height and width of the network's input.
        valid_fraction, orientation: of your own photographs; see `split_custom` and `orientation_of`.
    """
    samples = pair_files(find_dataset(name, path), orientation_of(name, orientation))
    if name == CUSTOM:
        check_files(samples)
    train, valid = split_custom(samples, valid_fraction) if name == CUSTOM else split(samples, DATASETS[name])
    height, width = size
    return Group(train, (height, width)), Group(valid, (height, width))


def split_custom(samples: Sequence[Sample], valid_fraction: float) -> tuple[list[Sample], list[Sample]]:
    """The split of your own photographs: by the folders `train` and `val` if both exist, else by name.

    Whether an image validates depends only on its name, so adding or removing images does not move the others, and no
    seed can mix training images into an evaluation. At least one image is used for training and, if `valid_fraction` is
    above 0 and there are several, at least one for validation; only in such small datasets can another image move.

    Raises:
        UserError: there are images outside the folders `train` and `val`.
    """
    if is_split_by_folders(samples):
        if outside := [s.name for s in samples if not s.name.startswith(("train/", "val/"))]:
            raise UserError(
                f"Some images in 'stimuli' are neither in its folder 'train' nor in 'val': {name_some(outside)}. Move "
                f"them into one of the two, or out of the dataset."
            )
        return _divide(samples, {s.name for s in samples if s.name.startswith("val/")})
    order = sorted((s.name for s in samples), key=position_of_name)
    valid = [name for name in order if position_of_name(name) < valid_fraction]
    if valid_fraction > 0:
        valid = valid or order[:1]
    return _divide(samples, set(valid[: len(order) - 1]))


def is_split_by_folders(samples: Sequence[Sample]) -> bool:
    """Whether the photographs are in folders for training and validation."""
    return all(any(s.name.startswith(part) for s in samples) for part in ("train/", "val/"))


def position_of_name(name: str) -> float:
    """A pseudo-random number from 0 to below 1 that depends only on the name."""
    # macOS stores accents as separate characters.
    text = f"validates {unicodedata.normalize('NFC', name)}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # A float holds 48 bits exactly, so the result is below 1.


def _divide(samples: Sequence[Sample], valid: set[str]) -> tuple[list[Sample], list[Sample]]:
    return [s for s in samples if s.name not in valid], [s for s in samples if s.name in valid]


def names_hash(train: Iterable[str], valid: Iterable[str]) -> str:
    """SHA-256 in hexadecimal of the names of the training and validation images, in any order."""
    return hashlib.sha256(json.dumps([sorted(train), sorted(valid)]).encode()).hexdigest()


def files_hash(samples: Iterable[Sample]) -> str:
    """SHA-256 in hexadecimal that changes when photographs or maps change, but not when the folder is copied.

    It covers names, sizes in bytes and the ends of the files, which are quick to read. A changed PNG has another
    checksum at its end, and a changed JPEG almost always another size.
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
