"""The `regions` phase: what share of attention areas of photographs receive, or where attention gathers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..attention.areas import Area, find_pixels, overlaps
from ..attention.density import MEANING, LogDensity
from ..attention.hot_spots import Gathering, hot_spots
from ..attention.regions import Region, measure, totals
from ..photographs import sample_photograph
from ..utils import UserError, count, name_some
from .questions import outlines
from .questions.area_files import choose_areas
from .questions.clips import names_clip, regions_of_clip
from .questions.maps import (
    MapOptions,
    Mapped,
    answer_all,
    check_target,
    find_photographs,
    read_photograph,
    save_picture,
)
from .questions.tables import print_table, print_totals, write_csv

# The printed tables: the formats of their cells, by the titles of the columns.
AREAS = {
    "photograph": "{image}",
    "area": "{name}",
    "share of area": "{share_of_area:.1%}",
    "share of attention": "{share_of_attention:.1%}",
    "90 % interval": "{low:.0%} to {high:.0%}",
    "lift": "{lift:.2f}",
    "over center bias": "{lift_over_center_bias:.2f}",
    "rank": "{rank}",
}
SPOTS = {
    "photograph": "{image}",
    "hot spot": "{rank}",
    "x": "{x:.0f}",
    "y": "{y:.0f}",
    "radius": "{radius:.0f}",
    "share of attention": "{share:.1%}",
}
PHOTOGRAPHS = {
    "photograph": "{image}",
    "center x": "{center_x:.0f}",
    "center y": "{center_y:.0f}",
    "spread": "{spread:.1%}",
    "focus": "{focus:.1%}",
}


@dataclass(frozen=True)
class Options(MapOptions):
    """The flags of `regions`, whose help describes them, and all parameters by name."""

    path: Path | None = None
    maps: Path | None = None
    areas: Path | None = None
    area: tuple[str, ...] = ()
    spots: int = 5
    every: int = 1
    fps: float | None = None
    smooth: float = 0


def run(options: Options) -> int:
    """Measure areas or find hot spots, and write `results/regions/`; returns 1 if a photograph failed, else 0."""
    path = options.path or sample_photograph()
    moving = names_clip(path)
    photographs = {path.stem: path} if moving else find_photographs(path)
    areas = choose_areas(options.areas, options.area, photographs)
    if moving and (options.maps or not areas):
        raise UserError(f"{path} is a clip: name areas with --area or --areas, and leave out --maps.")
    target = check_target(options, "regions")
    if moving:
        return regions_of_clip(path, areas[path.stem], options, target)
    chosen = {name: file for name, file in photographs.items() if name in areas} if areas else photographs
    answer = partial(_measure_areas, areas=areas) if areas else partial(_find_spots, count=options.spots)
    write = _write_areas if areas else _write_spots
    maps = [options.maps] if options.maps else []
    with answer_all(options, target, [chosen], maps, answer) as (folder, answers, record):
        record |= {"path": str(path), **write(folder, answers)}
    if skipped := len(photographs) - len(chosen):
        print(f"{count(skipped, 'photograph')} without areas skipped.")
    print(f"{MEANING}\n{count(len(answers), 'photograph')} measured; see {target}.")
    return 1 if record["failures"] else 0


# --- Areas ------------------------------------------------------------------------------------------------------------


def _measure_areas(
    item: Mapped, areas: Mapping[str, Mapping[str, Area]], density: LogDensity | None, folder: Path
) -> tuple[str, list[Region], list[tuple[str, str, int]]]:
    """The photograph's name, its rows, and which of its areas overlap; the picture is written."""
    photograph = read_photograph(item)
    pixels = find_pixels(areas[item.name], item.saliency.shape)
    rows = measure(item.saliency, pixels, density)
    shares = {row.name: row.share_of_attention for row in rows}
    save_picture(outlines.draw_areas(photograph, pixels, shares), folder, item.name)
    return item.name, rows, overlaps(pixels)


def _write_areas(folder: Path, answers: list) -> dict[str, Any]:
    """Write and print the table of areas; returns what the record says."""
    rows = [{"image": name, **asdict(row)} for name, regions, _ in answers for row in regions]
    means = [asdict(mean) for mean in totals(row for _, regions, _ in answers for row in regions)]
    shared = [
        {"image": name, "area": first, "other": second, "pixels": pixels}
        for name, _, pairs in answers
        for first, second, pixels in pairs
    ]
    write_csv(folder / "regions.csv", rows)
    write_csv(folder / "totals.csv", means)
    print_table(AREAS, rows)
    if len(answers) > 1:
        print("\nMeans over the photographs that have the area:")
        print_totals(means, "photographs")
    if shared:
        pairs = [f"{row['area']} and {row['other']} ({row['pixels']} pixels of {row['image']})" for row in shared]
        print(f"Some areas overlap, so their shares do not add up: {name_some(pairs, '; ', 3)}.")
    return {"areas": rows, "totals": means, "overlaps": shared}


# --- Hot spots --------------------------------------------------------------------------------------------------------


def _find_spots(item: Mapped, count: int, density: LogDensity | None, folder: Path) -> tuple[str, Gathering]:
    """The photograph's name and where its attention gathers; the picture is written."""
    photograph = read_photograph(item)
    found = hot_spots(item.saliency, count, density)
    save_picture(outlines.draw_spots(photograph, found.spots), folder, item.name)
    return item.name, found


def _write_spots(folder: Path, answers: list) -> dict[str, Any]:
    """Write and print the table of hot spots; returns what the record says."""
    spots = [
        {"image": name, "rank": i + 1, **asdict(spot)} for name, found in answers for i, spot in enumerate(found.spots)
    ]
    whole = [
        {"image": name, **{key: value for key, value in asdict(found).items() if key != "spots"}}
        for name, found in answers
    ]
    write_csv(folder / "hot_spots.csv", spots)
    write_csv(folder / "photographs.csv", whole)
    print_table(SPOTS, spots)
    print()
    print_table(PHOTOGRAPHS, whole)
    return {"photographs": whole, "hot_spots": spots}
