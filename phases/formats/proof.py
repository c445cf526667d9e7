"""How `export` proves what it has written: it runs the export in its own runtime, and compares the maps."""

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from ...data import list_images
from ...image_files import Unreadable, read_header
from ...images import IMAGE_PADDING, read_image, resize_and_pad
from ...network import Network
from ...utils import UserError, check_space
from .base import Format, keras_model
from .examples import run_example
from .node import package_versions

# Each export is also checked at this size, with two images in a batch: other sizes take other code paths in some
# runtimes.
SMALL_SIZE = (48, 64)

# At most so many photographs calibrate int8; more change little and take long.
MOST_CALIBRATION_IMAGES = 100

# An upper bound on the size of an export without the weights, in bytes.
TEXT_BYTES = 2_000_000


def prove(parts: Sequence[Format], network: Network, folder: Path, path: Path, bound: float, advice: str) -> list[dict]:
    """Compare an export with the program: the network alone, and its example from photograph to map.

    Returns:
        For each part the greatest differences of a pixel of the map, 0 to 1: "difference" of the network alone,
        "example_difference" of the example on PNGs, "photographs" with each one's, and "jpeg_difference" if Pillow
        decodes the JPEG file at `path`.

    Raises:
        UserError: the first or the second exceeds the bound; the message ends with `advice`.
    """
    rows = []
    with tf.device("CPU"):  # The products of GPUs are less exact than the bound.
        pixels = np.asarray(_read_pixels(path))
        photographs = cut_out(pixels)
        expected = [network.predict(image) for image in photographs.values()]
        sizes = [network.size_for(image.shape[:2]) for image in photographs.values()]
        jpeg_difference = _greatest(network.predict(Image.open(path)), network.predict(pixels))
        for part in parts:
            maps = run_example(part, folder, list(photographs.values()), network)
            differences = [_greatest(*pair) for pair in zip(maps, expected, strict=True)]
            inputs = zip(photographs.values(), sizes, strict=True)
            fitted = [resize_and_pad(image, size, IMAGE_PADDING) for image, size in inputs]
            difference, example_difference = check(part, network, folder, fitted), float(np.max(differences))
            row = {"difference": difference, "example_difference": example_difference}
            found = zip(photographs, sizes, differences, strict=True)
            row_of = {name: {"input_size": list(size), "difference": value} for name, size, value in found}
            rows.append({**row, "jpeg_difference": jpeg_difference, "photographs": row_of})
            greatest = np.max([difference, example_difference])
            if not greatest <= bound:  # NaN fails too.
                raise UserError(
                    f"The export's maps differ from the program's by {greatest:.3g}, expected at most {bound}; nothing "
                    f"was kept. {advice}"
                )
    return rows


def cut_out(portrait: np.ndarray) -> dict[str, np.ndarray]:
    """A landscape, a portrait and a panorama, all from one photograph, uint8 (H, W, 3)."""
    height, width = portrait.shape[:2]
    top = height // 4
    return {
        "landscape": portrait[: 3 * width // 4],
        "portrait": portrait,
        "panorama": portrait[top : top + width // 4],
    }


def check(part: Format, network: Network, folder: Path, images: Sequence[tf.Tensor]) -> float:
    """The difference of an export, run in its own runtime, from Keras: for each image, and for a small batch."""
    small = tf.image.resize(images[0][None], SMALL_SIZE, "area").numpy()
    batches = [*(image.numpy()[None] for image in images), np.concatenate([small, small[:, :, ::-1]])]
    model = keras_model(network)
    return float(np.max([_greatest(part.predict(folder, images), model(images).numpy()) for images in batches]))


def _greatest(maps: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(maps - expected).max())


def record(parts: Sequence[Format], network: Network, photograph: Path, rows: Sequence[dict]) -> dict:
    """What was exported and how it was proven. It is published with the export, so it names no local folders."""
    sizes = [found["input_size"] for found in rows[0]["photographs"].values()]
    return {
        **network.record(),
        "weights": network.weights.path.name,
        "reason": network.weights.reason.partition(":")[0],
        "photograph": photograph.name,
        "checked_on": [*([1, *size, 3] for size in sizes), [2, *SMALL_SIZE, 3]],
        "proof": [{"runtime": part.runtime, "file": part.file, **row} for part, row in zip(parts, rows, strict=True)],
        "runtime_versions": runtime_versions(parts),
    }


def runtime_versions(parts: Sequence[Format]) -> dict[str, str]:
    """The versions that the proof depends on, except those of Python, TensorFlow and NumPy."""
    if any(part.language == "js" for part in parts):
        return package_versions()
    packages = ("pillow", *(package for part in parts for package in part.packages))
    return {package: importlib.metadata.version(package) for package in packages}


def require_space(copies: int, network: Network, folder: Path) -> None:
    """Raise a `UserError` if the disk is too small for the export: HDF5 crashes when the disk is full."""
    size = sum(values.nbytes for values in network.arrays.values()) * copies + TEXT_BYTES
    check_space(folder, size)
    check_space(Path(tempfile.gettempdir()), size)  # The example runs on a copy.


@contextlib.contextmanager
def named_failures(output: Path) -> Iterator[None]:
    """Report a disk that fills up, or is removed, while an export is written."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0][:200]
        raise UserError(
            f"{output} cannot be written ({reason}); nothing was kept. Check the space on the disk and the folder's "
            f"permissions, and repeat the command."
        ) from error


# --- Photographs ------------------------------------------------------------------------------------------------------


def _read_pixels(path: Path) -> tf.Tensor:
    """A photograph's pixels, uint8 (H, W, 3)."""
    try:
        return read_image(path, read_header(path))
    except Unreadable as error:
        raise UserError(f"{path}: {error}.") from error


def read_calibration(path: Path, network: Network) -> list[np.ndarray]:
    """Photographs as inputs of the network, float32 (1, H, W, 3), 0 to 255, in one size, which the converter needs."""
    if not path.exists():
        raise UserError(f"No such file or folder: {path}. Name a folder of photographs with --calibration.")
    paths = [path] if path.is_file() else list_images(path)[:MOST_CALIBRATION_IMAGES]
    if not paths:
        raise UserError(f"No image below {path}: name a folder of photographs with --calibration.")
    return [resize_and_pad(_read_pixels(path), network.input_size, IMAGE_PADDING).numpy()[None] for path in paths]
