"""Fixations of a dataset: read from its files, and blurred into saliency maps if it has none.

A dataset's fixations are in `fixations.csv`, one row per fixation, or in `fixations/`, one binary map per image. The
table is used if both exist, because it keeps observers and repeated fixations.
"""

import csv
import hashlib
import json
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm.contrib.concurrent import thread_map

from ..acquisition.convert import gaussian_blur
from ..acquisition.gaze import UNKNOWN_OBSERVER, lit_pixels
from ..data import IMAGE_SUFFIXES, MAP_FORMATS, MAP_SUFFIXES, files_by_name, image_size, list_images
from ..utils import UserError, cores, name_some, whole_folder, write_json
from .metrics import count_map

TABLE = "fixations.csv"
COLUMNS = ("image", "x", "y")  # and, if known, "observer"

# The file in `saliency/` that marks maps made here, which may be replaced, unlike the user's own.
RECORD = "made_from_fixations.json"

# Standard deviation of the blur relative to an image's longer side, if nothing is known about the experiment:
# 16 pixels at 800×600, the choice of OSIE's authors.
DEFAULT_SHARE = 0.02


def read_fixations(folder: Path) -> dict[str, np.ndarray]:
    """Every fixation of a dataset, from `folder/fixations.csv` or the binary maps in `folder/fixations/`.

    Args:
        folder: of the dataset; its `stimuli/` determines the images and their sizes.

    Returns:
        For each stimulus, by name (as in `data.Sample`) and in order: int64 (n, 3) with x, y and observer, one row per
        fixation in the order of the file. The top left pixel is 0, 0. n is 0 for an image without fixations.

    Raises:
        UserError: neither exists, or the files cannot be read or do not match the stimuli.
    """
    stimuli = files_by_name(folder / "stimuli")
    if (folder / TABLE).is_file():
        return read_table(folder / TABLE, {name: image_size(file) for name, file in stimuli.items()})
    if not (folder / "fixations").is_dir():
        raise UserError(f"No fixations in {folder}: expected {folder / TABLE} or the folder {folder / 'fixations'}.")
    maps = files_by_name(folder / "fixations", MAP_SUFFIXES)
    if missing := [name for name in stimuli if name not in maps]:
        raise UserError(f"No fixation map in {folder / 'fixations'} for {name_some(missing)}.")
    if surplus := [name for name in maps if name not in stimuli]:
        raise UserError(f"No image in {folder / 'stimuli'} for the fixation maps {name_some(surplus)}.")
    return {name: read_fixation_map(maps[name], image_size(file)) for name, file in stimuli.items()}


def read_table(file: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Fixations from a CSV file with the columns image, x, y and, if known, observer.

    Args:
        file: UTF-8; `image` is the name of the stimulus, with or without suffix; x and y may be fractions of a pixel;
            observers are numbers or words.
        sizes: height and width of each stimulus by name.

    Returns, Raises: as `read_fixations`.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            names, rows, observers = _parse(file, csv.reader(lines))
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text (byte {error.start}): save it as 'CSV UTF-8'.") from error
    except csv.Error as error:
        raise UserError(f"{file} is not a CSV file: {error}.") from error
    if not len(rows):
        raise UserError(f"{file} has no fixations: expected one row for each, below the line '{','.join(COLUMNS)}'.")
    stimuli = {name: _stimulus_of(name, sizes) for name in names}
    if unknown := [name for name, stimulus in stimuli.items() if stimulus is None]:
        raise UserError(f"{file} names images that are not in {file.parent / 'stimuli'}: {name_some(unknown)}.")
    order = {name: i for i, name in enumerate(sizes)}
    image = np.array([order[stimulus] for stimulus in stimuli.values() if stimulus is not None])[rows[:, 0].astype(int)]
    _check_inside(file, rows, image, sizes)
    columns = np.column_stack([np.floor(rows[:, 1:3]).astype(np.int64), _observer_numbers(observers, len(rows))])
    by_image = np.argsort(image, kind="stable")
    ends = np.cumsum(np.bincount(image, minlength=len(sizes)))[:-1]
    return dict(zip(sizes, np.split(columns[by_image], ends), strict=True))


def read_fixation_map(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Fixations from a binary map: black, with one other value at fixations.

    Args:
        file: PNG or JPEG; the values of a JPEG are rounded to black or white, because compression blurs them.
        size: height and width of the stimulus.

    Returns:
        int64 (n, 3): x, y and `UNKNOWN_OBSERVER`, row by row of the map.

    Raises:
        UserError: it cannot be read, has another size than the stimulus, or is not binary.
    """
    found = image_size(file, MAP_FORMATS)
    if found != size:
        raise UserError(f"{file} is {found[1]}×{found[0]} pixels, its stimulus {size[1]}×{size[0]}.")
    try:
        with Image.open(file) as image:
            lossy = image.format != "PNG"
            pixels = np.asarray(image if image.mode in ("1", "L", "I;16") else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{file} is damaged: {error}.") from error
    pixels = pixels.max(axis=2) if pixels.ndim == 3 else pixels  # (H, W)
    if not lossy and np.any((pixels != 0) & (pixels != pixels.max())):
        raise UserError(f"{file} is not a binary map: expected black, with one other value at fixations.")
    return lit_pixels(pixels).points


# --- Saliency maps ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blur:
    """The blur that turns fixations into a saliency map.

    Attributes:
        sigma: standard deviation of the Gaussian, in pixels of the image, or in degrees of visual angle if
            `pixels_per_degree` is given. The default is one degree, or `DEFAULT_SHARE` of the image's longer side.
        pixels_per_degree: of the experiment's screen, if one pixel of the image was one of the screen.
    """

    sigma: float | None = None
    pixels_per_degree: float | None = None

    def pixels(self, size: tuple[int, int]) -> float:
        """The standard deviation in pixels of an image of this height and width."""
        if self.pixels_per_degree is not None:
            return (1.0 if self.sigma is None else self.sigma) * self.pixels_per_degree
        return DEFAULT_SHARE * max(size) if self.sigma is None else self.sigma

    def __str__(self) -> str:
        if self.pixels_per_degree is not None:
            return f"{1 if self.sigma is None else self.sigma:g}° at {self.pixels_per_degree:g} pixels per degree"
        return f"{100 * DEFAULT_SHARE:g} % of the longer side" if self.sigma is None else f"{self.sigma:g} pixels"


def blur_fixations(points: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    """The saliency map of fixations: the sum of a Gaussian around each, scaled to a maximum of 255.

    Args:
        points: (n, 2 or more) integers, x and y first; n is at least 1. Repeated fixations are added.
        size: height and width of the image.
        sigma: standard deviation in pixels.

    Returns:
        float32 (H, W), 0 to 255.
    """
    blurred = gaussian_blur(count_map(points[:, 1::-1], size).astype(np.float32), sigma)
    return blurred * (255 / blurred.max())


def make_saliency(folder: Path, blur: Blur | None = None) -> Blur | None:
    """Make the saliency maps of a dataset that has only fixations.

    `folder/saliency/` is made if it is missing, and made again if the fixations, the stimuli or the blur have changed.
    Maps from elsewhere are never changed. The folder is written completely or not at all.

    Args:
        folder: of the dataset; see `read_fixations`.
        blur: None for the blur of the existing maps, or else `Blur()`.

    Returns:
        The blur of the new maps; None if no maps were made.

    Raises:
        UserError: there are neither maps nor fixations, the fixations are invalid (see `read_fixations`), an image
            has none, or maps that were made here have been changed by hand.
    """
    target = folder / "saliency"
    record = target / RECORD
    if not record.exists() and list_images(target, MAP_SUFFIXES):
        if blur not in (None, Blur()):
            raise UserError(
                f"--sigma and --pixels-per-degree make saliency maps from fixations, but {target} has your own maps: "
                f"omit the flags to train with your maps, or move that folder away to make new ones."
            )
        return None
    if not (folder / TABLE).is_file() and not (folder / "fixations").is_dir():
        raise UserError(
            f"No saliency maps in {target}, and no fixations to make them from: expected {folder / TABLE} or the "
            f"folder {folder / 'fixations'}."
        )
    sizes = {name: image_size(file) for name, file in files_by_name(folder / "stimuli").items()}
    if not sizes:
        raise UserError(f"No image in {folder / 'stimuli'}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    made = _read_record(record) if record.exists() else {}
    blur = blur or Blur(made.get("sigma"), made.get("pixels_per_degree"))
    source = _fingerprint_of_source(folder, sizes, blur)
    if made and made["source"] == source:
        return None
    fixations = read_fixations(folder)
    _check_can_be_blurred(fixations, sizes, blur, folder)

    with whole_folder(target) as temporary:

        def write(name: str) -> None:
            file = temporary / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            saliency = blur_fixations(fixations[name], sizes[name], blur.pixels(sizes[name]))
            # The default level takes five times as long, and gains little for smooth images.
            Image.fromarray(np.round(saliency).astype(np.uint8)).save(file, compress_level=1)

        # Each core blurs one image; multithreaded matrix products would only slow this down.
        with threadpool_limits(1, "blas"):
            thread_map(write, fixations, max_workers=cores(), desc="Saliency maps", leave=False, disable=None)
        write_json(temporary / RECORD, {**asdict(blur), "source": source, "maps": _fingerprint_of_maps(temporary)})
    return blur


def blur_of_made_maps(folder: Path) -> dict | None:
    """The blur settings of maps made by `make_saliency`; None for other maps."""
    record = folder / "saliency" / RECORD
    if not record.exists():
        return None
    made = _read_record(record)
    return {key: made.get(key) for key in asdict(Blur())}


def _check_can_be_blurred(fixations: Mapping, sizes: Mapping, blur: Blur, folder: Path) -> None:
    if unseen := [name for name, points in fixations.items() if not len(points)]:
        raise UserError(
            f"No fixation in {folder} on {name_some(unseen)}: a saliency map needs at least one. Remove these images, "
            f"or add their fixations."
        )
    for name, size in sizes.items():
        if blur.pixels(size) > max(size):
            raise UserError(
                f"A sigma of {blur} is wider than the image {name} of {size[1]}×{size[0]} pixels: choose a smaller "
                f"--sigma, or check --pixels-per-degree."
            )


def _read_record(record: Path) -> dict:
    """The record of made maps.

    Raises:
        UserError: the maps have been changed since.
    """
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        if "source" in content and content["maps"] == _fingerprint_of_maps(record.parent):
            return content
    except (ValueError, KeyError, TypeError):
        pass  # The record itself was changed.
    raise UserError(
        f"{record.parent} was made from fixations and has been changed since: delete the folder to make it again, or "
        f"only {record.name} in it to keep the maps as your own."
    )


def _fingerprint_of_source(folder: Path, sizes: Mapping, blur: Blur) -> str:
    """A hash of everything that the maps depend on: names and sizes of the stimuli, the fixations, and the blur."""
    digest = hashlib.sha256(f"{blur} {list(sizes.items())}".encode())
    table = folder / TABLE
    for file in [table] if table.is_file() else list_images(folder / "fixations", MAP_SUFFIXES):
        digest.update(f"\0{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _fingerprint_of_maps(folder: Path) -> str:
    """A hash of the maps' names and sizes in bytes, which is quick and survives copying the folder."""
    files = list_images(folder, MAP_SUFFIXES)
    lines = [f"{file.relative_to(folder).as_posix()} {file.stat().st_size}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# --- Details of reading -----------------------------------------------------------------------------------------------


def _parse(file: Path, reader) -> tuple[list[str], np.ndarray, list[str]]:
    """The images' names; for each fixation the index of its image, x, y and line, float64 (n, 4); and the observers."""
    header = [title.strip().lower() for title in next(reader, [])]
    missing = [title for title in COLUMNS if title not in header]
    if missing:
        raise UserError(
            f"{file} has no column {' and no column '.join(missing)}: expected a first line like "
            f"'image,x,y,observer' (observer may be left out), received '{','.join(header)}'."
        )
    image, x, y = (header.index(title) for title in COLUMNS)
    observer = header.index("observer") if "observer" in header else None
    codes: dict[str, int] = {}
    numbers, observers = array("d"), []
    for row in reader:
        if not row:
            continue
        try:
            code = codes.setdefault(row[image].strip(), len(codes))
            numbers.extend((code, float(row[x]), float(row[y]), reader.line_num))
            if observer is not None:
                observers.append(row[observer].strip())
        except (ValueError, IndexError):
            raise UserError(
                f"{file}, line {reader.line_num}: received '{','.join(row)[:80]}', expected {','.join(header)} with "
                f"numbers for x and y."
            ) from None
    return list(codes), np.frombuffer(numbers).reshape(-1, 4), observers


def _stimulus_of(name: str, sizes: Mapping[str, tuple[int, int]]) -> str | None:
    name = name.replace("\\", "/")
    if name not in sizes and name.lower().endswith(IMAGE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name if name in sizes else None


def _check_inside(file: Path, rows: np.ndarray, image: np.ndarray, sizes: Mapping[str, tuple[int, int]]) -> None:
    height, width = np.array(list(sizes.values()))[image].T
    inside = (rows[:, 1] >= 0) & (rows[:, 1] < width) & (rows[:, 2] >= 0) & (rows[:, 2] < height)  # not for NaN
    if inside.all():
        return
    first = int(np.argmin(inside))
    _, x, y, line = rows[first]
    count = np.count_nonzero(~inside)
    raise UserError(
        f"{file}, line {line:.0f}: x {x:g}, y {y:g} is outside {list(sizes)[image[first]]}, which is "
        f"{width[first]}×{height[first]} pixels with 0, 0 at the top left"
        + (f"; so are {count - 1} more fixations." if count > 1 else ".")
    )


def _observer_numbers(observers: list[str], count: int) -> np.ndarray:
    """Integers are kept; words are numbered in alphabetical order."""
    if not observers:
        return np.full(count, UNKNOWN_OBSERVER)
    try:
        return np.array([int(observer) for observer in observers], np.int64)
    except (ValueError, OverflowError):
        return np.unique(observers, return_inverse=True)[1]
