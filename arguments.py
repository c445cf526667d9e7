"""Types of command-line arguments, flags that several phases share, and the flags of `config.PARAMS`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .acquisition import datasets
from .config import (
    BELOW_1,
    INPUT_SIDES,
    MAX_PIXELS,
    MOST_INPUT_PIXELS,
    PARAMS,
    RECIPES,
    TRAINING,
    Param,
    defaults,
)
from .parser import in_lower_case

# What `--areas` reads.
AREA_FILES = "areas as CSV (image,name,x,y,width,height or image,name,polygon), COCO JSON, or a folder of label images"

# --- Types ------------------------------------------------------------------------------------------------------------


def number(kind: type, low: float, high: float, multiple: int = 1) -> Callable[[str], float]:
    """The type of a flag: a number of a kind, int or float, within limits."""
    if kind is float:
        expected = f"a number from {low:g} to {'below 1' if high == BELOW_1 else f'{high:g}'}"
    else:
        expected = (
            f"a whole number from {low} to {high}" if multiple == 1 else f"a multiple of {multiple}, at most {high}"
        )

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high or (kind is int and value % multiple):
            raise argparse.ArgumentTypeError(f"received {text}, expected {expected}")
        return value

    return convert


counting = number(int, 1, 1_000_000)
network_side = number(int, *INPUT_SIDES, multiple=8)
port_number = number(int, 0, 2**16 - 1)
pixel_count = number(int, 1, MAX_PIXELS)
blur_width = number(float, 0.01, 1000)
fraction = number(float, 0, BELOW_1)
frame_rate = number(float, 0.001, 1000)
seconds = number(float, 0, 3600)


def existing_name(text: str) -> Path:
    """The type of a path that must not be empty: an empty path would mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("received an empty path, expected a file or folder")
    return Path(text)


def path_or_address(text: str) -> Path | str:
    """The type of a path or of an object-store address, which `Path` would damage."""
    return text if "://" in text else existing_name(text)


def least_share(text: str) -> tuple[str, float]:
    """The type of an area with a percentage of attention, such as button:10."""
    name, _, share = text.rpartition(":")
    try:
        if name and 0 <= float(share) <= 100:
            return name, float(share)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"received {text}, expected name:percentage, such as button:10")


class Once(argparse.Action):
    """A flag that takes one value: the second one is an error, and not silently used instead of the first."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest, self.default) != self.default:
            raise argparse.ArgumentError(self, f"received {getattr(namespace, self.dest)} and {values}, expected one")
        setattr(namespace, self.dest, values)


class InputSize(argparse.Action):
    """The network's input size: two numbers, or "auto" where `const` is true."""

    def __call__(self, parser, namespace, values, option_string=None):
        if self.const and values == ["auto"]:
            setattr(namespace, self.dest, "auto")
            return
        if len(values) != 2 or "auto" in values:
            expected = "a height and a width" + (", or auto" if self.const else "")
            expected += "; photographs come before this flag" if self.const and "auto" in values else ""
            raise argparse.ArgumentError(self, f"received {' '.join(values)}, expected {expected}")
        try:
            sides = [network_side(value) for value in values]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        if sides[0] * sides[1] > MOST_INPUT_PIXELS:
            raise argparse.ArgumentError(
                self, f"received {sides[0]}×{sides[1]}, expected at most {MOST_INPUT_PIXELS} pixels, which need 10 GB"
            )
        setattr(namespace, self.dest, tuple(sides))


# --- Flags that several phases share ----------------------------------------------------------------------------------


def add_data(phase: argparse._ActionsContainer, purpose: str = "", names=None, default="salicon", **options) -> None:
    """The flag that names a dataset."""
    names = names or datasets.names()
    shown = default if isinstance(default, str) else " ".join(default)
    text = f"{purpose}{', '.join(names)} (default: {shown})"
    options |= {"type": in_lower_case, "choices": names, "default": default, "metavar": "DATA"}
    phase.add_argument("-d", "--data", help=text, **options)


DATASET_PATH = "folder of the dataset, or the folder that contains it (default: data)"


def add_path(phase: argparse._ActionsContainer, text: str, default: Path | None = Path("data"), **options) -> None:
    """The flag of a phase that takes one folder."""
    phase.add_argument("-p", "--path", type=Path, default=default, action=Once, help=text, **options)


def add_weights(phase: argparse._ActionsContainer, **options) -> None:
    text = f"{'networks' if options else 'weights'} to use (default: the best available)"
    phase.add_argument("--weights", metavar="{published,medium,lite,PATH}", help=text, **options)


def add_input_size(phase: argparse._ActionsContainer, auto: bool = False) -> None:
    """The flag for the network's input size; with `auto`, the size may depend on each photograph's shape."""
    choice = "; auto picks the best shape for each photograph, with about as many pixels"
    text = f"height and width of the network's input{choice if auto else ''}"
    phase.add_argument("--input-size", action=InputSize, const=auto, nargs="+", metavar="SIDE", help=text)


def add_frames(phase) -> None:
    """The flags that say which frames of clips are predicted, and how."""
    group = phase.add_argument_group("clips (docs/video.md)")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--every", type=counting, default=1, metavar="N", help="predict one of N frames (default: 1)")
    choice.add_argument("--fps", type=frame_rate, metavar="RATE", help="predict at most RATE frames per second")
    text = (
        "average maps over time, with weights that fall to 1/e after so many seconds; restarts at cuts (default: 0, "
        "each frame by itself)"
    )
    group.add_argument("--smooth", type=seconds, default=0, metavar="SECONDS", help=text)


def add_mirrored(phase: argparse._ActionsContainer) -> None:
    text = "average each map with the map of the mirrored photograph; this doubles the time (medium always does it)"
    phase.add_argument("--mirrored", action="store_true", help=text)


def add_verbose(phase) -> None:
    text = "also print how the network was trained, and everything else that its record says"
    phase.add_argument("--verbose", action="store_true", help=text)


def add_photographs(phase: argparse.ArgumentParser) -> None:
    text = "photograph, or folder of photographs (default: the sample photograph of Matplotlib)"
    phase.add_argument("-p", "--path", type=existing_name, help=text)


def add_maps(phase: argparse.ArgumentParser, **options) -> None:
    """The flags that say where maps come from: a network or files."""
    text = "existing maps, images or .npy, with the names of the photographs (default: predict them)"
    phase.add_argument("--maps", type=existing_name, help=text, **({"metavar": "PATH"} | options))
    add_data(phase, "dataset whose weights and input size are used: ")
    add_weights(phase)
    text = "turn maps into shares with a density that 'evaluate --fit' saved (default: divide each map by its sum)"
    phase.add_argument("--density", type=existing_name, metavar="FILE", help=text)
    add_input_size(phase, auto=True)
    add_mirrored(phase)


def add_areas(phase: argparse.ArgumentParser) -> None:
    group = phase.add_mutually_exclusive_group()
    group.add_argument("--areas", type=existing_name, metavar="PATH", help=AREA_FILES)
    text = "an area of every photograph, in pixels from the top left; repeat the flag for more areas"
    group.add_argument("--area", action="append", default=[], metavar="NAME:X,Y,WIDTH,HEIGHT", help=text)


# --- Parameters -------------------------------------------------------------------------------------------------------


def add_params(phase: argparse.ArgumentParser, name: str, **groups) -> None:
    """The flags of a phase's parameters. They default to None, so a recipe does not override the user's flags.

    Args:
        phase: the parser, whose flags without a group they become.
        name: of the phase.
        groups: the groups "own" (your own data), "recipe", "speed" and "files", if the phase has them.
    """
    for key, row in PARAMS.items():
        if name in ("train", "reproduce", *row.phases):
            group = groups.get(_group_of(key, row), phase)
            group.add_argument(f"--{key.replace('_', '-')}", default=None, **_options_of(key, row))


def _group_of(key: str, row: Param) -> str:
    if key in ("orientation", "max_dropped"):
        return "own"
    if row.affects == TRAINING or key == "seed":
        return "recipe"
    return "files" if key == "results" else "speed"


def _options_of(key: str, row: Param) -> dict:
    """The options of `add_argument` for a parameter."""
    shown = " ".join(map(str, row.value)) if isinstance(row.value, tuple) else row.value
    options: dict = {"help": f"{row.help} (default: {shown})"}
    if isinstance(row.value, bool):
        return options | {"action": argparse.BooleanOptionalAction}
    if row.choices:
        return options | {"choices": row.choices}
    if isinstance(row.value, tuple):
        options |= {"nargs": "+"}
    if row.limits:
        kind = type(row.value[0] if isinstance(row.value, tuple) else row.value)
        options |= {"type": number(kind, *row.limits)}
    return options | {"metavar": key.upper()}


def params_of(options: argparse.Namespace) -> dict:
    """All parameters: the defaults, changed by the recipe, changed by the user's flags."""
    flags = {key: getattr(options, key, None) for key in PARAMS}
    flags = {key: tuple(value) if isinstance(value, list) else value for key, value in flags.items()}
    recipe = RECIPES[getattr(options, "recipe", "paper")]
    return {**defaults(), **recipe, **{key: value for key, value in flags.items() if value is not None}}


# --- Flags of the phases that answer questions ------------------------------------------------------------------------


def add_regions(phase: argparse.ArgumentParser) -> None:
    add_photographs(phase)
    add_areas(phase)
    text = "most hot spots of a photograph, where no areas are given (default: 5)"
    phase.add_argument("--spots", type=counting, default=5, metavar="N", help=text)
    add_maps(phase)
    add_params(phase, "regions")
    add_frames(phase)


def add_compare(phase: argparse.ArgumentParser) -> None:
    phase.add_argument("first", type=existing_name, metavar="A", help="picture, or folder of pictures")
    phase.add_argument("second", type=existing_name, metavar="B", help="another version, or a folder of them")
    add_areas(phase)
    text = "exit with status 1 if an area of B has a lower percentage of the attention, such as button:10"
    phase.add_argument("--fail-below", type=least_share, action="append", default=[], metavar="NAME:PERCENT", help=text)
    add_maps(phase, nargs=2, metavar=("MAPS_OF_A", "MAPS_OF_B"))
    add_params(phase, "compare")


def add_crop(phase: argparse.ArgumentParser) -> None:
    add_photographs(phase)
    text = "width to height of the crops, such as 16:9; repeat the flag for more ratios (default: 1:1)"
    phase.add_argument("--ratio", action="append", default=[], metavar="WIDTH:HEIGHT", help=text)
    text = "reduce the longer sides of crops to this many pixels; smaller crops stay as they are"
    phase.add_argument("--size", type=counting, metavar="PIXELS", help=text)
    text = "the smallest crop's sides, as a share of those of the largest that fits (default: 1)"
    phase.add_argument("--min-scale", type=number(float, 0.01, 1), default=1.0, metavar="SHARE", help=text)
    text = "how far the crop of a clip moves in a second at most, as a share of its longer side (default: 0.2)"
    phase.add_argument("--speed", type=number(float, 0, 100), default=0.2, metavar="SHARE", help=text)
    text = "an area that is never cut: a name in --areas, or name:x,y,width,height; repeat the flag for more areas"
    phase.add_argument("--keep", action="append", default=[], metavar="AREA", help=text)
    phase.add_argument("--areas", type=existing_name, metavar="PATH", help=f"for --keep: {AREA_FILES}")
    add_maps(phase)
    add_params(phase, "crop")
