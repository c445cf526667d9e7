"""What `test` is asked to predict: its options, the photographs, and the files of their maps."""

import errno
import itertools
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .config import MAX_PIXELS
from .data import IMAGE_SUFFIXES, list_images
from .utils import UserError
from .videos.reading import CLIP_SUFFIXES, is_live

NAME_TOO_LONG = "its name is too long for a map with the same name"


@dataclass(frozen=True)
class Options:
    """The flags of `test`, with or without `--cluster`; `params` is `config.PARAMS` with the user's changes."""

    params: dict
    data: str = "salicon"
    path: Path | str | None = None  # An address such as s3://bucket/folder is a string.
    weights: str | None = None
    format: str = "jpeg"
    overlay: bool = False
    input_size: tuple[int, int] | str | None = None
    mirrored: bool = False
    max_pixels: int = MAX_PIXELS
    cluster: str | None = None
    workers: int | None = None
    shards: bool = False
    restart: bool = False
    every: int = 1
    fps: float | None = None
    smooth: float = 0

    @property
    def suffix(self) -> str:
        """The suffix of the maps' files."""
        return f".{self.format}"

    def check(self) -> None:
        """Reject flags that contradict each other."""
        if self.cluster and self.params["gpus"]:
            raise UserError("--gpus works only without --cluster: each worker of a cluster has one GPU, if any.")
        if self.cluster:
            live = is_live(str(self.path)) and not str(self.path).startswith("http")
            sampled = self.every != 1 or self.fps or self.smooth
            if live or sampled or str(self.path).lower().endswith(CLIP_SUFFIXES):
                raise UserError("Clips are not predicted on a cluster: repeat the command without --cluster.")
            return
        if flags := [f"--{name}" for name in ("workers", "shards", "restart") if getattr(self, name)]:
            raise UserError(f"{' and '.join(flags)}: only with --cluster.")
        if "://" in f"{'' if is_live(str(self.path)) else self.path} {self.params['results']}":
            raise UserError("Addresses of object stores work with --cluster only; see docs/cluster.md.")


class Photograph(NamedTuple):
    """A photograph to predict: its path or address, and the names of its map and overlay relative to the results."""

    path: str
    map: str
    overlay: str


def sample_photograph() -> Path:
    """The photograph that Matplotlib ships: Grace Hopper."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


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


# --- Files of maps ----------------------------------------------------------------------------------------------------


def write_maps(
    photograph: Photograph,
    prediction,
    options: Options,
    write: Callable[[str, bytes], None],
) -> tuple[dict[str, bytes], str]:
    """Encode the map of a photograph, and with `--overlay` the overlay, then write them.

    Args:
        photograph: names the files.
        prediction: a `network.Prediction` of its file.
        options: the format, and whether to write an overlay.
        write: called with the name and the contents of each file.

    Returns:
        The files' contents by name, the map first, and "". For a photograph that failed: no file, and the reason.

    Raises:
        OSError: a file cannot be written for a reason that other photographs share, such as a full disk.
    """
    from .images import Unwritable, encode_map, encode_overlay  # They import TensorFlow.

    if prediction.saliency is None:
        return {}, prediction.error
    try:
        files = {photograph.map: encode_map(prediction.saliency, options.suffix)}
        if options.overlay:
            overlay = encode_overlay(prediction.photograph, prediction.saliency, options.max_pixels)
            files[photograph.overlay] = overlay
        for name, contents in files.items():
            write(name, contents)
    except Unwritable as error:
        return {}, str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return {}, NAME_TOO_LONG
    return files, ""


def map_pixels(prediction) -> int:
    """The pixels of a predicted map, for `parallel_map`'s bound on memory; 0 for a photograph that failed."""
    return 0 if prediction.saliency is None else prediction.saliency.size


def name_maps(images: Sequence[Path], root: Path, suffix: str) -> list[Photograph]:
    """Name the maps and overlays of images; see `output_paths`."""
    maps = output_paths(images, root, Path("images"), suffix)
    overlays = output_paths(images, root, Path("overlays"), ".jpeg")
    return [Photograph(image.as_posix(), maps[image].as_posix(), overlays[image].as_posix()) for image in images]


def output_paths(images: Sequence[Path], root: Path, folder: Path, suffix: str) -> dict[Path, Path]:
    """Where the map of each image goes: the same subfolder and name below `folder`, with another suffix.

    When two images would share a map, each map's name keeps the image's suffix; if that name is taken too, a number
    follows. Names are compared like file systems may do: ignoring case and the encoding of accents. A name depends only
    on the images in the same folder, so a large tree can be named folder by folder.
    """
    relative = {image: Path(image.name) if root == image else image.relative_to(root) for image in images}
    names = {image: _names(path, suffix) for image, path in relative.items()}
    target = {image: next(candidates) for image, candidates in names.items()}
    while clashes := _clashes(target):
        for image in clashes:
            target[image] = next(names[image])
    return {image: folder / name for image, name in target.items()}


def _names(path: Path, suffix: str) -> Iterator[Path]:
    """Possible names for an image's map, the plain name first."""
    yield path.with_name(path.stem + suffix)
    yield path.with_name(path.name + suffix)
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}{suffix}")


def _clashes(targets: Mapping[Path, Path]) -> list[Path]:
    """The images that need another name: all that share a plain name, or all but one that share another name."""
    sharing: dict[str, list[Path]] = {}
    for image, target in targets.items():
        sharing.setdefault(same_name(str(target)), []).append(image)
    clashes = []
    for images in sharing.values():
        plain = [image for image in images if targets[image].stem == image.stem]
        clashes += (plain or images[1:]) if len(images) > 1 else []
    return clashes


def same_name(name: str) -> str:
    """A key that is equal for names that a file system may treat as one."""
    return unicodedata.normalize("NFC", name).casefold()
