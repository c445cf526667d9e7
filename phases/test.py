"""The `test` phase: from photographs and clips to saliency maps of their own sizes."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..photographs import Options, map_pixels, name_maps, sample_photograph, write_maps
from ..utils import count, only_python_on_stderr, parallel_map, quiet_stderr, whole_file, write_record
from .clips import find_sources, predict_clips, without_password


def run(options: Options) -> int:
    """Choose the weights, predict, and print the outcome; the run's record goes to `results/test.json`.

    Returns:
        The exit status: 1 if an image or a clip failed, else 0.
    """
    options.check()
    if options.cluster:
        with quiet_stderr():
            from .distributed import cluster
        return cluster.run(options)
    path = options.path or sample_photograph()
    images, clips = find_sources(path)  # Before the weights, which may be a long download.
    with quiet_stderr():
        from ..network import load
    params, results = options.params, Path(options.params["results"])
    network = load(
        options.weights,
        data=options.data,
        results=results,
        input_size=options.input_size,
        device=params["device"],
        mirrored=options.mirrored,
        max_pixels=options.max_pixels,
        precision=params["precision"],
        gpus=params["gpus"],
    )
    print(network.summary())
    written, failures = test(network, images, Path(path), options)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if images:
        print(f"{count(written, 'map')} written to {results / 'images'}.")
    if failures:
        print(f"{count(len(failures), 'image')} failed.")
    record = {"path": without_password(path), "data": options.data, **network.record(), "written": written}
    record["failures"] = failures
    videos = predict_clips(network, clips, path, options)
    write_record(results / "test.json", record | videos)
    return 1 if failures or videos.get("failed_clips") else 0


def test(network, images: Sequence[Path], root: Path, options: Options) -> tuple[int, list[str]]:
    """Predict images into `results/images/`, and with `--overlay` write overlays into `results/overlays/`.

    Args:
        network: a `network.Network`.
        images: see `photographs.find_images`.
        root: the folder that contains them, or the only image itself.
        options: the format, the batch size and the folder of results.

    Returns:
        The number of maps written, and a sentence for each image that failed.
    """
    from ..network import PIXELS_IN_FLIGHT

    results = Path(options.params["results"])

    def write(name: str, contents: bytes) -> None:
        try:
            with whole_file(results / name) as temporary:
                temporary.write_bytes(contents)
        except OSError as error:
            error.filename = str(results / name)  # Users do not know the temporary file.
            raise

    def finish(row: tuple) -> str:
        photograph, prediction = row
        _, error = write_maps(photograph, prediction, options, write)
        return error and f"{prediction.photograph}: {error}"

    predictions = network.predictions(images, options.params["batch_size"])
    rows = zip(name_maps(images, root, options.suffix), predictions, strict=True)
    outcomes = parallel_map(finish, rows, weight=lambda row: map_pixels(row[1]), most=PIXELS_IN_FLIGHT)
    with only_python_on_stderr():
        bar = tqdm(outcomes, total=len(images), unit="image", leave=False, disable=None if len(images) > 1 else True)
        failures = [outcome for outcome in bar if outcome]
    return len(images) - len(failures), failures
