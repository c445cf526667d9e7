"""From what the archives of the datasets hold to fixation maps, saliency maps and one table of fixations.

Each archive has its own format, and each format one small reader: a function from the folder with the unpacked raw
files to the fixations of each image.
"""

import contextlib
import csv
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils import DownloadError, parallel_map, whole_file

UNKNOWN_OBSERVER = -1


class Fixations(NamedTuple):
    """Where people looked in one image.

    Attributes:
        points: int64, (n, 3): x, y and observer of each fixation; 0, 0 is the top left pixel. Archives that hold
            only a map of the fixated pixels give each pixel once, and `UNKNOWN_OBSERVER`.
        size: height and width of the image as the archive says, or None.
    """

    points: np.ndarray
    size: tuple[int, int] | None = None


Reader = Callable[[Path], Mapping[str, Callable[[], Fixations]]]


def convert(stimuli: Mapping[str, Path], folder: Path, raw: Path, reader: Reader, sigma: float | None) -> list[str]:
    """Make `fixations/`, `saliency/` and `fixations.csv` of a dataset. Maps that an earlier run has made stay.

    Args:
        stimuli: the photographs by name.
        folder: of the dataset.
        raw: folder with the raw files that `reader` reads.
        reader: one of `READERS`.
        sigma: of the Gaussian in pixels, or None where the archive has its own saliency maps.

    Returns:
        A sentence for each oddity of the archive.

    Raises:
        DownloadError: a file is damaged, or photographs and fixations are not of the same images.
        OSError: the disk is full, or the folder cannot be written to.
    """
    with _damage_reported(raw):
        fixations = reader(raw)
    _check_names(stimuli, fixations)

    def convert_one(name: str) -> tuple[str, np.ndarray, int, bool]:
        with _damage_reported(raw / name):
            points, size = fixations[name]()
        with _damage_reported(stimuli[name]), Image.open(stimuli[name]) as image:
            width, height = image.size  # As stored: CAT2000's Pattern/134.jpg has a wrong EXIF rotation.
        inside = (points[:, :2] >= 0).all(axis=1) & (points[:, 0] < width) & (points[:, 1] < height)
        write_maps(folder, name, points[inside], (height, width), sigma)
        return name, points[inside], int(np.count_nonzero(~inside)), size not in (None, (height, width))

    outside, resized = 0, []
    with whole_file(folder / "fixations.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "x", "y", "observer"])
        rows = parallel_map(convert_one, sorted(stimuli))
        bar = tqdm(rows, total=len(stimuli), unit="image", desc="Converting", leave=False, disable=None)
        for name, points, count, differs in bar:
            writer.writerows((name, *point) for point in points.tolist())
            outside += count
            resized += [name] if differs else []
    notes = [f"{outside} fixations are outside of their photographs and were left out."] if outside else []
    if resized:
        notes.append(
            f"The archive says another size than that of the photograph for {len(resized)} images, {resized[0]} among "
            f"them; their maps have the photograph's."
        )
    return notes


def write_maps(folder: Path, name: str, points: np.ndarray, size: tuple[int, int], sigma: float | None) -> None:
    """Write an image's binary fixation map, and its saliency map when a Gaussian is given; 8-bit PNG, 0 to 255."""
    from scipy.ndimage import gaussian_filter

    paths = [folder / kind / f"{name}.png" for kind in ("fixations", "saliency")]
    fixations = np.zeros(size, np.uint8)  # (H, W)
    fixations[points[:, 1], points[:, 0]] = 255
    if not _is_there(paths[0]):
        _write_png(paths[0], fixations)
    if sigma and not _is_there(paths[1]):
        # As published, the binary map is blurred: what was fixated twice counts once.
        saliency = gaussian_filter(fixations / 255, sigma)
        _write_png(paths[1], np.round(255 * saliency / max(saliency.max(), 1e-12)).astype(np.uint8))


# --- Readers: one an archive format -----------------------------------------------------------------------------------


def read_salicon(raw: Path) -> dict[str, Callable[[], Fixations]]:
    """`{train,val}/<name>.mat` with the struct `gaze`, one entry an observer, `fixations` = 1-based x, y."""

    def read(path: Path) -> Fixations:
        content = _load_mat(path, "gaze", "resolution")
        observers = [_pairs(entry["fixations"]) - 1 for entry in content["gaze"].ravel()]
        return Fixations(_with_observers(observers), _size(content.get("resolution")))

    return _each_file(raw, read)


def read_cat2000(raw: Path) -> dict[str, Callable[[], Fixations]]:
    """`<category>/<name>.mat` with `fixLocs`, a binary map."""
    return _each_file(raw, lambda path: _lit_pixels(_load_mat(path, "fixLocs")["fixLocs"]))


def read_dutomron(raw: Path) -> dict[str, Callable[[], Fixations]]:
    """`<name>.mat` with `s` (n, 3): the row of observer 0 has the image's width and height, the others 0-based x, y."""

    def read(path: Path) -> Fixations:
        rows = np.asarray(_load_mat(path, "s")["s"]).astype(np.int64)
        rows = rows[rows[:, 2].argsort(kind="stable")]
        return Fixations(rows[1:] - (0, 0, 1), (int(rows[0, 1]), int(rows[0, 0])))

    return _each_file(raw, read)


def read_pascals(raw: Path) -> dict[str, Callable[[], Fixations]]:
    """`pascalFix.mat` and `pascalSize.mat`, MATLAB 7.3: cells of 1-based row, column and observer, image 1 first.

    HDF5 has MATLAB's dimensions in reverse order.
    """
    import h5py

    with h5py.File(raw / "pascalFix.mat", "r") as file:
        cells = [_pascals_cell(file[reference]) for reference in np.ravel(file["fixCell"])]
    with h5py.File(raw / "pascalSize.mat", "r") as file:
        sizes = np.asarray(file["sizeData"]).astype(int).T  # (images, 2)
    return {
        str(i): functools.partial(Fixations, points, (int(size[0]), int(size[1])))
        for i, (points, size) in enumerate(zip(cells, sizes, strict=True), start=1)
    }


def _pascals_cell(cell) -> np.ndarray:
    if cell.attrs.get("MATLAB_empty"):
        return np.zeros((0, 3), np.int64)
    rows = np.asarray(cell).astype(np.int64)  # (2 or 3, n)
    observers = rows[2] - 1 if len(rows) > 2 else np.full(rows.shape[1], UNKNOWN_OBSERVER)
    return np.column_stack([rows[1] - 1, rows[0] - 1, observers])


def read_osie(raw: Path) -> dict[str, Callable[[], Fixations]]:
    """`fixations.mat`: nested cells; the first image is 1001, in each are observers with their `fix_x` and `fix_y`."""

    def read(cell: np.ndarray) -> Fixations:
        observers = []
        for observer in cell["subjects"].item().ravel():
            x, y = (np.ravel(observer[key].item()) for key in ("fix_x", "fix_y"))
            # Truncated, as published.
            observers.append(np.column_stack([x, y]).astype(np.int64))
        return Fixations(_with_observers(observers))

    cells = _load_mat(raw / "fixations.mat", "fixations")["fixations"].ravel()
    return {str(1001 + i): functools.partial(read, cell) for i, cell in enumerate(cells)}


def read_maps(raw: Path) -> dict[str, Callable[[], Fixations]]:
    """Images of the fixated pixels, as MIT1003 and FIWI have them."""

    def read(path: Path) -> Fixations:
        with Image.open(path) as image:
            # One channel: of a transparent image the colour, not the opacity.
            return _lit_pixels(np.asarray(image.convert("RGB").convert("L")))

    return _each_file(raw, read)


READERS: dict[str, Reader] = {
    "salicon": read_salicon,
    "mit1003": read_maps,
    "cat2000": read_cat2000,
    "dutomron": read_dutomron,
    "pascals": read_pascals,
    "osie": read_osie,
    "fiwi": read_maps,
}


# --- What several readers need ----------------------------------------------------------------------------------------


def _each_file(raw: Path, read: Callable[[Path], Fixations]) -> dict[str, Callable[[], Fixations]]:
    """A reader's result where every image has its own file."""
    return {name: functools.partial(read, file) for name, file in by_name(raw).items()}


def by_name(folder: Path) -> dict[str, Path]:
    """The visible files below a folder by their path without suffix."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def _load_mat(path: Path, *names: str) -> dict:
    """Variables of a MATLAB file before version 7.3. Nothing in it is executed."""
    from scipy.io import loadmat

    return loadmat(path, variable_names=names)


def _pairs(values) -> np.ndarray:
    """Coordinates as int64 (n, 2); MATLAB's empty matrix has any shape."""
    values = np.asarray(values)
    return values[:, :2].astype(np.int64) if values.size else np.zeros((0, 2), np.int64)


def _with_observers(observers: list[np.ndarray]) -> np.ndarray:
    """Join the fixations (n, 2) of observers 0, 1, 2 and so on into (sum of n, 3)."""
    numbers = np.repeat(np.arange(len(observers)), [len(points) for points in observers])
    return np.column_stack([np.concatenate([np.zeros((0, 2), np.int64), *observers]), numbers])


def _lit_pixels(image) -> Fixations:
    """The pixels that are brighter than half of the brightest. A JPEG has grey around each fixation."""
    image = image.toarray() if hasattr(image, "toarray") else np.asarray(image)  # MATLAB may store it as sparse.
    y, x = np.nonzero(image > image.max() / 2)
    return Fixations(np.column_stack([x, y, np.full(len(x), UNKNOWN_OBSERVER)]), image.shape)


def _size(resolution) -> tuple[int, int] | None:
    if resolution is None:
        return None
    height, width = np.ravel(resolution)
    return int(height), int(width)


def _check_names(stimuli: Mapping, fixations: Mapping) -> None:
    missing, surplus = sorted(stimuli.keys() - fixations.keys()), sorted(fixations.keys() - stimuli.keys())
    complaints = [f"no fixations for {', '.join(missing[:5])}"] if missing else []
    complaints += [f"no photograph for the fixations of {', '.join(surplus[:5])}"] if surplus else []
    if complaints:
        raise DownloadError(
            f"Photographs and fixations are not of the same images: {'; '.join(complaints)} "
            f"({len(missing)} and {len(surplus)} in all)."
        )


def _is_there(path: Path) -> bool:
    """Whether an earlier run has written the file; an empty one is what a power failure leaves."""
    return path.exists() and path.stat().st_size > 0


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


@contextlib.contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a stranger's file is parsed is the file's fault."""
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DownloadError(f"{path} is damaged, or not in the expected format ({reason}).") from error
