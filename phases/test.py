"""The `test` phase: from image files to saliency maps of the images' own sizes."""

import errno
import itertools
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

import msinet
from config import MAX_PIXELS
from data import IMAGE_SUFFIXES, list_images, read_header
from images import blend, encode_map, read_image
from msinet import Network, Prediction
from utils import UserError, count, only_python_on_stderr, parallel_map, whole_file, write_record


def find_images(path: Path) -> list[Path]:
    """The image files that `path` names: itself, or all below it.

    Raises:
        UserError: there is none, or a folder cannot be read.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"No such file or folder: {path}. Name a photograph or a folder of photographs with -p.")
    if not path.is_dir():
        raise UserError(f"{path} is neither a regular file nor a folder. Name a photograph or a folder with -p.")
    images = list_images(path)
    if not images:
        raise UserError(f"No image below {path}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    return images


def output_paths(images: Sequence[Path], root: Path, folder: Path, suffix: str) -> dict[Path, Path]:
    """Where the map of each image goes: the same sub-folder and name below `folder`, with another suffix.

    Where two images would share a map, each keeps its own suffix inside the map's name, and where that is another's
    name already, a number follows. Names are compared as file systems may do, without case and accents' spelling.
    """
    relative = {image: Path(image.name) if root == image else image.relative_to(root) for image in images}
    names = {image: _names(path, suffix) for image, path in relative.items()}
    target = {image: next(candidates) for image, candidates in names.items()}
    while clashes := _clashes(target):
        for image in clashes:
            target[image] = next(names[image])
    return {image: folder / name for image, name in target.items()}


def _names(path: Path, suffix: str) -> Iterator[Path]:
    """Names for an image's map, the plainest first."""
    yield path.with_name(path.stem + suffix)
    yield path.with_name(path.name + suffix)
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}{suffix}")


def _clashes(targets: Mapping[Path, Path]) -> list[Path]:
    """The images that have to take another name: of several with one name all, or all but one that has no plain one."""
    sharing: dict[str, list[Path]] = {}
    for image, target in targets.items():
        sharing.setdefault(unicodedata.normalize("NFC", str(target)).casefold(), []).append(image)
    clashes = []
    for images in sharing.values():
        plain = [image for image in images if targets[image].stem == image.stem]
        clashes += (plain or images[1:]) if len(images) > 1 else []
    return clashes


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
        try:
            _write_bytes(targets[path], encode_map(prediction.saliency, suffix))
            if overlay:
                photograph = read_image(path, read_header(path, most_pixels=network.max_pixels)).numpy()
                blended = blend(photograph, prediction.saliency)
                _write_bytes(overlays[path], tf.io.encode_jpeg(blended, quality=95).numpy())
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
