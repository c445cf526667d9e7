"""Photographs to predict: which files they are, and how their maps are called."""

import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data import IMAGE_SUFFIXES, list_images
from utils import UserError


def find_images(path: Path) -> list[Path]:
    """The image files that `path` names: itself, or all below it.

    Raises:
        UserError: there is none, or a folder cannot be read.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"No such file or folder: {path}. Name a photograph or a folder of photographs with -p.")
    if not path.is_dir():
        raise UserError(f"{path} is neither a regular file nor a folder. Name a photograph or a folder with -p.")
    images = list_images(path)
    if not images:
        raise UserError(f"No image below {path}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    return images


def output_paths(images: Sequence[Path], root: Path, folder: Path, suffix: str) -> dict[Path, Path]:
    """Where the map of each image goes: the same sub-folder and name below `folder`, with another suffix.

    Where two images would share a map, each keeps its own suffix inside the map's name, and where that is another's
    name already, a number follows. Names are compared as file systems may do, without case and accents' spelling.
    So the names depend on the images of the same folder alone, and can be found folder by folder.
    """
    relative = {image: Path(image.name) if root == image else image.relative_to(root) for image in images}
    names = {image: _names(path, suffix) for image, path in relative.items()}
    target = {image: next(candidates) for image, candidates in names.items()}
    while clashes := _clashes(target):
        for image in clashes:
            target[image] = next(names[image])
    return {image: folder / name for image, name in target.items()}


def _names(path: Path, suffix: str) -> Iterator[Path]:
    """Names for an image's map, the plainest first."""
    yield path.with_name(path.stem + suffix)
    yield path.with_name(path.name + suffix)
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}{suffix}")


def _clashes(targets: Mapping[Path, Path]) -> list[Path]:
    """The images that have to take another name: of several with one name all, or all but one that has no plain one."""
    sharing: dict[str, list[Path]] = {}
    for image, target in targets.items():
        sharing.setdefault(same_name(str(target)), []).append(image)
    clashes = []
    for images in sharing.values():
        plain = [image for image in images if targets[image].stem == image.stem]
        clashes += (plain or images[1:]) if len(images) > 1 else []
    return clashes


def same_name(name: str) -> str:
    """What is equal for names that a file system may take to be one."""
    return unicodedata.normalize("NFC", name).casefold()
