"""The `submit` phase: the files for both benchmarks, log densities for MIT/Tübingen and maps for the original one."""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from PIL import Image
from scipy.special import logsumexp
from tqdm import tqdm

from ..acquisition.datasets import BENCHMARKS, Benchmark
from ..data import list_images
from ..image_files import STORED, image_size
from ..installation import command
from ..utils import UserError, check_writable, count, quiet_stderr, whole_file, write_record

if TYPE_CHECKING:  # It needs TensorFlow.
    from ..network import Network

# Maximum distance of the logarithm of a written density's sum from 0. The benchmark accepts 1e-3.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Options:
    """What to predict, and with which network.

    Attributes:
        data: a key of `datasets.BENCHMARKS`.
        path: the folder of its photographs.
        params: all parameters, see `config.PARAMS`.
        weights: see `checkpoint.choose_weights`.
        density: file of a fitted density, see `FittedDensity`; None for the default density.
        input_size: height and width of the network's input; by default those of the benchmark's training set.
    """

    data: str
    path: Path
    params: Mapping
    weights: str | None = None
    density: Path | None = None
    input_size: tuple[int, int] | None = None


def run(options: Options) -> None:
    """Choose the weights, and write both files into `results/submissions/`."""
    if not options.path.is_dir():
        raise UserError(f"No such folder: {options.path}. Name the folder of the test photographs with -p.")
    benchmark = BENCHMARKS[options.data]
    images = find_stimuli(benchmark, options.path)
    folder = Path(options.params["results"]) / "submissions"
    check_writable(folder)
    with quiet_stderr():
        from ..scoring import density
        from ..scoring.fitted import FittedDensity
    fitted = FittedDensity.load(options.density) if options.density else None
    network = load_network(options, benchmark)
    print(network.summary())
    files = write_submission(
        network,
        images,
        options.path,
        folder,
        options.data,
        batch_size=options.params["batch_size"],
        log_density=fitted.log_density if fitted else density.default_log_density,
    )
    record = {
        "data": options.data,
        "path": str(options.path),
        "images": len(images),
        **network.record(),
        "density": str(options.density) if options.density else "default",
    }
    write_record(folder / f"{options.data}.json", record)
    print(f"Log densities of {len(images)} images for the MIT/Tübingen benchmark: {files[0]}")
    print(f"Maps for the original MIT benchmark: {files[1]}")
    if fitted is None:
        print("The densities are the default ones; 'evaluate --fit' makes better ones for --density.")


def load_network(options: Options, benchmark: Benchmark) -> "Network":
    """The network that predicts.

    Raises:
        UserError: it would be the lite network although the user did not choose it.
    """
    with quiet_stderr():
        from ..checkpoint import LITE_PATH
        from ..network import load
    network = load(
        options.weights,
        data=benchmark.dataset,
        results=options.params["results"],
        input_size=options.input_size,
        device=options.params["device"],
        orientation=STORED,  # The sizes that the benchmark expects are those of the stored pixels.
    )
    if options.weights is None and network.weights.path == LITE_PATH:
        raise UserError(
            f"To avoid submitting the wrong network by accident, the lite network must be named: there is only "
            f"{network.weights.reason}. Download the published one with '{command()} download -d "
            f"{benchmark.dataset} --weights', name a file with --weights, or pass --weights lite."
        )
    return network


# --- Photographs and files --------------------------------------------------------------------------------------------


def find_stimuli(benchmark: Benchmark, path: Path) -> list[Path]:
    """The test photographs below a folder.

    Raises:
        UserError: the number of photographs or of their folders is wrong.
    """
    # The archives also contain example maps, in folders of these names: CAT2000's and MIT300's.
    images = [image for image in list_images(path) if not {"Output", "SM"} & {*image.relative_to(path).parts}]
    folders = {image.parent for image in images} - {path}
    if (len(images), len(folders)) != (benchmark.images, benchmark.folders):
        found, expected = (
            _in_folders(*n) for n in ((len(images), len(folders)), (benchmark.images, benchmark.folders))
        )
        raise UserError(
            f"Found {found} below {path}, expected {expected}: the benchmark only accepts predictions of its complete "
            f"test set. Name the folder that contains its photographs and nothing else."
        )
    return images


def _in_folders(images: int, folders: int) -> str:
    return count(images, "image") + (f" in {count(folders, 'folder')}" if folders else " in no sub-folder")


def write_submission(
    network: "Network",
    images: Sequence[Path],
    root: Path,
    folder: Path,
    name: str,
    *,
    batch_size: int = 1,
    log_density: Callable[[np.ndarray], np.ndarray],
) -> tuple[Path, Path]:
    """Predict all images and write both files, which appear only when they are complete and validated.

    Args:
        network: the network that predicts.
        images: photographs below `root`.
        root: the folder that the benchmark's names are relative to.
        folder, name: the folder of the files, and the beginning of their names.
        batch_size: images that go through the network together.
        log_density: from a saliency map, (H, W), to its log density.

    Returns:
        The HDF5 file with a float32 dataset (H, W) of natural-log densities for each image, named by the image's
        relative path, and the archive with a grayscale JPEG for each image, with its name and size.

    Raises:
        UserError: an image cannot be read.
    """
    from ..images import encode_map

    densities, maps = folder / f"{name}_densities.hdf5", folder / f"{name}_maps.zip"
    names = {image: image.relative_to(root).as_posix() for image in images}
    sizes = {names[image]: image_size(image, orientation=STORED) for image in images}
    predictions = tqdm(
        network.predictions(images, batch_size), total=len(images), unit="image", leave=False, disable=None
    )
    with whole_file(densities) as densities_part, whole_file(maps) as maps_part:
        with h5py.File(densities_part, "w") as file, zipfile.ZipFile(maps_part, "w") as archive:
            for prediction in predictions:
                if prediction.error:
                    raise UserError(
                        f"{prediction.photograph}: {prediction.error}. Replace it; the test set must be complete."
                    )
                name_of_image = names[prediction.photograph]
                values = log_density(prediction.saliency).astype(np.float32)
                _check_density(name_of_image, values)
                file.create_dataset(name_of_image, data=values, compression="gzip")
                archive.writestr(map_name(name_of_image), encode_map(prediction.saliency, ".jpeg"))
        validate_densities(densities_part, sizes)
        validate_maps(maps_part, sizes)
    return densities, maps


def map_name(image: str) -> str:
    """The name of an image's map: the image's name with the suffix of a JPEG."""
    return image if image.lower().endswith((".jpg", ".jpeg")) else f"{image.rpartition('.')[0]}.jpg"


def validate_densities(path: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Read an HDF5 submission back.

    Args:
        path: the file.
        sizes: height and width of each image, by its relative name.

    Raises:
        UserError: an image is missing or unexpected, or a density has the wrong size or does not sum to 1.
    """
    with h5py.File(path, "r") as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        _check_names(path, found, sizes)
        for name, size in sizes.items():
            if file[name].shape != size or file[name].dtype != np.float32:
                raise UserError(f"{path}: {name} is {file[name].dtype} {file[name].shape}, expected float32 {size}.")
            _check_density(name, file[name][()])


def validate_maps(path: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Read an archive of maps back; see `validate_densities`."""
    with zipfile.ZipFile(path) as archive:
        _check_names(path, archive.namelist(), {map_name(name): size for name, size in sizes.items()})
        for name, size in sizes.items():
            with Image.open(io.BytesIO(archive.read(map_name(name)))) as image:
                if (image.format, image.mode, image.height, image.width) != ("JPEG", "L", *size):
                    raise UserError(f"{path}: {map_name(name)} is not a grayscale JPEG of {size[1]}×{size[0]} pixels.")
                image.load()


def _check_density(name: str, values: np.ndarray) -> None:
    total = logsumexp(values.astype(np.float64))
    if not abs(total) <= TOLERANCE:
        raise UserError(f"The density of {name} sums to exp({total:g}) instead of 1, so the benchmark would reject it.")


def _check_names(path: Path, found: Sequence[str], expected: Mapping) -> None:
    if sorted(found) != sorted(expected):
        wrong = sorted(set(found) ^ set(expected))
        raise UserError(
            f"{path} holds {len(found)} images, expected {len(expected)}; the first differences: {wrong[:3]}."
        )
