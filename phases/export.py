"""The `export` phase: the network in the formats of other runtimes, each proven in its own on a photograph."""

import contextlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

import msinet
from data import Unreadable, list_images, read_header
from images import IMAGE_PADDING, read_image, resize_and_pad
from msinet import Network
from phases.formats import FORMATS
from phases.formats.base import Format, keras_model
from phases.formats.card import describe_export, describe_use
from phases.formats.examples import run_example
from phases.formats.hub import write_repository
from phases.formats.node import install_node_packages, package_versions
from utils import UserError, check_replaceable, check_space, check_writable, whole_folder, write_record

# Greatest difference from the Keras network that an export may show, by the bits of its weights. Maps go from 0 to 1.
BOUNDS = {32: 1e-4, 16: 2e-3, 8: 0.15}

# What each export is checked on besides the dataset's own size, two images together: another size is another path
# through some runtimes.
SMALL_SIZE = (48, 64)

# Photographs that calibrate int8; more change little and take long.
MOST_CALIBRATION_IMAGES = 100

# Written last into every export. A folder without it is none, and is never replaced.
CHECK_FILE = "check.json"

# More than what an export holds beside the weights, in bytes.
TEXT_BYTES = 2_000_000


def run(
    name: str,
    *,
    data: str,
    size: tuple[int, int] | None,
    weights: str | None,
    results: Path,
    bits: int,
    output: Path | None,
    photograph: Path,
    calibration: Path | None = None,
) -> None:
    """Write an export, prove it, and leave it only if it is right.

    Args:
        name: of the format; a key of `FORMATS`.
        data: whose weights and input size are used.
        size: height and width of the network's input.
        weights, results: see `checkpoint.choose_weights`.
        bits: of a weight; see `config.EXPORTS`.
        output: the folder to write; by default it is below `results/exports/`.
        photograph: what it is proven on.
        calibration: a photograph or a folder of them for int8; by default the one it is proven on.

    Raises:
        UserError: a package is missing, the folder holds something else or cannot be written, or the export differs
            too much.
    """
    require_runtime(name)
    check_writable((output or results / "exports" / name).parent)
    network = msinet.load(weights, data=data, results=results, input_size=size, device="cpu")
    network = replace(network, fit_shape=False)  # An export's examples and signatures have one size.
    size, variant = network.input_size, network.architecture.variant
    print(f"Weights: {network.weights.path} ({network.weights.reason}).")
    output = output or results / "exports" / f"{data}_{variant.replace(' ', '')}_{name}_{bits}"
    check_replaceable(output, CHECK_FILE)
    require_space(name, network, output.parent)
    with whole_folder(output) as folder, named_failures(output):
        for part in FORMATS[name]:
            part.write(network, folder, bits, _read_calibration(calibration or photograph, size) if bits == 8 else ())
            part.accompany(folder)
        record = prove(name, network, folder, photograph, BOUNDS[bits])
        use = "\n\n".join(describe_use(part, size, **row) for part, row in zip(FORMATS[name], record, strict=True))
        title = " and ".join(part.runtime for part in FORMATS[name])
        text = describe_export(title, [part.file for part in FORMATS[name]], network, data, bits, use)
        if name == "hub":
            write_repository(network, folder, text)
        else:
            (folder / "MODEL.md").write_text(text, encoding="utf-8")
        write_check(folder / CHECK_FILE, name, network, data, bits, photograph, record)
    for part, row in zip(FORMATS[name], record, strict=True):
        print(
            f"Greatest difference from the program's maps, run in {part.runtime}: {row['difference']:.1e} of the "
            f"network, {row['example_difference']:.1e} of the example in the text (at most {BOUNDS[bits]})."
        )
    print(f"The export is in {output}; {'README' if name == 'hub' else 'MODEL'}.md there says how to use it.")


# --- Proof ------------------------------------------------------------------------------------------------------------


def prove(name: str, network: Network, folder: Path, path: Path, bound: float) -> list[dict[str, float]]:
    """Compare an export with the program: the network alone, and the program in its text from photograph to map.

    Returns:
        For each of the format's parts the greatest differences of a map's pixel: "difference" of the network alone,
        "example_difference" of the text's program on a PNG, "jpeg_difference" if Pillow decodes the JPEG file.

    Raises:
        UserError: the first or the second is beyond the bound.
    """
    rows = []
    with tf.device("CPU"):  # GPUs round products to fewer bits than the bound allows.
        pixels = np.asarray(_read_pixels(path))
        expected = network.predict(pixels)
        jpeg_difference = _greatest(network.predict(Image.open(path)), expected)
        for part in FORMATS[name]:
            difference = check(part, network, folder, resize_and_pad(pixels, network.input_size, IMAGE_PADDING))
            example_difference = _greatest(run_example(part, folder, pixels, network.input_size), expected)
            rows.append(
                {
                    "difference": difference,
                    "example_difference": example_difference,
                    "jpeg_difference": jpeg_difference,
                }
            )
            if not max(difference, example_difference) <= bound:
                raise UserError(
                    f"The export's maps differ from the program's by {max(difference, example_difference):.1e}, "
                    f"expected at most {bound}; nothing was kept. "
                    f"{'Add photographs with --calibration, or use' if bound == BOUNDS[8] else 'Use'} --bits 32, or "
                    f"report this with the versions of the packages in requirements-export.txt."
                )
    return rows


def check(part: Format, network: Network, folder: Path, image: tf.Tensor) -> float:
    """Run an export in its own runtime, at the image's size and as a small batch; its difference from Keras."""
    small = tf.image.resize(image[None], SMALL_SIZE, "area").numpy()
    batches = [image.numpy()[None], np.concatenate([small, small[:, :, ::-1]])]
    model = keras_model(network)
    return max(_greatest(part.predict(folder, images), model(images).numpy()) for images in batches)


def _greatest(maps: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(maps - expected).max())


def write_check(path: Path, name: str, network: Network, data: str, bits: int, photograph: Path, rows: list) -> None:
    """Write what was exported, and how it was proven. It goes with the export, so that it names no folder of ours."""
    record = {
        "format": name,
        "bits": bits,
        "data": data,
        **network.record(),
        "weights": network.weights.path.name,
        "reason": network.weights.reason.partition(":")[0],
        "photograph": photograph.name,
        "checked_on": [[1, *network.input_size, 3], [2, *SMALL_SIZE, 3]],
        "bound": BOUNDS[bits],
        "proof": [
            {"runtime": part.runtime, "file": part.file, **row} for part, row in zip(FORMATS[name], rows, strict=True)
        ],
        "runtime_versions": runtime_versions(name),
    }
    write_record(path, record)


# --- What must be there -----------------------------------------------------------------------------------------------


def runtime_versions(name: str) -> dict[str, str]:
    """The versions of what a format's proof depends on, besides Python's, TensorFlow's and NumPy's."""
    if name == "tfjs":
        return package_versions()
    packages = ("pillow", *(package for part in FORMATS[name] for package in part.packages))
    return {package: importlib.metadata.version(package) for package in packages}


def require_runtime(name: str) -> None:
    """Complain before any work is done where what the format needs is not installed.

    Raises:
        UserError: it names the first package that is missing.
    """
    for package in (package for part in FORMATS[name] for package in part.packages):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--format {name} needs the package {package}, which is not installed: run "
                f"'pip install -r requirements-export.txt'."
            )
    if name == "tfjs":
        install_node_packages()


def require_space(name: str, network: Network, folder: Path) -> None:
    """Complain before anything is written where the export would fill a disk: HDF5 does not survive that.

    Raises:
        UserError: it says how much is missing.
    """
    size = sum(values.nbytes for values in network.arrays.values()) * len(FORMATS[name]) + TEXT_BYTES
    check_space(folder, size)
    check_space(Path(tempfile.gettempdir()), size)  # for the copy that the example runs on


@contextlib.contextmanager
def named_failures(output: Path) -> Iterator[None]:
    """Tell of a disk that fills up, or goes away, while an export is written, in one line."""
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


def _read_calibration(path: Path, size: tuple[int, int]) -> list[np.ndarray]:
    """Photographs as the network's input, float32 (1, H, W, 3), 0 to 255."""
    if not path.exists():
        raise UserError(f"No such file or folder: {path}. Name a folder of photographs with --calibration.")
    paths = [path] if path.is_file() else list_images(path)[:MOST_CALIBRATION_IMAGES]
    if not paths:
        raise UserError(f"No image below {path}: name a folder of photographs with --calibration.")
    return [resize_and_pad(_read_pixels(path), size, IMAGE_PADDING).numpy()[None] for path in paths]
