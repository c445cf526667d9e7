"""The options of `test`, the photographs to predict, and the files of their maps."""

import contextlib
import errno
import glob
import itertools
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .config import MAX_PIXELS
from .data import is_named_like, list_images
from .image_files import IMAGE_SUFFIXES, read_header
from .listing import count_suffixes, list_names
from .map_files import Unwritable
from .utils import UserError, count
from .videos.reading import is_live

NAME_TOO_LONG = "its name is too long for a map with the same name"


@dataclass(frozen=True)
class Options:
    """The flags of `test`, with or without `--cluster`; `params` is `config.PARAMS` with the user's changes."""

    params: dict
    data: str = "salicon"
    path: Sequence[Path | str] = ()  # An address such as s3://bucket/folder is a string.
    photographs: Sequence[Path | str] = ()  # The same without -p.
    weights: str | None = None
    format: str = "jpeg"
    overlay: bool = False
    input_size: tuple[int, int] | str | None = None
    mirrored: bool = False
    engine: str = "tensorflow"
    max_pixels: int = MAX_PIXELS
    cluster: str | None = None
    workers: int | None = None
    shards: bool = False
    restart: bool = False
    every: int = 1
    fps: float | None = None
    smooth: float = 0
    verbose: bool = False

    @property
    def paths(self) -> list[Path | str]:
        """All photographs and folders that were named."""
        return [*self.photographs, *self.path]

    @property
    def only_path(self) -> Path | str | None:
        """The single path of a run on a cluster, or None."""
        if len(self.paths) > 1:
            raise UserError(
                f"--cluster takes one path, received {len(self.paths)}: name a folder, or a list of photographs in a "
                f".txt file."
            )
        return self.paths[0] if self.paths else None

    @property
    def suffix(self) -> str:
        """The suffix of the maps' files."""
        return f".{self.format}"

    def check(self) -> None:
        """Reject flags that contradict each other."""
        if self.cluster and self.params["gpus"]:
            raise UserError("--gpus works only without --cluster: each worker of a cluster has one GPU, if any.")
        if self.cluster and self.engine != "tensorflow":
            raise UserError(f"--engine {self.engine} works only without --cluster.")
        if self.cluster:
            if live := [path for path in self.paths if is_live(path) and not str(path).startswith("http")]:
                raise UserError(f"{live[0]} is a camera or a stream: repeat the command without --cluster.")
            return
        if flags := [f"--{name}" for name in ("workers", "shards", "restart") if getattr(self, name)]:
            raise UserError(f"{' and '.join(flags)}: only with --cluster.")
        files = [path for path in self.paths if not is_live(path)]
        if "://" in f"{files} {self.params['results']}":
            raise UserError("Addresses of object stores work with --cluster only; see docs/cluster.md.")


class Photograph(NamedTuple):
    """A photograph or clip to predict: its path or address, and the names of its map and overlay in the results."""

    path: str
    map: str
    overlay: str


def sample_photograph() -> Path:
    """The photograph of Grace Hopper that ships with Matplotlib."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


class Found(NamedTuple):
    """Photographs to predict.

    Attributes:
        images: the path of each, and the relative path of its map below `images`.
        skipped: how many other files there are, such as "3 .txt, 1 .cr2", or "".
        results: how many images were left out because they are in the folder of results.
    """

    images: dict[Path, Path]
    skipped: str = ""
    results: int = 0

    def summary(self) -> str:
        """What was left out, as a line, or ""."""
        notes = [f"skipped files that are not photographs: {self.skipped}"] if self.skipped else []
        if self.results:
            notes.append(f"left out {count(self.results, 'image')} in the folder of results")
        return f"{'; '.join(notes).capitalize()}." if notes else ""


def find_images(
    paths: Sequence[Path | str], results: Path | None = None, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> Found:
    """The image files at paths: files, matches of patterns, and all files below folders.

    Args:
        paths: photographs, folders, and patterns such as "photos/*.jpg". Duplicates are dropped.
        results: the folder of results, whose maps and overlays are left out.
        suffixes: of the files to find.

    Raises:
        UserError: there are no images, or a folder cannot be read.
    """
    named = [path for given in paths for path in _expanded(Path(given), suffixes)]
    images: dict[Path, Path] = {}
    skipped: list[str] = []
    left_out = 0
    for path in named:
        if not path.is_dir():
            images.setdefault(path, Path(path.name))
            continue
        above = f"{path.resolve().name}/" if len(named) > 1 else ""
        names, own = _files_below(path, results)
        left_out += own
        for name in names:
            if name.lower().endswith(suffixes):
                images.setdefault(path / name, Path(above + name))
            else:
                skipped.append(name)
    if not images:
        raise UserError(f"No image below {', '.join(map(str, paths))}: expected files ending in {', '.join(suffixes)}.")
    return Found(_unique(images) if len(named) > 1 else images, count_suffixes(skipped), left_out)


def _unique(images: Mapping[Path, Path]) -> dict[Path, Path]:
    """Drop repeated files, and number relative paths that are equal."""
    files: set[Path] = set()
    taken: dict[Path, Path] = {}
    for image, relative in images.items():
        if (file := image.resolve()) in files:
            continue
        files.add(file)
        numbered = (relative.with_name(f"{relative.stem}-{i}{relative.suffix}") for i in itertools.count(2))
        taken[next(name for name in itertools.chain([relative], numbered) if name not in taken)] = image
    return {image: relative for relative, image in taken.items()}


def _expanded(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """A path that exists, or the paths that match it as a pattern."""
    if path.exists():
        if not path.is_dir() and not path.is_file():
            raise UserError(f"{path} is neither a regular file nor a folder. Name a photograph or a folder with -p.")
        return [path]
    if glob.has_magic(os.fspath(path)):
        found = [Path(name) for name in sorted(glob.glob(os.fspath(path), recursive=True))]  # noqa: PTH207
        if matching := [file for file in found if file.is_dir() or is_named_like(file, suffixes)]:
            return matching
        raise UserError(f"No image matches the pattern {path}. Name a photograph or a folder of photographs with -p.")
    raise UserError(f"No such file or folder: {path}. Name a photograph or a folder of photographs with -p.")


def _files_below(folder: Path, results: Path | None) -> tuple[list[str], int]:
    """The names of files below a folder, without those in the folder of results, and how many images the latter has."""
    if results is None or not results.is_dir() or not results.resolve().is_relative_to(folder.resolve()):
        return list_names(folder), 0
    if results.resolve() == folder.resolve():
        raise UserError(
            f"The maps in --results {results} would be mixed with the photographs in the same folder: choose another "
            f"folder of results."
        )
    return list_names(folder, without=[results]), len(list_images(results))


def check_not_replaced(photographs: Sequence["Photograph"], results: Path) -> None:
    """Raise if the map of a photograph would replace a photograph."""
    if not any((results / folder).is_dir() for folder in ("images", "overlays", "videos")):
        return
    inputs: set[tuple[int, int]] = set()
    for photograph in photographs:
        for output in (photograph.map, photograph.overlay):
            with contextlib.suppress(OSError):  # Usually there is no such file yet.
                there = _file(os.lstat(f"{results}/{output}"))
                inputs = inputs or {_file(path.stat()) for each in photographs if (path := Path(each.path)).exists()}
                if there in inputs:
                    raise UserError(
                        f"The map of {photograph.path} would replace the photograph {results / output}: choose "
                        f"another folder with --results."
                    )


# --- Files of maps ----------------------------------------------------------------------------------------------------


def write_maps(
    photograph: Photograph, prediction, options: Options, write: Callable[[str, bytes], None]
) -> tuple[dict[str, bytes], str]:
    """Encode the map of a photograph, and with `--overlay` the overlay, then write them.

    Args:
        photograph: names the files.
        prediction: a `network.Prediction` of its file.
        write: called with the name and the contents of each file.

    Returns:
        The files' contents by name, the map first, and an empty error. A photograph that failed has an error, and no
        files.

    Raises:
        OSError: no file can be written, for example because the disk is full.
    """
    if prediction.saliency is None:
        return {}, prediction.error
    engine = _engine(options.engine)
    try:
        files = {photograph.map: engine.encode_map(prediction.saliency, options.suffix)}
        if options.overlay:
            path, orientation = prediction.photograph, options.params["orientation"]
            header = read_header(path, most_pixels=options.max_pixels, orientation=orientation)
            pixels = np.asarray(engine.read_image(path, header))
            files[photograph.overlay] = engine.encode_overlay(pixels, prediction.saliency)
        for name, contents in files.items():
            write(name, contents)
    except Unwritable as error:
        return {}, str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return {}, NAME_TOO_LONG
    return files, ""


def _engine(name: str) -> Any:
    """The module that reads photographs and encodes maps for an engine."""
    if name == "litert":
        from . import litert

        return litert
    from . import images  # Here, because it imports TensorFlow.

    return images


def map_pixels(prediction) -> int:
    """The pixels of a predicted map, for `parallel_map`'s bound on memory; 0 for a photograph that failed."""
    return 0 if prediction.saliency is None else prediction.saliency.size


def name_all(found: Mapping[Path, Path], suffix: str) -> list[Photograph]:
    """Name the maps and overlays of images by the relative paths of `Found`; see `name_maps`."""
    named = name_maps([relative.as_posix() for relative in found.values()], suffix)
    return [photograph._replace(path=image.as_posix()) for image, photograph in zip(found, named, strict=True)]


def name_maps(names: Sequence[str], suffix: str, folders: Sequence[str] = ()) -> list[Photograph]:
    """Name the maps and overlays of images: the same subfolder and name with another suffix.

    When two images would share a map, or a map would have the name of a folder, each map's name keeps the image's
    suffix; if that name is taken too, a number follows. Names are compared as some file systems do, ignoring case and
    the Unicode form of accents. A name depends only on the images and folders in the same folder, so a large tree can
    be named folder by folder.

    Args:
        names: relative paths with slashes; strings, because many `Path`s are slow.
        suffix: of the maps.
        folders: subfolders with other images.
    """
    return _name_files("images", names, suffix, ".jpeg", folders)


def name_clips(names: Sequence[str], suffix: str, taken: Sequence[str] = ()) -> list[Photograph]:
    """Name the videos of clips like the maps of photographs; `suffix` is that of photographs' maps."""
    return _name_files("videos", names, video_suffix(suffix), ".mp4", taken)


def video_suffix(suffix: str) -> str:
    """The suffix of a clip's maps, from that of photographs' maps."""
    return ".npz" if suffix == ".npy" else ".mp4"


def _name_files(folder: str, names: Sequence[str], suffix: str, overlay: str, taken: Sequence[str]) -> list[Photograph]:
    maps = _choose_names(names, suffix, taken)
    overlays = maps if suffix == overlay else _choose_names(names, overlay, taken)
    rows = zip(names, maps, overlays, strict=True)
    return [Photograph(name, f"{folder}/{saliency}", f"overlays/{blended}") for name, saliency, blended in rows]


def _choose_names(relative: Sequence[str], suffix: str, folders: Sequence[str]) -> list[str]:
    """The names of maps with one suffix, see `name_maps`."""
    above = {name.rpartition("/")[0] for name in relative}
    above |= {parent.as_posix() for name in above for parent in Path(name).parents}
    taken = {same_name(name) for name in above.union(folders)}
    candidates = [_names(name, suffix) for name in relative]
    targets = [next(names) for names in candidates]
    plain = targets.copy()
    while clashes := _clashes(targets, plain, taken):
        for i in clashes:
            targets[i] = next(candidates[i])
    return targets


def _names(name: str, suffix: str) -> Iterator[str]:
    """Possible names for an image's map, the plain name first."""
    yield os.path.splitext(name)[0] + suffix  # noqa: PTH122
    yield name + suffix
    for number in itertools.count(2):
        yield f"{name}-{number}{suffix}"


def _clashes(targets: Sequence[str], plain: Sequence[str], folders: set[str]) -> list[int]:
    """Which images need another name.

    Of images that share a name, all that have their plain name, or all but the first if none has it. Also those with
    the name of a folder.
    """
    sharing: dict[str, list[int]] = {}
    for i, target in enumerate(targets):
        sharing.setdefault(same_name(target), []).append(i)
    clashes = []
    for name, images in sharing.items():
        if name in folders:
            clashes += images
        elif len(images) > 1:
            clashes += [i for i in images if targets[i] == plain[i]] or images[1:]
    return clashes


def _file(status: os.stat_result) -> tuple[int, int]:
    """A key that is equal for two paths of the same file."""
    return status.st_dev, status.st_ino


def same_name(name: str) -> str:
    """A key that is equal for names that a file system may treat as one."""
    return unicodedata.normalize("NFC", name).casefold()
