"""The `test` phase: from image files to saliency maps of the images' own sizes."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

import msinet
from data import IMAGE_SUFFIXES, list_images
from images import blend, decode_image, encode_map
from msinet import Network, Prediction
from utils import UserError, count, parallel_map, whole_file, write_record


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


def test(
    network: Network,
    images: Sequence[Path],
    root: Path,
    results: Path,
    *,
    batch_size: int,
    suffix: str,
    overlay: bool,
) -> tuple[int, list[str]]:
    """Predict images into `results/images/`, and overlays into `results/overlays/`.

    Args:
        network: what predicts.
        images: see `find_images`.
        root: the folder that they are in, or the only one of them.
        results: the folder of results.
        batch_size: images that go through the network together.
        suffix: see `images.encode_map`.
        overlay: whether to write the photographs blended with their maps too.

    Returns:
        The number of maps written, and a sentence for each image that failed.
    """
    targets = output_paths(images, root, results / "images", suffix)
    overlays = output_paths(images, root, results / "overlays", ".jpeg") if overlay else {}

    def write(row: tuple[Path, Prediction]) -> str:
        path, prediction = row
        if prediction.saliency is None:
            return f"{path}: {prediction.error}"
        _write_bytes(targets[path], encode_map(prediction.saliency, suffix))
        if overlay:
            photograph = decode_image(tf.io.read_file(os.fsencode(path)), 3).numpy()
            blended = blend(photograph, prediction.saliency)
            _write_bytes(overlays[path], tf.io.encode_jpeg(blended, quality=95).numpy())
        return ""

    outcomes = parallel_map(write, zip(images, network.predictions(images, batch_size), strict=True))
    bar = tqdm(outcomes, total=len(images), unit="image", leave=False, disable=None if len(images) > 1 else True)
    failures = [outcome for outcome in bar if outcome]
    return len(images) - len(failures), failures


def run(
    path: Path,
    *,
    data: str,
    size: tuple[int, int] | None,
    weights: str | None,
    params: dict,
    suffix: str,
    overlay: bool,
) -> int:
    """Choose the weights, predict, and say what was done; the run record goes to `results/test.json`.

    Returns:
        The exit status: 1 when an image failed, else 0.
    """
    results = Path(params["results"])
    images = find_images(path)  # First, as weights may be a long download, which nothing below is worth.
    network = msinet.load(weights, data=data, results=results, input_size=size, device=params["device"])
    print(network.summary())
    written, failures = test(
        network, images, path, results, batch_size=params["batch_size"], suffix=suffix, overlay=overlay
    )
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    print(f"{count(written, 'map')} written to {results / 'images'}.")
    if failures:
        print(f"{count(len(failures), 'image')} failed.")
    record = {"path": str(path), "data": data, **network.record(), "written": written, "failures": failures}
    write_record(results / "test.json", record)
    return 1 if failures else 0


def _write_bytes(path: Path, contents: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(contents)
