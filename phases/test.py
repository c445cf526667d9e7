"""The `test` phase: from image files to saliency maps of the images' own sizes."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ..engines import load
from ..listing import list_files
from ..photographs import (
    Options,
    Photograph,
    check_not_replaced,
    map_pixels,
    name_all,
    sample_photograph,
    write_maps,
)
from ..predictor import PIXELS_IN_FLIGHT
from ..progress import ProgressBar
from ..utils import count, only_python_on_stderr, parallel_map, quiet_stderr, whole_file, write_record
from .clips import find_sources, name_sources, predict_clips, without_password
from .introduce import introduce


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
    photographs, clips = name_all(found.images, options.suffix), name_sources(moving, options.suffix)
    check_not_replaced([*photographs, *clips], results)
    network = load(
        options.weights,
        engine=options.engine,
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
    introduce(network, options.data, options.input_size, options.verbose)
    with network.alone():
        written, failures = test(network, photographs, options)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if photographs:
        print(f"{count(written, 'map')} written to {results / 'images'}.")
        if options.overlay:
            print(f"{count(written, 'overlay')} written to {results / 'overlays'}.")
        if earlier := count_earlier(results, photographs):
            print(f"{count(earlier, 'map')} there {'is' if earlier == 1 else 'are'} from earlier runs.")
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
    print(f"Record of the run: {results / 'test.json'}")
    return 1 if failures or videos.get("failed_clips") else 0


def count_earlier(results: Path, photographs: Sequence[Photograph]) -> int:
    """The maps in the folder of results that belong to none of these photographs. A run replaces only its own maps."""
    files = list_files(results / "images", (".jpeg", ".png", ".npy"))
    return len({file.relative_to(results).as_posix() for file in files} - {row.map for row in photographs})


def test(network, photographs: Sequence[Photograph], options: Options) -> tuple[int, list[str]]:
    """Predict images into `results/images/`, and with `--overlay` write overlays into `results/overlays/`.

    Returns:
        The number of maps written, and a sentence for each image that failed.
    """
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
        bar = ProgressBar(outcomes, total=len(images), unit="image", disable=len(images) == 1)
        failures = [outcome for outcome in bar if outcome]
    return len(images) - len(failures), failures
