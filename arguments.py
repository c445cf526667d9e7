"""Types of command-line arguments, flags that several phases share, and the flags of `config.PARAMS`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .acquisition import datasets
from .config import BELOW_1, INPUT_SIDES, MAX_PIXELS, MOST_INPUT_PIXELS, PARAMS, RECIPES, Param, defaults

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


def existing_name(text: str) -> Path:
    """The type of a path that must not be empty: an empty path would mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("received an empty path, expected a file or folder")
    return Path(text)


def path_or_address(text: str) -> Path | str:
    """The type of a path or of an object-store address, which `Path` would damage."""
    return text if "://" in text else existing_name(text)


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
        if len(values) != 2:
            expected = "a height and a width" + (", or auto" if self.const else "")
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


def add_data(phase: argparse.ArgumentParser, purpose: str = "", names=None, default="salicon", **options) -> None:
    """The flag that names a dataset."""
    names = names or datasets.names()
    shown = default if isinstance(default, str) else " ".join(default)
    text = f"{purpose}{', '.join(names)} (default: {shown})"
    phase.add_argument("-d", "--data", choices=names, default=default, metavar="DATA", help=text, **options)


def add_dataset_path(phase: argparse.ArgumentParser) -> None:
    text = "folder of the dataset, or the folder that contains it (default: data)"
    phase.add_argument("-p", "--path", type=Path, default=Path("data"), action=Once, help=text)


def add_weights(phase: argparse.ArgumentParser, **options) -> None:
    text = f"{'networks' if options else 'weights'} to use (default: the best available)"
    phase.add_argument("--weights", metavar="{published,lite,PATH}", help=text, **options)


def add_input_size(phase: argparse.ArgumentParser, auto: bool = False) -> None:
    """The flag for the network's input size; with `auto`, the size may depend on each photograph's shape."""
    choice = "; auto chooses, among sizes with as many pixels, the best one for each photograph's shape"
    text = f"height and width of the network's input{choice if auto else ''}"
    phase.add_argument("--input-size", action=InputSize, const=auto, nargs="+", metavar="SIDE", help=text)


def add_mirrored(phase: argparse.ArgumentParser) -> None:
    text = "average each map with the map of the mirrored photograph; this doubles the time"
    phase.add_argument("--mirrored", action="store_true", help=text)


# --- Parameters -------------------------------------------------------------------------------------------------------


def add_params(phase: argparse.ArgumentParser, name: str) -> None:
    """The flags of a phase's parameters. They default to None, so that a recipe does not override the user's flags."""
    for key, row in PARAMS.items():
        if name in ("train", "reproduce", *row.phases):
            phase.add_argument(f"--{key.replace('_', '-')}", default=None, **_options_of(key, row))


def _options_of(key: str, row: Param) -> dict:
    """The options of `add_argument` for a parameter."""
    options: dict = {"help": f"{row.help} (default: {row.value})"}
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
