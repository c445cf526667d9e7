"""The `submit` phase: the files for both benchmarks, log densities for MIT/Tübingen and maps for the original one."""

import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from scipy.special import logsumexp

from ..acquisition.datasets import BENCHMARKS, Benchmark
from ..bundled import name_of
from ..data import list_images
from ..image_files import STORED
from ..installation import command
from ..progress import ProgressBar
from ..utils import UserError, check_writable, count, quiet_stderr, whole_file, write_record

if TYPE_CHECKING:  # It needs TensorFlow.
    from ..network import Network
    from ..predictor import Prediction

# Maximum distance of the logarithm of a written density's sum from 0. The benchmark accepts 1e-3.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Options:
    """The flags of `submit`, whose help describes them, and all parameters by name."""

    data: str
    path: Path
    params: Mapping
    weights: str | None = None
    density: Path | None = None
    input_size: tuple[int, int] | None = None
    trial: bool = False


def run(options: Options) -> None:
    """Choose the weights, and write both files into `results/submissions/`."""
    if not options.path.is_dir():
        raise UserError(f"No such folder: {options.path}. Name the folder of the test photographs with -p.")
    images = find_stimuli(BENCHMARKS[options.data], options.path, options.trial)
    name = f"{options.data}_trial" if options.trial else options.data
    folder = Path(options.params["results"]) / "submissions"
    check_writable(folder)
    with quiet_stderr():
        from ..scoring.density import default_log_density
        from ..scoring.fitted import FittedDensity
    log_density = FittedDensity.load(options.density).log_density if options.density else default_log_density
    network = load_network(options)
    print(network.summary())
    densities, maps = (folder / f"{name}_{kind}" for kind in ("densities.hdf5", "maps.zip"))
    names = [image.relative_to(options.path).as_posix() for image in images]
    predictions = network.predictions(images, options.params["batch_size"])
    shown = ProgressBar(predictions, total=len(images), unit="image")
    with whole_file(densities) as densities_part, whole_file(maps) as maps_part:
        write_files(zip(names, shown, strict=True), log_density, densities_part, maps_part)
    record = {
        "data": options.data,
        "path": str(options.path),
        "images": len(images),
        **network.record(),
        "density": str(options.density) if options.density else "default",
    }
    write_record(folder / f"{name}.json", record)
    print(f"Log densities of {count(len(images), 'image')} for the MIT/Tübingen benchmark: {densities}")
    print(f"Maps for the original MIT benchmark: {maps}")
    if options.density is None:
        print("The densities are the default ones; 'evaluate --fit' makes better ones for --density.")


def load_network(options: Options) -> "Network":
    """The network that predicts; a `UserError` if it would be a bundled network although the user did not choose it."""
    from ..network import load

    dataset = BENCHMARKS[options.data].dataset
    network = load(
        options.weights,
        data=dataset,
        results=options.params["results"],
        input_size=options.input_size,
        device=options.params["device"],
        orientation=STORED,  # The sizes that the benchmark expects are those of the stored pixels.
    )
    if options.weights is None and name_of(network.weights.path):
        raise UserError(
            f"To avoid submitting the wrong network by accident, an included network must be named: there is only "
            f"{network.weights.reason}. Download the published one with '{command()} download -d {dataset} "
            f"--weights', name a file with --weights, or pass --weights medium."
        )
    return network


# --- Photographs and files --------------------------------------------------------------------------------------------


def find_stimuli(benchmark: Benchmark, path: Path, trial: bool = False) -> list[Path]:
    """The test photographs below a folder; for a trial, any photographs.

    A `UserError` if the number of photographs or of their folders is wrong.
    """
    # The archives also contain example maps, in folders of these names: CAT2000's and MIT300's.
    images = [image for image in list_images(path) if not {"Output", "SM"} & {*image.relative_to(path).parts}]
    found = len(images), len({image.parent for image in images} - {path})
    expected = benchmark.images, benchmark.folders
    if trial and images:
        return images
    if found != expected:
        words = [f"{count(n, 'image')} in {count(folders, 'folder')}" for n, folders in (found, expected)]
        raise UserError(
            f"Found {words[0]} below {path}, expected {words[1]}: the benchmark only accepts predictions of its "
            f"complete test set. Name the folder that contains its photographs and nothing else, or try any "
            f"photographs with --trial."
        )
    return images


def write_files(
    predictions: Iterable[tuple[str, "Prediction"]],
    log_density: Callable[[np.ndarray], np.ndarray],
    densities: Path,
    maps: Path,
) -> None:
    """Write the log density of each photograph by its name into an HDF5 file, and its map into a ZIP archive."""
    from ..images import encode_map

    with h5py.File(densities, "w") as file, zipfile.ZipFile(maps, "w") as archive:
        for name, prediction in predictions:
            if prediction.saliency is None:
                raise UserError(
                    f"{prediction.photograph}: {prediction.error}. Replace it; the test set must be complete."
                )
            values = log_density(prediction.saliency).astype(np.float32)
            total = logsumexp(values.astype(np.float64))
            if not abs(total) <= TOLERANCE:
                raise UserError(
                    f"The density of {name} sums to exp({total:g}) instead of 1, so the benchmark would reject it."
                )
            file.create_dataset(name, data=values, compression="gzip")
            archive.writestr(map_name(name), encode_map(prediction.saliency, ".jpeg"))


def map_name(image: str) -> str:
    """The name of an image's map: the image's name with the suffix of a JPEG."""
    return image if image.lower().endswith((".jpg", ".jpeg")) else f"{image.rpartition('.')[0]}.jpg"
