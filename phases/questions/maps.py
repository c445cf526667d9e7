"""Photographs and their saliency maps, predicted or existing, for the phases that answer questions about them."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ...attention.density import DOMAIN, MEANING, LogDensity, Reduced
from ...attention.errors import COVERAGE
from ...attention.measured import MEASURED
from ...data import list_images
from ...image_files import MAP_SUFFIXES, Unreadable, read_header
from ...listing import files_by_name
from ...photographs import find_images
from ...progress import ProgressBar
from ...utils import (
    UserError,
    check_replaceable,
    check_writable,
    name_some,
    only_python_on_stderr,
    parallel_map,
    quiet_stderr,
    whole_folder,
    write_record,
)

# Limits memory: a pixel of a map takes up to 60 bytes while a question is answered.
PIXELS_IN_FLIGHT = 24_000_000

# Longer sides of pictures are reduced to this.
PICTURE_SIDE = 4096


@dataclass(frozen=True)
class MapOptions:
    """The flags that say where maps come from, and all parameters by name; each question adds its own flags."""

    params: dict
    data: str = "salicon"
    weights: str | None = None
    input_size: tuple[int, int] | str | None = None
    mirrored: bool = False
    density: Path | None = None


class Mapped(NamedTuple):
    """A photograph and its saliency map, float (H, W), or the reason why there is none, in a few words."""

    name: str
    file: Path
    saliency: Any = None
    error: str = ""


def find_photographs(path: Path) -> dict[str, Path]:
    """The photographs that a path names, by their path below it without suffix; see `photographs.find_images`."""
    return files_by_name(path if path.is_dir() else path.parent, find_images([path]).images)


def load_density(options: MapOptions) -> LogDensity | None:
    if options.density is None:
        return None
    from ...scoring.fitted import FittedDensity

    return Reduced(FittedDensity.load(options.density))


def check_target(options: MapOptions, name: str) -> Path:
    """The folder of a run, `results/<name>`, whose record is `<name>.json`.

    Raises:
        UserError: it cannot be written, or has other files.
    """
    results = Path(options.params["results"])
    target = results / name
    check_replaceable(target, f"{name}.json")
    check_writable(results)
    return target


@contextlib.contextmanager
def answer_all(
    options: MapOptions,
    target: Path,
    sides: Sequence[Mapping[str, Path]],
    maps: Sequence[Path],
    answer: Callable[..., Any],
) -> Iterator[tuple[Path, list, dict]]:
    """Answer a question about every photograph, or about every pair, and write the folder of the run.

    Args:
        options: where maps come from.
        target: see `check_target`.
        sides: the photographs, or the first and the second ones of pairs, by name.
        maps: existing maps for each of the sides; empty to predict them.
        answer: a function of one `Mapped` of each side, `density` and `folder`; it may write pictures into the folder.

    Yields:
        The folder, for tables; the answers; and the record, to complete, which lists the failed photographs.
    """
    density = load_density(options)
    if maps:
        mapped = [existing_maps(path, side, options) for path, side in zip(maps, sides, strict=True)]
        source = {"maps": str(maps[0]) if len(maps) == 1 else list(map(str, maps))}
    else:
        network = load_network(options)
        mapped = [predicted_maps(network, side, options) for side in sides]
        source = network.record()
    with whole_folder(target) as folder:
        rows = zip(*mapped, strict=True)
        answers, failures = _answer_each(rows, len(sides[0]), partial(answer, density=density, folder=folder))
        record = describe(options, source, failures)
        yield folder, answers, record
        write_record(folder / f"{target.name}.json", record)


# --- Maps -------------------------------------------------------------------------------------------------------------


def load_network(options: MapOptions):
    """The network that the options name, a `network.Network`; its name is printed."""
    with quiet_stderr():
        from ...network import load
    network = load(
        options.weights,
        data=options.data,
        input_size=options.input_size,
        mirrored=options.mirrored,
        **{key: options.params[key] for key in ("results", "device", "precision", "gpus")},
    )
    print(network.summary())
    return network


def predicted_maps(network, photographs: Mapping[str, Path], options: MapOptions) -> Iterator[Mapped]:
    """Maps that a network predicts, of photographs by name and in order."""
    predictions = network.predictions(photographs.values(), options.params["batch_size"])
    for (name, file), found in zip(photographs.items(), predictions, strict=True):
        saliency = found.saliency  # 0 to 255
        yield Mapped(name, file, None if saliency is None else saliency / saliency.dtype.type(255), found.error)


def existing_maps(path: Path, photographs: Mapping[str, Path], options: MapOptions) -> Iterator[Mapped]:
    """Maps from a folder, or of one photograph from a file; a `UserError` if one is missing, or with network flags."""
    if options.weights or options.input_size or options.mirrored:
        raise UserError("--weights, --input-size and --mirrored do not change existing maps: leave them out or --maps.")
    if path.is_file() and len(photographs) == 1:
        files = dict.fromkeys(photographs, path)
    elif path.is_dir():
        files = files_by_name(path, list_images(path, (".npy", *MAP_SUFFIXES)))
    else:
        raise UserError(f"Received the maps {path}, expected a folder, or for a single photograph a file.")
    if missing := [name for name in photographs if name not in files]:
        raise UserError(
            f"{path} has no map for {len(missing)} of {len(photographs)} photographs: {name_some(missing)}. Expected "
            f"files with their names, ending in {name_some(('.npy', *MAP_SUFFIXES))}."
        )
    with quiet_stderr():
        from ...scoring.ground_truth import read_saliency

    def read(item: tuple[str, Path]) -> Mapped:
        name, file = item
        try:
            return Mapped(name, file, read_saliency(files[name]))
        except UserError as error:
            return Mapped(name, file, error=str(error).rstrip("."))

    return map(read, photographs.items())


def _answer_each(rows: Iterator[tuple[Mapped, ...]], total: int, answer: Callable[..., Any]) -> tuple[list, list[str]]:
    """Answer in threads and in order, and print what failed; returns the answers, and a sentence for each failure."""

    def one(row: tuple[Mapped, ...]) -> tuple[Any, str]:
        if lacking := [item for item in row if item.saliency is None]:
            return None, f"{lacking[0].file}: {lacking[0].error}."
        try:
            return answer(*row), ""
        except (UserError, Unreadable) as error:
            reason = str(error).rstrip(".")
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            reason = "its name is too long for a file with the same name"
        return None, f"{' and '.join(str(item.file) for item in row)}: {reason}."

    def weight(row: tuple[Mapped, ...]) -> int:
        return sum(0 if item.saliency is None else item.saliency.size for item in row)

    answered = parallel_map(one, rows, weight=weight, most=PIXELS_IN_FLIGHT)
    with only_python_on_stderr():
        outcomes = list(ProgressBar(answered, total=total, disable=total == 1))
    failures = [error for _, error in outcomes if error]
    if len(failures) == total == 1:
        raise UserError(failures[0])
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if len(failures) == total:
        raise UserError(f"All {total} photographs failed; nothing was written.")
    return [found for found, error in outcomes if not error], failures


# --- Photographs and records ------------------------------------------------------------------------------------------


def read_photograph(item: Mapped) -> Image.Image:
    """The photograph as the network sees it, RGB.

    Raises:
        Unreadable, UserError: it is damaged, or its map has another size.
    """
    from ...images import read_image

    photograph = Image.fromarray(read_image(item.file, read_header(item.file)).numpy())
    check_size(item, photograph)
    return photograph


def check_size(item: Mapped, photograph: Image.Image) -> None:
    height, width = item.saliency.shape[:2]
    if photograph.size != (width, height):
        raise UserError(
            f"its map is {width}×{height} pixels, the photograph {photograph.width}×{photograph.height}: expected "
            f"equal sizes"
        )


def save_picture(picture: Image.Image, folder: Path, name: str) -> None:
    """Write a picture for people to look at: `folder`/pictures/`name`.jpeg."""
    path = folder / "pictures" / f"{name}.jpeg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    picture.save(path, quality=92, subsampling=0)  # Thin yellow lines keep their color.


def describe(options: MapOptions, source: Mapping, failures: list[str]) -> dict:
    """What every record says: what the numbers mean, and where they come from; `source` says it of the maps."""
    density = None if options.density is None else os.fspath(options.density)
    return {
        "domain": DOMAIN,
        "meaning": MEANING,
        "data": options.data,
        "density": density,
        "interval": {"coverage": COVERAGE, "network": MEASURED["network"], "sha256": MEASURED["sha256"]},
        **source,
        "failures": failures,
    }
