"""The `compare` phase: how attention differs between two pictures, such as two versions of a design."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..attention.areas import find_pixels
from ..attention.compare import Comparison, compare
from ..attention.density import MEANING, LogDensity
from ..attention.hot_spots import hot_spots
from ..utils import UserError, count, name_some
from .questions import outlines
from .questions.area_files import AreasByPhotograph, choose_areas
from .questions.maps import (
    MapOptions,
    Mapped,
    answer_all,
    check_target,
    find_photographs,
    read_photograph,
    save_picture,
)
from .questions.tables import print_table, write_csv

# Grids that are printed; the files have all.
MOST_GRIDS = 5

# The printed table: the formats of its cells, by the titles of the columns.
AREAS = {
    "picture": "{image}",
    "area": "{name}",
    "first": "{first_share:.1%}",
    "second": "{second_share:.1%}",
    "difference in points": "{difference}",
    "90 % interval": "{low} to {high}",
}


@dataclass(frozen=True)
class Options(MapOptions):
    """The flags of `compare`, whose help describes them, and all parameters by name."""

    first: Path = Path()
    second: Path = Path()
    maps: Sequence[Path] | None = None
    areas: Path | None = None
    area: Sequence[str] = ()
    fail_below: Sequence[tuple[str, float]] = ()


def run(options: Options) -> int:
    """Compare, and write `results/compare/`.

    Returns:
        The exit status: 1 if an area has less attention than `fail_below` demands, or a picture failed, else 0.
    """
    first, second = find_pairs(options.first, options.second)
    areas = choose_pairs_of_areas(options, first, second)
    target, maps, answer = check_target(options, "compare"), options.maps or (), partial(_compare, areas=areas)
    with answer_all(options, target, [first, second], maps, answer) as (folder, answers, record):
        tables = _rows(answers)
        for name, rows in tables.items():
            if rows:
                write_csv(folder / f"{name}.csv", rows)
        _print(answers, tables["areas"])
        misses = find_misses(options.fail_below, tables["areas"])
        record |= {"first": str(options.first), "second": str(options.second), **tables, "misses": misses}
    print(f"{MEANING}\n{count(len(answers), 'pair')} compared; see {target}.")
    for miss in misses:
        print(f"failed: {miss}", file=sys.stderr)
    return 1 if misses or record["failures"] else 0


def find_pairs(first: Path, second: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The first and the second picture of each pair by the same name: that of the first.

    A `UserError` if only one of the two is a folder, or a picture has no partner.
    """
    if first.is_dir() != second.is_dir():
        raise UserError(f"Received {first} and {second}, expected two pictures or two folders.")
    before, after = find_photographs(first), find_photographs(second)
    if not first.is_dir():
        return before, dict(zip(before, after.values(), strict=True))
    if unpaired := sorted(before.keys() ^ after.keys()):
        raise UserError(
            f"Only one of {first} and {second} has {name_some(unpaired)}: expected pictures with equal names in both."
        )
    return before, {name: after[name] for name in before}


def choose_pairs_of_areas(
    options: Options, first: Mapping[str, Path], second: Mapping[str, Path]
) -> tuple[AreasByPhotograph, AreasByPhotograph]:
    """The areas of the first and of the second pictures, by the names of the first; those of one are those of both.

    Raises:
        UserError: see `choose_areas`; or `fail_below` names an area that does not exist.
    """
    found = choose_areas(options.areas, options.area, {**{file.stem: file for file in second.values()}, **first})
    before, after = {}, {}
    for name, file in second.items():
        # Of two single pictures, the second may have another name.
        own = [found[key] for key in dict.fromkeys((name, file.stem)) if key in found]
        if own:
            before[name], after[name] = own[0], own[-1]
    names = {area for areas in after.values() for area in areas}
    if unknown := sorted({area for area, _ in options.fail_below} - names):
        raise UserError(
            f"--fail-below names the area {name_some(unknown)}, expected one of those given with --areas or --area"
            f"{': ' + name_some(sorted(names)) if names else ''}."
        )
    return before, after


def find_misses(limits: Sequence[tuple[str, float]], areas: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each row of the table of areas with a lower percentage in the second picture than demanded."""
    return [
        f"{row['name']} in {row['image']} has {100 * row['second_share']:.2f} % of the attention, expected at least "
        f"{limit:g} %."
        for name, limit in limits
        for row in areas
        if row["name"] == name and 100 * row["second_share"] < limit
    ]


def _compare(
    first: Mapped,
    second: Mapped,
    areas: tuple[AreasByPhotograph, AreasByPhotograph],
    density: LogDensity | None,
    folder: Path,
) -> tuple[str, Comparison]:
    """The pair's name and how its pictures differ; the picture of both is written."""
    own = [by_name.get(first.name, {}) for by_name in areas]
    pictures = [read_photograph(item) for item in (first, second)]
    found = compare(first.saliency, second.saliency, own[0], own[1], density)
    drawn = []
    for i, item in enumerate((first, second)):
        if own[i]:
            shares = {row.name: (row.first_share, row.second_share)[i] for row in found.areas}
            drawn.append(outlines.draw_areas(pictures[i], find_pixels(own[i], item.saliency.shape), shares))
        else:
            drawn.append(outlines.draw_spots(pictures[i], hot_spots(item.saliency, density=density).spots))
    save_picture(outlines.side_by_side(*drawn), folder, first.name)
    return first.name, found


def _rows(answers: Sequence[tuple[str, Comparison]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the tables: of areas, of the grid's cells, and of the peaks."""
    areas = [{"image": name, **asdict(row)} for name, found in answers for row in found.areas]
    grid = [
        {"image": name, "row": i + 1, "column": j + 1, "difference": float(found.grid[i, j])}
        for name, found in answers
        for i, j in np.ndindex(*found.grid.shape)
    ]
    columns = ("image", "first_x", "first_y", "second_x", "second_y", "movement")
    peaks = [
        dict(zip(columns, (name, *found.first_peak, *found.second_peak, found.movement), strict=True))
        for name, found in answers
    ]
    return {"areas": areas, "grid": grid, "peaks": peaks}


def _print(answers: Sequence[tuple[str, Comparison]], areas: Sequence[Mapping[str, Any]]) -> None:
    if areas:
        formatted = [{**row, **{key: points(row[key]) for key in ("difference", "low", "high")}} for row in areas]
        print_table(AREAS, formatted)
        print()
    for name, found in answers[:MOST_GRIDS]:
        moved = f"{100 * found.movement:.1f} %"
        print(f"{name}: the peak moved by {moved} of the diagonal; differences of a 3×3 grid in points:")
        for cells in found.grid:
            print("".join(f"{points(cell):>8}" for cell in cells))


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"
