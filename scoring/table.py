"""Tables of fixations as people have them: the exports of eye trackers and spreadsheets."""

import csv
import unicodedata
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..acquisition.readers import UNKNOWN_OBSERVER
from ..config import PARAMS
from ..image_files import IMAGE_SUFFIXES
from ..utils import UserError, name_some, print_once

TABLE = "fixations.csv"
COLUMNS = ("image", "x", "y")  # and, if known, one of:
OBSERVER_COLUMNS = ("observer", "subject", "participant")

# How the exports of eye trackers write a position that is not known, such as during a blink.
MISSING = ("", ".", "-", "nan", "na", "n/a", "null", "none")

MAX_DROPPED = PARAMS["max_dropped"].value

# A table with a larger share of positions from 0 to 1 is normalized: in pixels, few are in the top left corner.
MOST_IN_CORNER = 0.9


def read_table(
    file: Path, sizes: Mapping[str, tuple[int, int]], max_dropped: float = MAX_DROPPED
) -> dict[str, np.ndarray]:
    """Fixations from a CSV file with the columns image, x, y and, if known, observer, as of `read_fixations`.

    Args:
        file: UTF-8; `image` is the name of the stimulus, with or without suffix; x and y may be fractions of a pixel;
            observers are numbers or words, in a column of `OBSERVER_COLUMNS`.
        sizes: height and width of each stimulus by name.
        max_dropped: the largest share of fixations outside their images, or without a position, that is dropped, with
            a line that counts them.
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
    inside = _find_inside(file, rows, image, sizes, max_dropped)
    rows, image = rows[inside], image[inside]
    observers = [name for name, kept in zip(observers, inside, strict=True) if kept] if observers else []
    columns = np.column_stack([np.floor(rows[:, 1:3]).astype(np.int64), _observer_numbers(observers, len(rows))])
    by_image = np.argsort(image, kind="stable")
    ends = np.cumsum(np.bincount(image, minlength=len(sizes)))[:-1]
    return dict(zip(sizes, np.split(columns[by_image], ends), strict=True))


def _parse(file: Path, reader) -> tuple[list[str], np.ndarray, list[str]]:
    """The images' names; for each fixation the index of its image, x, y and line, float64 (n, 4); and the observers."""
    header = [title.strip().lower() for title in next(reader, [])]
    missing = [title for title in COLUMNS if title not in header]
    if missing:
        raise UserError(
            f"{file} has no column {' and no column '.join(missing)}: expected a first line like "
            f"'image,x,y,observer' (observer may be left out), separated by commas, received '{','.join(header)}'."
        )
    image, x, y = (header.index(title) for title in COLUMNS)
    observer = next((header.index(title) for title in OBSERVER_COLUMNS if title in header), None)
    codes: dict[str, int] = {}
    numbers, observers = array("d"), []
    for row in reader:
        if not row:
            continue
        try:
            code = codes.setdefault(row[image].strip(), len(codes))
            numbers.extend((code, _position(row[x]), _position(row[y]), reader.line_num))
            if observer is not None:
                observers.append(row[observer].strip())
        except (ValueError, IndexError):
            raise UserError(
                f"{file}, line {reader.line_num}: received '{','.join(row)[:80]}', expected {','.join(header)} with "
                f"numbers for x and y."
            ) from None
    return list(codes), np.frombuffer(numbers).reshape(-1, 4), observers


def _position(text: str) -> float:
    return float("nan") if text.strip().lower() in MISSING else float(text)


def _stimulus_of(name: str, sizes: Mapping[str, tuple[int, int]]) -> str | None:
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    if name not in sizes and name.lower().endswith(IMAGE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name if name in sizes else None


def _find_inside(
    file: Path, rows: np.ndarray, image: np.ndarray, sizes: Mapping[str, tuple[int, int]], max_dropped: float
) -> np.ndarray:
    """Which fixations are inside their images, (n,) bool; a line says how many others are dropped.

    A `UserError` if there are too many others, or if the positions are normalized.
    """
    height, width = np.array(list(sizes.values()))[image].T
    x, y = rows[:, 1], rows[:, 2]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # not for NaN
    corner = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
    if corner.sum() > MOST_IN_CORNER * np.isfinite(x + y).sum() and np.any(rows[corner, 1:3] % 1):
        raise UserError(
            f"{file} has positions from 0 to 1, so they look normalized, expected pixels with 0, 0 at the top left: "
            f"multiply x by each image's width and y by its height."
        )
    if inside.all():
        return inside
    first = int(np.argmin(inside))
    dropped = np.count_nonzero(~inside)
    what = (
        f"{dropped} of {len(rows)} fixations ({dropped / len(rows):.1%}) are outside their images or have no position"
    )
    if dropped > max_dropped * len(rows):
        raise UserError(
            f"{file}: {what}, the first in line {rows[first, 3]:.0f}: x {x[first]:g}, y {y[first]:g} in "
            f"{list(sizes)[image[first]]}, which is {width[first]}×{height[first]} pixels with 0, 0 at the top left. "
            f"Correct the table, or raise --max-dropped, which is {max_dropped:g}."
        )
    print_once(f"{file}: {what}, and were dropped.")
    return inside


def _observer_numbers(observers: list[str], count: int) -> np.ndarray:
    """Integers are kept; words are numbered in alphabetical order."""
    if not observers:
        return np.full(count, UNKNOWN_OBSERVER)
    try:
        return np.array([int(observer) for observer in observers], np.int64)
    except (ValueError, OverflowError):
        return np.unique(observers, return_inverse=True)[1]
