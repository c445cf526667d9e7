"""Fixations of a dataset: read from its files, and blurred into saliency maps if it has none.

A dataset's fixations are in `fixations.csv`, one row per fixation, or in `fixations/`, one binary map per image. The
table is used if both exist, because it keeps observers and repeated fixations.
"""

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from ..acquisition.convert import gaussian_blur
from ..acquisition.datasets import is_unpacked
from ..acquisition.readers import lit_pixels, read_salicon
from ..data import files_by_name, list_images, not_maps, other_size, part
from ..image_files import (
    IMAGE_SUFFIXES,
    JPEG_SUFFIXES,
    MAP_FORMATS,
    MAP_SUFFIXES,
    STORED,
    UPRIGHT,
    image_size,
    read_gray,
)
from ..progress import ProgressBar
from ..utils import UserError, name_some, parallel_map, whole_folder, write_json
from .metrics import count_map
from .table import MAX_DROPPED, TABLE, read_table

# A map with a larger share of fixated pixels is inverted.
MOST_LIT = 0.5

# The file in `saliency/` that marks maps made here, which may be replaced, unlike the user's own.
RECORD = "made_from_fixations.json"

# Standard deviation of the blur relative to an image's longer side, if nothing is known about the experiment:
# 16 pixels at 800×600, the choice of OSIE's authors.
DEFAULT_SHARE = 0.02


def read_fixations(folder: Path, orientation: str = STORED, max_dropped: float = MAX_DROPPED) -> dict[str, np.ndarray]:
    """Every fixation of a dataset, from `folder/fixations.csv` or the binary maps in `folder/fixations/`.

    `orientation` is that of the images, see `data.Sample`; for `max_dropped` see `read_table`.

    Returns:
        For each stimulus, by name (as in `data.Sample`) and in order: int64 (n, 3) with x, y and observer, one row per
        fixation in the order of the file. The top left pixel is 0, 0. n is 0 for an image without fixations.

    Raises:
        UserError: neither exists, or the files cannot be read or do not match the stimuli.
    """
    stimuli = files_by_name(part(folder, "stimuli"))
    if (folder / TABLE).is_file():
        return _read_table(folder / TABLE, stimuli, orientation, max_dropped)
    if not (folder / "fixations").is_dir():
        raise UserError(f"No fixations in {folder}: expected {folder / TABLE} or the folder {folder / 'fixations'}.")
    if is_unpacked(folder):
        return _read_unpacked(folder, stimuli)
    maps = files_by_name(folder / "fixations", MAP_SUFFIXES)
    if missing := [name for name in stimuli if name not in maps]:
        notes = "".join(f" {note}." for note in not_maps(folder / "fixations"))
        raise UserError(f"No fixation map in {folder / 'fixations'} for {name_some(missing)}.{notes}")
    if surplus := [name for name in maps if name not in stimuli]:
        raise UserError(f"No image in {folder / 'stimuli'} for the fixation maps {name_some(surplus)}.")
    return {name: read_fixation_map(maps[name], file, orientation) for name, file in stimuli.items()}


def _sizes(stimuli: Mapping[str, Path], orientation: str) -> dict[str, tuple[int, int]]:
    return {name: image_size(file, orientation=orientation) for name, file in stimuli.items()}


def _read_table(file: Path, stimuli: Mapping[str, Path], orientation: str, max_dropped: float) -> dict[str, np.ndarray]:
    sizes = _sizes(stimuli, orientation)
    try:
        return read_table(file, sizes, max_dropped)
    except UserError as error:
        stored = _sizes(stimuli, STORED)
        if stored == sizes:
            raise
        try:
            read_table(file, stored, 0)
        except UserError:
            raise error from None
        raise UserError(
            f"{error} All of them are inside the photographs as stored, which their EXIF orientation turns: turn the "
            f"fixations too, or pass --orientation stored."
        ) from error


def _read_unpacked(folder: Path, stimuli: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """The fixations of SALICON's own archives, from the .mat files; its test photographs have none."""
    readers = read_salicon(folder / "fixations")
    if missing := [name for name in stimuli if name not in readers and not name.startswith("test/")]:
        raise UserError(f"No fixations in {folder / 'fixations'} for {name_some(missing)}.")

    def read(name: str) -> np.ndarray:
        points, (height, width) = readers[name]().points, image_size(stimuli[name], orientation=STORED)
        return points[(points[:, :2] >= 0).all(axis=1) & (points[:, 0] < width) & (points[:, 1] < height)]

    names = [name for name in stimuli if name in readers]
    return dict(zip(names, parallel_map(read, names), strict=True))


def read_fixation_map(file: Path, stimulus: Path, orientation: str = STORED) -> np.ndarray:
    """Fixations from a binary map: black, with one other value at fixations.

    The values of a JPEG are rounded to black or white, because compression blurs them. Returns int64 (n, 3): x, y and
    `UNKNOWN_OBSERVER`, row by row of the map. A `UserError` if it is not such a map of the stimulus's size.
    """
    found, size = image_size(file, MAP_FORMATS, STORED), image_size(stimulus, orientation=orientation)
    if found != size:
        raise UserError(f"{other_size(file, found, stimulus, size)}.")
    try:
        pixels = read_gray(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{file} is damaged: {error}.") from error
    lossy = file.suffix.lower() in JPEG_SUFFIXES
    if not lossy and np.any((pixels != 0) & (pixels != pixels.max())):
        raise UserError(f"{file} is not a binary map: expected black, with one other value at fixations.")
    points = lit_pixels(pixels).points
    if len(points) > MOST_LIT * pixels.size:
        raise UserError(
            f"{file} has fixations at {len(points) / pixels.size:.0%} of its pixels, so it looks black on white: "
            f"invert it, to white on black."
        )
    return points


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
    """The saliency map of fixations: the sum of a Gaussian of `sigma` pixels around each, scaled to a maximum of 255.

    From integers, (n, 2 or more), x and y first, with n at least 1, to float32 (H, W). Repeated fixations are added.
    """
    blurred = gaussian_blur(count_map(points[:, 1::-1], size).astype(np.float32), sigma)
    return blurred * (255 / blurred.max())


def make_saliency(
    folder: Path, blur: Blur | None = None, orientation: str = UPRIGHT, max_dropped: float = MAX_DROPPED
) -> Blur | None:
    """Make the saliency maps of a dataset that has only fixations, see `read_fixations`, and print their blur.

    `folder/saliency/` is made if it is missing, and made again if the fixations, the stimuli or the blur have changed.
    Maps from elsewhere are never changed. The folder is written completely or not at all.

    Returns:
        The blur of the new maps, that of the existing ones or `Blur()` by default; None if no maps were made.

    Raises:
        UserError: there are neither maps nor valid fixations of each image, or maps that were made here were changed.
    """
    target = part(folder, "saliency")
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
    sizes = _sizes(files_by_name(part(folder, "stimuli")), orientation)
    if not sizes:
        raise UserError(f"No image in {folder / 'stimuli'}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    made = _read_record(record) if record.exists() else {}
    blur = blur or Blur(made.get("sigma"), made.get("pixels_per_degree"))
    source = _fingerprint_of_source(folder, sizes, blur)
    if made and made["source"] == source:
        return None
    fixations = read_fixations(folder, orientation, max_dropped)
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
            written = parallel_map(write, fixations)
            deque(ProgressBar(written, total=len(fixations), desc="Saliency maps", unit="map"), maxlen=0)
        write_json(temporary / RECORD, {**asdict(blur), "source": source, "maps": _fingerprint_of_maps(temporary)})
    print(f"Made saliency maps from the fixations, with a sigma of {blur}: {target}.")
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
    """The record of made maps; a `UserError` if the maps have been changed since."""
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
