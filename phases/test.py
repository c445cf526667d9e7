"""The `test` phase: from image files to saliency maps of the images' own sizes."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..photographs import (
    Options,
    Photograph,
    check_not_replaced,
    map_pixels,
    name_all,
    sample_photograph,
    write_maps,
)
from ..utils import count, only_python_on_stderr, parallel_map, quiet_stderr, whole_file, write_record
from .clips import find_sources, name_clips, predict_clips, without_password


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
    params, results = options.params, Path(options.params["results"])
    paths = options.paths or [sample_photograph()]
    found, moving = find_sources(paths, results)  # Before the weights, which may be a long download.
    photographs, clips = name_all(found.images, options.suffix), name_clips(moving, options.suffix)
    check_not_replaced([*photographs, *clips], results)
    with quiet_stderr():
        from ..network import load
    network = load(
        options.weights,
        data=options.data,
        results=results,
        input_size=options.input_size,
        device=params["device"],
        mirrored=options.mirrored,
        max_pixels=options.max_pixels,
        orientation=params["orientation"],
        precision=params["precision"],
        gpus=params["gpus"],
    )
    print(network.summary())
    written, failures = test(network, photographs, options)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if photographs:
        print(f"{count(written, 'map')} written to {results / 'images'}.")
    if failures:
        print(f"{count(len(failures), 'image')} failed.")
    if summary := found.summary():
        print(summary)
    record = {
        "path": without_password(paths[0]) if len(paths) == 1 else [without_password(path) for path in paths],
        "data": options.data,
        **network.record(),
        "written": written,
        "failures": failures,
        "skipped": found.skipped,
    }
    videos = predict_clips(network, clips, options)
    write_record(results / "test.json", record | videos)
    return 1 if failures or videos.get("failed_clips") else 0


def test(network, photographs: Sequence[Photograph], options: Options) -> tuple[int, list[str]]:
    """Predict images into `results/images/`, and with `--overlay` write overlays into `results/overlays/`.

    Args:
        network: a `network.Network`.
        photographs: see `photographs.name_all`.
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

    images = [Path(photograph.path) for photograph in photographs]
    predictions = network.predictions(images, options.params["batch_size"])
    rows = zip(photographs, predictions, strict=True)
    outcomes = parallel_map(finish, rows, weight=lambda row: map_pixels(row[1]), most=PIXELS_IN_FLIGHT)
    with only_python_on_stderr():
        bar = tqdm(outcomes, total=len(images), unit="image", leave=False, disable=None if len(images) > 1 else True)
        failures = [outcome for outcome in bar if outcome]
    return len(images) - len(failures), failures
