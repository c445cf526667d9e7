"""Areas of photographs from files: CSV, COCO JSON, label images, and the `--area` flag.

Photographs are called by their path below their folder, without suffix, as everywhere in this program.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...attention.areas import Area, Union, check_names, find_pixels
from ...data import list_images
from ...image_files import IMAGE_SUFFIXES, Unreadable, read_header, why_unreadable
from ...listing import files_by_name
from ...utils import UserError, name_some

# By photograph, its areas by name.
AreasByPhotograph = dict[str, dict[str, Area]]

BOX_COLUMNS, POLYGON_COLUMN = ("x", "y", "width", "height"), "polygon"
LABEL_SUFFIXES, LABEL_FORMATS = (".png", ".bmp", ".gif"), ("PNG", "BMP", "GIF")
EXPECTED = "expected a CSV file, a COCO JSON file, or a folder of label images"


def read_areas(path: Path, photographs: Sequence[str]) -> AreasByPhotograph:
    """Areas from a file or folder.

    Args:
        path: a CSV file with the columns image, name, and x, y, width, height or polygon ("x y x y x y"); a COCO JSON
            file; or a folder of label images, called like the photographs, with one gray value for each area and 0
            outside.
        photographs: names of those that there are.

    Returns:
        The areas of each photograph that has any. In COCO, the instances of one category are one area, their union.

    Raises:
        UserError: it cannot be read, holds no area, or names a photograph that does not exist.
    """
    if path.is_dir():
        found = read_labels(path)
    elif not path.exists():
        raise UserError(f"No such file or folder: {path}, {EXPECTED}.")
    elif path.suffix.lower() == ".csv":
        found = read_csv(path)
    elif path.suffix.lower() == ".json":
        found = read_coco(path)
    else:
        raise UserError(f"Received the areas {path}, {EXPECTED}.")
    if not found:
        raise UserError(f"{path} holds no area, {EXPECTED}.")
    known = set(photographs)
    if unknown := [name for name in found if name not in known]:
        raise UserError(f"{path} has areas of photographs that are not there: {name_some(unknown)}.")
    return found


def choose_areas(path: Path | None, flags: Sequence[str], photographs: Mapping[str, Path]) -> AreasByPhotograph:
    """The areas of a file, else those of flags, which every photograph has; checked against the photographs' sizes.

    Raises:
        UserError: an area is not one, or does not fit a photograph; the message names both.
    """
    if path is not None:
        found = read_areas(path, list(photographs))
    else:
        areas = parse_areas(flags)
        found = dict.fromkeys(photographs, areas) if areas else {}
    for name, own in found.items():
        try:
            find_pixels(own, read_header(photographs[name]).size)
        except Unreadable:
            continue  # Reported with the other photographs that cannot be read.
        except UserError as error:
            raise UserError(f"{photographs[name]}: {error}") from error
    return found


def parse_areas(texts: Sequence[str]) -> dict[str, Area]:
    """Areas from the command line, "name:x,y,width,height" in pixels; a `UserError` for anything else."""
    parsed = []
    for text in texts:
        name, _, numbers = text.rpartition(":")
        try:
            x, y, width, height = (float(number) for number in numbers.split(","))
        except ValueError:
            name = ""
        if not name.strip():
            raise UserError(f"Received the area {text!r}, expected name:x,y,width,height, such as button:40,60,120,32.")
        parsed.append((name.strip(), (x, y, width, height)))
    check_names([name for name, _ in parsed])
    return dict(parsed)


# --- CSV --------------------------------------------------------------------------------------------------------------


def read_csv(path: Path) -> AreasByPhotograph:
    """See `read_areas`."""
    found: AreasByPhotograph = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            columns = [(title or "").strip().lower() for title in rows.fieldnames or ()]
            rows.fieldnames = columns
            if not {"image", "name"} <= set(columns) or not (set(BOX_COLUMNS) <= set(columns) or "polygon" in columns):
                raise UserError(
                    f"{path} has the columns '{','.join(columns)}', expected image,name,x,y,width,height or "
                    f"image,name,polygon."
                )
            for row in rows:
                name, area = (row["name"] or "").strip(), _area_of_row(path, rows.line_num, row)
                areas = found.setdefault(_without_suffix(row["image"] or ""), {})
                if not name or name in areas:
                    problem = "an area without a name" if not name else f"a second area {name!r} of {row['image']}"
                    raise UserError(f"{path}, line {rows.line_num}: received {problem}; give each area its own name.")
                areas[name] = area
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({error}): save it as 'CSV UTF-8'.") from error
    return found


def _area_of_row(path: Path, line: int, row: Mapping[str, str | None]) -> Area:
    try:
        if corners := (row.get(POLYGON_COLUMN) or "").strip():
            return np.array(re.split(r"[\s,;]+", corners), float).reshape(-1, 2)
        return tuple(float(row[column] or "") for column in BOX_COLUMNS)
    except (ValueError, KeyError):
        raise UserError(
            f"{path}, line {line}: expected numbers for x, y, width and height, or a polygon like '10 10 90 10 50 60'."
        ) from None


# --- COCO -------------------------------------------------------------------------------------------------------------


def read_coco(path: Path) -> AreasByPhotograph:
    """See `read_areas`."""
    parts: dict[tuple[str, str], list[Area]] = {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        check_names(list(categories.values()))
        for annotation in content["annotations"]:
            image = images[annotation["image_id"]]
            key = _without_suffix(image["file_name"]), categories[annotation["category_id"]]
            parts.setdefault(key, []).append(_area_of_annotation(annotation))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} is not a COCO file ({type(error).__name__}: {error}): expected images, categories, and "
            f"annotations with bbox or segmentation."
        ) from error
    found: AreasByPhotograph = {}
    for (photograph, name), areas in parts.items():
        found.setdefault(photograph, {})[name] = Union(areas) if len(areas) > 1 else areas[0]
    return found


def _area_of_annotation(annotation: Mapping) -> Area:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        return decode_rle(segmentation["counts"], segmentation["size"])
    if segmentation:
        return Union([np.array(corners, float).reshape(-1, 2) for corners in segmentation])
    x, y, width, height = map(float, annotation["bbox"])
    return x, y, width, height


def decode_rle(counts: Sequence[int] | str, size: Sequence[int]) -> np.ndarray:
    """A mask from COCO's run lengths, which go down the columns and begin with the pixels outside.

    Args:
        counts: lengths, or the text that pycocotools makes of them: 5 bits in each character, the lowest first, a sixth
            where more follow; from the fourth on, differences from the length before the last.
        size: height and width.

    Returns:
        bool, (height, width).

    Raises:
        ValueError: the lengths do not add up to the mask's pixels.
    """
    runs = _runs_of_text(counts) if isinstance(counts, str) else list(counts)
    height, width = size
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"run lengths of {sum(runs)} pixels for a mask of {width}×{height}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _runs_of_text(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


# --- Label images -----------------------------------------------------------------------------------------------------


def read_labels(folder: Path) -> AreasByPhotograph:
    """See `read_areas`."""
    found = {}
    for name, file in files_by_name(folder, list_images(folder, LABEL_SUFFIXES)).items():
        try:
            read_header(file, LABEL_FORMATS)
            with Image.open(file) as image:
                labels = np.asarray(image)
        except (OSError, ValueError, SyntaxError, Unreadable) as error:
            why = error if isinstance(error, Unreadable) else why_unreadable(file, error)
            raise UserError(f"{file}: {why}.") from error
        if labels.ndim != 2:
            raise UserError(f"{file} has {labels.shape[2]} channels, expected a grayscale or palette image.")
        if not labels.any():
            raise UserError(f"{file} holds no area: every pixel is 0, which is outside of all areas.")
        found[name] = {str(int(value)): labels == value for value in np.unique(labels) if value}
    return found


def _without_suffix(name: str) -> str:
    name = name.strip().replace("\\", "/")
    return name.rpartition(".")[0] if name.lower().endswith(IMAGE_SUFFIXES) else name
