"""The `crop` phase: the crop of each photograph that keeps the most attention."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ..attention.areas import Area, Union, parse_ratio
from ..attention.crops import crop
from ..attention.density import MEANING, LogDensity
from ..photographs import sample_photograph
from ..utils import UserError, count, name_some
from .questions.area_files import choose_areas
from .questions.clips import crop_clip, names_clip
from .questions.maps import MapOptions, Mapped, answer_all, check_target, find_photographs
from .questions.originals import open_original, save_crop
from .questions.tables import print_table, write_csv

# The printed table: the formats of its cells, by the titles of the columns.
CROPS = {
    "photograph": "{image}",
    "ratio": "{ratio}",
    "box": "{x}, {y}, {width}×{height}",
    "attention kept": "{share:.1%}",
    "by the center crop": "{center_share:.1%}",
}


@dataclass(frozen=True)
class Options(MapOptions):
    """The flags of `crop`, whose help describes them, and all parameters by name."""

    path: Path | None = None
    maps: Path | None = None
    ratio: Sequence[str] = ()
    size: int | None = None
    min_scale: float = 1.0
    keep: Sequence[str] = ()
    areas: Path | None = None
    speed: float = 0.2


def run(options: Options) -> int:
    """Crop, and write `results/crops/`; returns 1 if a photograph failed, else 0."""
    ratios = list(dict.fromkeys(ratio.replace(" ", "") for ratio in options.ratio)) or ["1:1"]
    for ratio in ratios:
        parse_ratio(ratio)
    path = options.path or sample_photograph()
    moving = names_clip(path)
    if moving and (options.maps or options.keep or options.areas or options.size or options.min_scale != 1):
        raise UserError(f"{path} is a clip: --maps, --keep, --areas, --size and --min-scale are for photographs only.")
    photographs = {} if moving else find_photographs(path)
    kept = choose_kept(options, photographs)
    target = check_target(options, "crops")
    if moving:
        return crop_clip(path, ratios, options, target)
    answer = partial(_crop, ratios=ratios, kept=kept, options=options)
    maps = [options.maps] if options.maps else []
    with answer_all(options, target, [photographs], maps, answer) as (folder, answers, record):
        rows = [row for crops in answers for row in crops]
        write_csv(folder / "crops.csv", rows)
        record |= {"path": str(path), "ratios": ratios, "min_scale": options.min_scale, "size": options.size}
        record |= {"keep": list(options.keep), "crops": rows}
    print_table(CROPS, rows)
    print(f"{MEANING}\n{count(len(rows), 'crop')} written to {target}.")
    return 1 if record["failures"] else 0


def choose_kept(options: Options, photographs: Mapping[str, Path]) -> dict[str, Area]:
    """By photograph, the union of the areas that must not be cut; photographs without areas have no entry.

    A `UserError` if an area is unknown or does not fit a photograph.
    """
    found = choose_areas(options.areas, (), photographs) if options.areas else {}
    names = {area for areas in found.values() for area in areas}
    boxes = [text for text in options.keep if text not in names]
    if unknown := [text for text in boxes if ":" not in text]:
        raise UserError(
            f"--keep names the unknown area {name_some(unknown)}, expected one in the file of --areas"
            f"{' (' + name_some(sorted(names)) + ')' if names else ''}, or name:x,y,width,height."
        )
    if options.areas and not options.keep:
        raise UserError("--areas requires --keep here: name the areas that must not be cut, such as --keep face.")
    everywhere = choose_areas(None, boxes, photographs)
    kept: dict[str, Area] = {}
    for name in photographs:
        named = [area for area_name, area in found.get(name, {}).items() if area_name in options.keep]
        parts = [*named, *everywhere.get(name, {}).values()]
        if parts:
            kept[name] = Union(parts)
    return kept


def _crop(
    item: Mapped,
    ratios: Sequence[str],
    kept: Mapping[str, Area],
    options: Options,
    density: LogDensity | None,
    folder: Path,
) -> list[dict]:
    """Write the photograph's crops; returns a row for each."""
    original = open_original(item)
    rows = []
    for ratio in ratios:
        box = crop(item.saliency, ratio, options.min_scale, kept.get(item.name), density)
        file = save_crop(original, box, folder, f"{item.name}_{ratio.replace(':', 'x')}", options.size)
        rows.append({"image": item.name, "ratio": ratio, "file": file, **asdict(box)})
    return rows
