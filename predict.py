"""The `test` phase: from image files to saliency maps of the images' own sizes."""

import io
import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import checkpoint
from data import IMAGE_PADDING, IMAGE_SUFFIXES, crop_and_restore, decode_image, list_images, resize_and_pad
from model import CHANNELS_LAST, choose_layout, msi_net, tensor_convolutions
from utils import UserError, count, parallel_map, versions, whole_file, write_json

# Perceptually uniform, and dark where nobody looks.
OVERLAY_COLORS = "inferno"


@dataclass
class Prediction:
    """The saliency map of one image file, float32, (H, W), 0 to 255, or what kept it from being made."""

    path: Path
    saliency: np.ndarray | None = None
    error: str = ""


def compile_network(arrays: dict[str, np.ndarray], layout: str = CHANNELS_LAST, context: str = "aspp") -> Callable:
    """The network as one compiled graph with its weights as constants.

    Args:
        arrays: by published name, batch normalisation folded in; see `checkpoint.read_arrays`.
        layout, context: as in `model.msi_net`.

    Returns:
        A function from images (B, H, W, 3) float32 RGB, 0 to 255, H and W divisible by 8, to maps (B, H, W, 1)
        float32, 0 to 1.
    """
    conv = tensor_convolutions(arrays, layout)
    signature = [tf.TensorSpec((None, None, None, 3), tf.float32)]
    return tf.function(lambda images: msi_net(images, conv, layout, context), signature, autograph=False)


def load_network(path: Path, layout: str) -> tuple[Callable, checkpoint.Architecture]:
    """The compiled network with the weights in a file, and what it is; see `compile_network`."""
    arrays = checkpoint.read_arrays(path)
    found = checkpoint.describe(arrays)
    return compile_network(checkpoint.fold_batch_norm(arrays), layout, found.context), found


def predict_maps(
    network: Callable, paths: Iterable[Path], size: tuple[int, int], batch_size: int = 1
) -> Iterator[Prediction]:
    """Predict any number of images, in their order, while others are read and finished in the background.

    Args:
        network: see `compile_network`.
        paths: image files; their number does not matter to the memory.
        size: height and width of the network's input.
        batch_size: images that go through the network together.

    Yields:
        A `Prediction` for each path; an unreadable image has an `error`.
    """
    load = tf.function(
        lambda path: _load(path, size), [tf.TensorSpec((), tf.string)], reduce_retracing=True
    ).get_concrete_function()
    restore = tf.function(
        crop_and_restore, [tf.TensorSpec((None, None, 1), tf.float32), tf.TensorSpec((2,), tf.int32)]
    ).get_concrete_function()

    def load_one(path: Path):
        try:
            image, shape = load(tf.constant(os.fsencode(path)))
        except tf.errors.OpError as error:
            return path, None, None, _reason(path, error)
        return path, image, shape, ""

    def restore_one(row):
        path, saliency, shape, error = row
        return Prediction(path, None if error else restore(saliency, shape).numpy()[..., 0], error)

    loaded = parallel_map(load_one, paths)
    return parallel_map(restore_one, _run_in_batches(network, loaded, batch_size))


def _run_in_batches(network: Callable, rows: Iterable[tuple], batch_size: int) -> Iterator[tuple]:
    """Replace each row's image by its map; rows with an error pass through in their place."""
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, batch_size)):
        images = [image for _, image, _, error in chunk if not error]
        maps = iter(network(tf.stack(images))) if images else iter(())
        for path, _, shape, error in chunk:
            yield path, None if error else next(maps), shape, error


def _load(path, size: tuple[int, int]):
    image = decode_image(tf.io.read_file(path), 3)
    return resize_and_pad(image, size, IMAGE_PADDING), tf.shape(image)[:2]


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.stat().st_size == 0:
        return "the file is empty"
    first_line = str(getattr(error, "message", error)).splitlines()[0]
    reason = re.sub(r"\{\{function_node .*?\}\} | \[Op:.*", "", first_line)
    return f"not an image that can be read, or damaged ({reason[:120]})"


# --- Files ------------------------------------------------------------------------------------------------------------


def find_images(path: Path) -> list[Path]:
    """The image files that `path` names: itself, or all below it.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"No such file or folder: {path}. Name a photograph or a folder of photographs with -p.")
    images = list_images(path)
    if not images:
        raise UserError(f"No image below {path}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    return images


def output_paths(images: Sequence[Path], root: Path, folder: Path, suffix: str) -> dict[Path, Path]:
    """Where the map of each image goes: the same sub-folder and name below `folder`, with another suffix.

    Images that differ only by suffix keep it inside the name, so that their maps do not overwrite each other.
    """
    relative = {image: Path(image.name) if root == image else image.relative_to(root) for image in images}
    # Compared without case, as some file systems do.
    shared = Counter(str(path.with_suffix("")).lower() for path in relative.values())
    return {
        image: folder
        / path.with_name((path.name if shared[str(path.with_suffix("")).lower()] > 1 else path.stem) + suffix)
        for image, path in relative.items()
    }


def encode_map(saliency: np.ndarray, suffix: str) -> bytes:
    """A saliency map as the contents of a file.

    Args:
        saliency: float32, (H, W), 0 to 255.
        suffix: ".jpeg" (grayscale, quality 100, as published), ".png" (8 bits) or ".npy" (float32, 0 to 1).
    """
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, saliency / np.float32(255))
        return buffer.getvalue()
    image = np.round(saliency).astype(np.uint8)[..., None]
    if suffix == ".png":
        return tf.io.encode_png(image).numpy()
    return tf.io.encode_jpeg(image, format="grayscale", quality=100).numpy()


def blend(photograph: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """The photograph with its map in colour laid over it by half.

    Args:
        photograph: uint8, (H, W, 3).
        saliency: float32, (H, W), 0 to 255.

    Returns:
        uint8, (H, W, 3).
    """
    colors = matplotlib.colormaps[OVERLAY_COLORS](np.round(saliency).astype(np.uint8), bytes=True)[..., :3]
    return ((photograph.astype(np.uint16) + colors) // 2).astype(np.uint8)


def test(
    network: Callable,
    images: Sequence[Path],
    root: Path,
    size: tuple[int, int],
    results: Path,
    *,
    batch_size: int,
    suffix: str,
    overlay: bool,
) -> tuple[int, list[str]]:
    """Predict images into `results/images/`, and overlays into `results/overlays/`.

    Args:
        network: see `compile_network`.
        images: see `find_images`.
        root: the folder that they are in, or the only one of them.
        size, batch_size: see `predict_maps`.
        results: the folder of results.
        suffix: see `encode_map`.
        overlay: whether to write the photographs blended with their maps too.

    Returns:
        The number of maps written, and a sentence for each image that failed.
    """
    targets = output_paths(images, root, results / "images", suffix)
    overlays = output_paths(images, root, results / "overlays", ".jpeg") if overlay else {}

    def write(prediction: Prediction) -> str:
        if prediction.error:
            return f"{prediction.path}: {prediction.error}"
        _write_bytes(targets[prediction.path], encode_map(prediction.saliency, suffix))
        if overlay:
            photograph = decode_image(tf.io.read_file(os.fsencode(prediction.path)), 3).numpy()
            blended = blend(photograph, prediction.saliency)
            _write_bytes(overlays[prediction.path], tf.io.encode_jpeg(blended, quality=95).numpy())
        return ""

    outcomes = parallel_map(write, predict_maps(network, images, size, batch_size))
    bar = tqdm(outcomes, total=len(images), unit="image", leave=False, disable=None if len(images) > 1 else True)
    failures = [outcome for outcome in bar if outcome]
    return len(images) - len(failures), failures


def run(
    path: Path, *, data: str, size: tuple[int, int], weights: str | None, params: dict, suffix: str, overlay: bool
) -> int:
    """Choose the weights, predict, and say what was done; the run record goes to `results/test.json`.

    Returns:
        The exit status: 1 when an image failed, else 0.
    """
    results = Path(params["results"])
    images = find_images(path)  # First, as weights may be a long download, which nothing below is worth.
    layout, device = choose_layout(params["device"])
    choice = checkpoint.choose_weights(data, weights=weights, results=results)
    print(f"Weights: {choice.path} ({choice.reason}).")
    print(f"Device: {device}.")
    network, _ = load_network(choice.path, layout)
    written, failures = test(
        network, images, path, size, results, batch_size=params["batch_size"], suffix=suffix, overlay=overlay
    )
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    print(f"{count(written, 'map')} written to {results / 'images'}.")
    if failures:
        print(f"{count(len(failures), 'image')} failed.")
    record = {
        "path": str(path),
        "data": data,
        "input_size": size,
        "weights": str(choice.path),
        "reason": choice.reason,
        "device": device,
        "written": written,
        "failures": failures,
        "versions": versions(),
    }
    write_json(results / "test.json", record)
    return 1 if failures else 0


def _write_bytes(path: Path, contents: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(contents)
