"""The files that the saliency benchmarks take: log densities for MIT/Tübingen, and maps for the original MIT one."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf
from scipy.special import logsumexp
from tqdm import tqdm

import msinet
from checkpoint import LITE_PATH
from data import image_size, list_images
from images import decode_image, encode_map
from msinet import Network
from scoring import density
from scoring.fitted import FittedDensity
from utils import UserError, check_writable, count, whole_file, write_record

# How far the sum of a written density may be from 1, as a logarithm. The benchmark accepts 1e-3.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Benchmark:
    """A test set whose fixations only its makers have.

    Attributes:
        dataset: whose weights and input size predict it: the paper fine-tuned on the training set of the same makers.
        images: that it consists of.
        folders: that they are in, equally many in each; 0 for none.
    """

    dataset: str
    images: int
    folders: int = 0


BENCHMARKS = {"mit300": Benchmark("mit1003", 300), "cat2000": Benchmark("cat2000", 2000, folders=20)}


def find_stimuli(benchmark: Benchmark, path: Path) -> list[Path]:
    """The test photographs below a folder.

    Raises:
        UserError: they are not as many as the benchmark has, or not in its folders.
    """
    # The archives of CAT2000 have example maps beside the photographs, in folders of this name.
    images = [image for image in list_images(path) if "Output" not in image.relative_to(path).parts]
    folders = {image.parent for image in images} - {path}
    if (len(images), len(folders)) != (benchmark.images, benchmark.folders):
        found, expected = (
            _in_folders(*n) for n in ((len(images), len(folders)), (benchmark.images, benchmark.folders))
        )
        raise UserError(
            f"Found {found} below {path}, expected {expected}: the benchmark takes predictions of its complete test "
            f"set only. Name the folder with all its photographs and nothing else."
        )
    return images


def _in_folders(images: int, folders: int) -> str:
    return count(images, "image") + (f" in {count(folders, 'folder')}" if folders else " in no sub-folder")


def write_submission(
    network: Network,
    images: Sequence[Path],
    root: Path,
    folder: Path,
    name: str,
    *,
    batch_size: int = 1,
    log_density: Callable[[np.ndarray], np.ndarray] = density.default_log_density,
) -> tuple[Path, Path]:
    """Predict all images and write both files; they appear only when complete and read back.

    Args:
        network: what predicts.
        images: photographs below `root`.
        root: the folder that the benchmark's names are relative to.
        folder, name: where the files go, and how they begin.
        batch_size: images that go through the network together.
        log_density: from a saliency map, (H, W), to its log density.

    Returns:
        The HDF5 file with a float32 dataset (H, W) of natural-log densities for each image, by its relative name, and
        the archive with a grayscale JPEG for each image, of its name and size.

    Raises:
        UserError: an image cannot be read.
    """
    densities, maps = folder / f"{name}_densities.hdf5", folder / f"{name}_maps.zip"
    names = {image: image.relative_to(root).as_posix() for image in images}
    sizes = {names[image]: image_size(image) for image in images}
    predictions = tqdm(
        network.predictions(images, batch_size), total=len(images), unit="image", leave=False, disable=None
    )
    with whole_file(densities) as densities_part, whole_file(maps) as maps_part:
        with h5py.File(densities_part, "w") as file, zipfile.ZipFile(maps_part, "w") as archive:
            for prediction in predictions:
                if prediction.error:
                    raise UserError(
                        f"{prediction.photograph}: {prediction.error}. Replace it: the test set must be complete."
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
    """The name of an image's map: its own, as a JPEG."""
    return image if image.lower().endswith((".jpg", ".jpeg")) else f"{image.rpartition('.')[0]}.jpg"


def validate_densities(path: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Read an HDF5 submission back.

    Args:
        path: the file.
        sizes: height and width that each image has, by its relative name.

    Raises:
        UserError: an image is missing or surplus, or a density has another size or does not sum to 1.
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
            contents = archive.read(map_name(name))
            if tuple(tf.io.extract_jpeg_shape(contents).numpy()) != (*size, 1):
                raise UserError(f"{path}: {map_name(name)} is no grayscale JPEG of {size[1]}×{size[0]} pixels.")
            decode_image(contents, 1)


def _check_density(name: str, values: np.ndarray) -> None:
    total = logsumexp(values.astype(np.float64))
    if not abs(total) <= TOLERANCE:
        raise UserError(f"The density of {name} sums to exp({total:g}) instead of 1, so that the benchmark refuses it.")


def _check_names(path: Path, found: Sequence[str], expected: Mapping) -> None:
    if sorted(found) != sorted(expected):
        wrong = sorted(set(found) ^ set(expected))
        raise UserError(
            f"{path} holds {len(found)} images, expected {len(expected)}; the first to differ: {wrong[:3]}."
        )


def run(
    data: str,
    path: Path,
    params: dict,
    *,
    weights: str | None = None,
    size: tuple[int, int] | None = None,
    density_file: Path | None = None,
) -> None:
    """Choose the weights, write both files into `results/submissions/`, and say so.

    Args:
        data: a key of `BENCHMARKS`.
        path: the folder of its photographs.
        params: `config.PARAMS` with the user's flags.
        weights: see `checkpoint.choose_weights`.
        size: height and width of the network's input; by default those of the benchmark's training set.
        density_file: a fitted density, see `FittedDensity`.
    """
    benchmark, results = BENCHMARKS[data], Path(params["results"])
    images = find_stimuli(benchmark, path)
    fitted = FittedDensity.load(density_file) if density_file else None
    check_writable(results / "submissions")
    network = msinet.load(weights, data=benchmark.dataset, results=results, input_size=size, device=params["device"])
    if weights is None and network.weights.path == LITE_PATH:
        raise UserError(
            f"A benchmark shall not get another network's maps by accident: there is only {network.weights.reason}. "
            f"Fetch the published one with 'python main.py download -d {benchmark.dataset} --weights', name a file "
            f"with --weights, or say --weights lite."
        )
    print(network.summary())
    files = write_submission(
        network,
        images,
        path,
        results / "submissions",
        data,
        batch_size=params["batch_size"],
        log_density=fitted.log_density if fitted else density.default_log_density,
    )
    record = {
        "data": data,
        "path": str(path),
        "images": len(images),
        **network.record(),
        "density": str(density_file) if density_file else "default",
    }
    write_record(results / "submissions" / f"{data}.json", record)
    print(f"Log densities of {len(images)} images for the MIT/Tübingen benchmark: {files[0]}")
    print(f"Maps for the original MIT benchmark: {files[1]}")
    if fitted is None:
        print("The densities are the default ones; 'evaluate --fit' makes better ones for --density.")
