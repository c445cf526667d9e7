"""Fixations of a dataset: read from its files, and blurred into saliency maps where it has none.

A dataset's fixations are in `fixations.csv`, one row a fixation, or else in `fixations/`, one binary map an image. The
table is the richer of the two, as it keeps observers and repeated fixations; where both exist it counts.
"""

import csv
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from data import IMAGE_SUFFIXES, MAP_FORMATS, MAP_SUFFIXES, files_by_name, image_size
from utils import UserError

TABLE = "fixations.csv"
COLUMNS = ("image", "x", "y")  # and, where known, "observer"

# In place of an observer's number where fixations come without it.
UNKNOWN_OBSERVER = -1


def read_fixations(folder: Path) -> dict[str, np.ndarray]:
    """Every fixation of a dataset, from `folder/fixations.csv` or else from the binary maps in `folder/fixations/`.

    Args:
        folder: of the dataset; `stimuli/` in it says which images there are, and their sizes.

    Returns:
        For each stimulus, by its name (as in `data.Sample`) and in their order: int64 (n, 3) with x, y and observer, a
        row for each fixation in the order of the file. x and y are pixels from the top left one, which is 0, 0. n is
        0 for an image that nobody looked at.

    Raises:
        UserError: neither exists, or one that does cannot be read or does not fit to the stimuli.
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
    return {name: read_map(maps[name], image_size(file)) for name, file in stimuli.items()}


def read_table(file: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Fixations from a CSV file with the columns image, x, y and, if known, observer.

    Args:
        file: UTF-8; `image` is the stimulus' name, with or without its suffix; x and y may be fractions of a pixel;
            observers are numbers, or any words.
        sizes: height and width of each stimulus by its name.

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
        raise UserError(f"{file} holds no fixation: expected a row for each, below the line '{','.join(COLUMNS)}'.")
    names = {name: _stimulus_of(name, sizes) for name in names}
    if unknown := [name for name, stimulus in names.items() if stimulus is None]:
        raise UserError(f"{file} names images that are not in {file.parent / 'stimuli'}: {name_some(unknown)}.")
    order = {name: i for i, name in enumerate(sizes)}
    image = np.array([order[stimulus] for stimulus in names.values()])[rows[:, 0].astype(int)]
    _check_inside(file, rows, image, sizes)
    columns = np.column_stack([np.floor(rows[:, 1:3]).astype(np.int64), _observer_numbers(observers, len(rows))])
    by_image = np.argsort(image, kind="stable")
    ends = np.cumsum(np.bincount(image, minlength=len(sizes)))[:-1]
    return dict(zip(sizes, np.split(columns[by_image], ends), strict=True))


def read_map(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Fixations from a binary map: black, and of one other value where somebody looked.

    Args:
        file: PNG or JPEG; a JPEG's values are rounded to black or white, as its compression blurs them.
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
    greatest = pixels.max()
    looked_at = pixels > greatest // 2
    if not lossy and np.any(pixels[looked_at] != greatest) | np.any(pixels[~looked_at] != 0):
        raise UserError(f"{file} is not a binary map: expected black, and one other value where somebody looked.")
    y, x = np.nonzero(looked_at)
    return np.column_stack([x, y, np.full(len(x), UNKNOWN_OBSERVER)])


def name_some(names: list[str], most: int = 5) -> str:
    """A list of names for a sentence, cut after a few."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _parse(file: Path, reader) -> tuple[list[str], np.ndarray, list[str]]:
    """The images' names; for each fixation float64 (n, 4) index of its image, x, y, line; and the observers."""
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
        f"{width[first]}×{height[first]} pixels and begins with 0, 0 at the top left"
        + (f"; so are {count - 1} more fixations." if count > 1 else ".")
    )


def _observer_numbers(observers: list[str], count: int) -> np.ndarray:
    """Whole numbers stay; words are numbered in their alphabetical order."""
    if not observers:
        return np.full(count, UNKNOWN_OBSERVER)
    try:
        return np.array([int(observer) for observer in observers], np.int64)
    except (ValueError, OverflowError):
        return np.unique(observers, return_inverse=True)[1]
