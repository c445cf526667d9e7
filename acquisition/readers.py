"""Readers: from the raw files of an archive to the fixations of each image.

Each format has one small function. It takes the folder of the unpacked raw files, and returns by image name a function
that reads the image's fixations. `datasets` lists the reader of each dataset.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..listing import files_by_name, list_files

# The observer's number if fixations come without it.
UNKNOWN_OBSERVER = -1


class Fixations(NamedTuple):
    """Where people looked in one image.

    Attributes:
        points: int64, (n, 3): x, y and observer of each fixation; 0, 0 is the top left pixel. If an archive has only a
            map of the fixated pixels, each pixel is listed once, with `UNKNOWN_OBSERVER`.
        size: height and width of the image according to the archive, or None.
    """

    points: np.ndarray
    size: tuple[int, int] | None = None


def lit_pixels(image) -> Fixations:
    """Pixels brighter than half of the maximum, row by row. (JPEGs have gray pixels around each fixation.)"""
    image = image.toarray() if hasattr(image, "toarray") else np.asarray(image)  # MATLAB may store it as sparse.
    y, x = np.nonzero(image > image.max() / 2)
    return Fixations(np.column_stack([x, y, np.full(len(x), UNKNOWN_OBSERVER)]), image.shape)


Reading = Mapping[str, Callable[[], Fixations]]


def read_salicon(raw: Path) -> Reading:
    """`{train,val}/<name>.mat` with the struct `gaze`, one entry per observer, `fixations` = 1-based x, y."""

    def read(path: Path) -> Fixations:
        variables = _load_mat(path, "gaze", "resolution")
        observers = [_pairs(entry["fixations"]) - 1 for entry in variables["gaze"].ravel()]
        return Fixations(_with_observers(observers), _size(variables.get("resolution")))

    return _each_file(raw, read)


def read_cat2000(raw: Path) -> Reading:
    """`<category>/<name>.mat` with `fixLocs`, a binary map."""
    return _each_file(raw, lambda path: lit_pixels(_load_mat(path, "fixLocs")["fixLocs"]))


def read_dutomron(raw: Path) -> Reading:
    """`<name>.mat` with `s` (n, 3): the row of observer 0 has the image's width and height, the others 0-based x, y."""

    def read(path: Path) -> Fixations:
        rows = np.asarray(_load_mat(path, "s")["s"]).astype(np.int64)
        rows = rows[rows[:, 2].argsort(kind="stable")]
        return Fixations(rows[1:] - (0, 0, 1), (int(rows[0, 1]), int(rows[0, 0])))

    return _each_file(raw, read)


def read_pascals(raw: Path) -> Reading:
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


def read_osie(raw: Path) -> Reading:
    """`fixations.mat`: nested cells of images, from 1001 on, and of observers, with `fix_x` and `fix_y`."""

    def read(cell: np.ndarray) -> Fixations:
        observers = []
        for observer in cell["subjects"].item().ravel():
            x, y = (np.ravel(observer[key].item()) for key in ("fix_x", "fix_y"))
            # Truncated, as published.
            observers.append(np.column_stack([x, y]).astype(np.int64))
        return Fixations(_with_observers(observers))

    cells = _load_mat(raw / "fixations.mat", "fixations")["fixations"].ravel()
    return {str(1001 + i): functools.partial(read, cell) for i, cell in enumerate(cells)}


def read_maps(raw: Path) -> Reading:
    """Images of the fixated pixels, as in MIT1003 and FIWI."""

    def read(path: Path) -> Fixations:
        with Image.open(path) as image:
            # For a transparent image, the color and not the opacity.
            return lit_pixels(np.asarray(image.convert("RGB").convert("L")))

    return _each_file(raw, read)


# --- Shared by several readers ----------------------------------------------------------------------------------------


def _each_file(raw: Path, read: Callable[[Path], Fixations]) -> Reading:
    """The result of a reader with one file per image."""
    return {name: functools.partial(read, file) for name, file in files_by_name(raw, list_files(raw)).items()}


def _load_mat(path: Path, *names: str) -> dict:
    """Variables of a MATLAB file older than version 7.3. Nothing in it is executed."""
    from scipy.io import loadmat

    return loadmat(path, variable_names=names)


def _pairs(values) -> np.ndarray:
    """Coordinates as int64 (n, 2); MATLAB's empty matrix has any shape."""
    values = np.asarray(values)
    return values[:, :2].astype(np.int64) if values.size else np.zeros((0, 2), np.int64)


def _with_observers(observers: list[np.ndarray]) -> np.ndarray:
    """Join the fixations (n, 2) of observers 0, 1, 2, ... into (sum of n, 3)."""
    numbers = np.repeat(np.arange(len(observers)), [len(points) for points in observers])
    return np.column_stack([np.concatenate([np.zeros((0, 2), np.int64), *observers]), numbers])


def _size(resolution) -> tuple[int, int] | None:
    if resolution is None:
        return None
    height, width = np.ravel(resolution)
    return int(height), int(width)
