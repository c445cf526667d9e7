"""The `test` phase: from image files to saliency maps of the images' own sizes."""

import errno
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import msinet
from config import MAX_PIXELS
from images import Unwritable, encode_map, encode_overlay
from msinet import Network, Prediction
from photographs import find_images, output_paths
from utils import count, only_python_on_stderr, parallel_map, whole_file, write_record


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
        images: see `photographs.find_images`.
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
        try:
            _write_bytes(targets[path], encode_map(prediction.saliency, suffix))
            if overlay:
                _write_bytes(overlays[path], encode_overlay(path, prediction.saliency, network.max_pixels))
        except Unwritable as error:
            return f"{path}: {error}"
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # Of this image alone; a full disk, say, is everybody's.
                raise
            return f"{path}: its name is too long for a map's beside it"
        return ""

    def pixels(row: tuple[Path, Prediction]) -> int:
        return 0 if row[1].saliency is None else row[1].saliency.size

    predictions = zip(images, network.predictions(images, batch_size), strict=True)
    outcomes = parallel_map(write, predictions, weight=pixels, most=msinet.PIXELS_IN_FLIGHT)
    with only_python_on_stderr():
        bar = tqdm(outcomes, total=len(images), unit="image", leave=False, disable=None if len(images) > 1 else True)
        failures = [outcome for outcome in bar if outcome]
    return len(images) - len(failures), failures


def run(
    path: Path,
    *,
    data: str,
    size: tuple[int, int] | str | None,
    weights: str | None,
    params: dict,
    suffix: str,
    overlay: bool,
    mirrored: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> int:
    """Choose the weights, predict, and say what was done; the run record goes to `results/test.json`.

    Returns:
        The exit status: 1 when an image failed, else 0.
    """
    results = Path(params["results"])
    images = find_images(path)  # First, as weights may be a long download, which nothing below is worth.
    network = msinet.load(
        weights,
        data=data,
        results=results,
        input_size=size,
        device=params["device"],
        mirrored=mirrored,
        max_pixels=max_pixels,
        precision=params["precision"],
        gpus=params["gpus"],
    )
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
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(contents)
    except OSError as error:
        error.filename = str(path)  # Not that of the temporary file, of which nobody knows.
        raise
