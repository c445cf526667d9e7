"""Checks of the Python API's arguments, with the limits of the command line."""

import operator
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from .acquisition import datasets
from .config import INPUT_SIDES, MOST_INPUT_PIXELS, PARAMS
from .utils import UserError

# The process that made the first network. Its forks inherit TensorFlow's locks but not its threads, and would hang.
_process: int | None = None


def remember_process() -> None:
    """Note that this process has a network; see `check_not_forked`."""
    global _process
    _process = _process or os.getpid()
    check_not_forked()


def check_not_forked() -> None:
    if _process not in (None, os.getpid()):
        raise UserError(
            "This process was forked from one that had loaded a network, and TensorFlow would hang in it. Start "
            "processes with multiprocessing.get_context('spawn'), and pass them the network, or load it there."
        )


def check_param(name: str, value):
    """A parameter's value; a `UserError` if `config.PARAMS` does not allow it."""
    row = PARAMS[name]
    if row.choices and value not in row.choices:
        raise UserError(f"Received the {name} {value!r}, expected one of {', '.join(row.choices)}.")
    if row.limits:
        return check_whole_number(name, value, int(row.limits[0]), int(row.limits[1]))
    return value


def check_whole_number(name: str, value, low: int, high: int, multiple: int = 1) -> int:
    try:
        number = operator.index(value)  # NumPy's integers too, but no fractions.
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high or number % multiple:
        kind = f"a multiple of {multiple}" if multiple > 1 else "a whole number"
        raise UserError(f"Received {name} {value!r}, expected {kind} from {low} to {high}.")
    return number


def check_dataset(name: str) -> None:
    if name not in datasets.names():
        raise UserError(f"Received the dataset {name!r}, expected one of {', '.join(datasets.names())}.")


def choose_input(requested, trained: tuple[int, int], fit_shape: bool) -> tuple[tuple[int, int], bool]:
    """The size that `input_size` of `network.load` requests, and whether the input takes each photograph's shape."""
    if requested is None:
        return trained, fit_shape
    if isinstance(requested, str) and requested == "auto":
        return trained, True
    return check_input_size(requested), False


def check_input_size(size) -> tuple[int, int]:
    """A network's input size as two integers, height and width; a `UserError` if it is something else, or too large."""
    try:
        height, width = size
    except (TypeError, ValueError) as error:
        raise UserError(f"Received the input size {size!r}, expected a height and a width, or 'auto'.") from error
    height = check_whole_number("an input height of", height, *INPUT_SIDES, multiple=8)
    width = check_whole_number("an input width of", width, *INPUT_SIDES, multiple=8)
    if height * width > MOST_INPUT_PIXELS:
        raise UserError(f"Received the input size {height}×{width}, expected at most {MOST_INPUT_PIXELS} pixels.")
    return height, width


def check_pixels(photograph, most: int) -> None:
    """Raise a `UserError` if a photograph in memory is too large; a Pillow image may not be decoded yet."""
    size = photograph.size[::-1] if isinstance(photograph, Image.Image) else np.shape(photograph)[:2]
    if len(size) == 2 and size[0] * size[1] > most:
        raise UserError(f"{size[1]}×{size[0]} pixels, expected at most {most}: shrink it, or raise max_pixels")


def check_several(photographs) -> None:
    """Raise a `UserError` if an argument is one photograph, or no collection at all."""
    if isinstance(photographs, np.ndarray):
        several = photographs.ndim == 4 or (photographs.ndim > 0 and photographs.dtype.kind not in "buif")  # Or paths.
    else:
        several = isinstance(photographs, Iterable) and not isinstance(photographs, str | bytes | Path | Image.Image)
    if not several:
        raise UserError(
            f"Received one {type(photographs).__name__}, expected several photographs: use predict, or pass a list."
        )
