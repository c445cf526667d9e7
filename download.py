"""Entry points for downloads: complete datasets and published weights, or none."""

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from .acquisition.build import find_weights, incomplete, install_weights, make_dataset
from .acquisition.datasets import DATASETS, is_unpacked, weight_files
from .acquisition.hosts import unreachable
from .acquisition.obtain import by_hand, obtain, write_origins
from .acquisition.staging import STAGING, disk_errors_reported, locked
from .installation import command, download_folder
from .utils import DownloadError

WEIGHTS_FOLDER = download_folder("weights")


def dataset(name: str, folder: Path, source: str | None = None) -> Path:
    """Download, unpack, convert and check a dataset, unless its folder exists.

    If it is killed, the next call resumes. If two processes call it, one works and the other waits.

    Args:
        name: a key of `DATASETS`.
        folder: receives the dataset's folder `name`, with `stimuli`, `fixations` (binary PNG, 0 and 255), `saliency`
            and `fixations.csv` (image, x, y, observer; one row per fixation; -1 for an unknown observer).
        source: a file or folder with the archives, or the http(s) address of a mirror; None for the published ones.

    Returns:
        The dataset's complete folder.

    Raises:
        DownloadError: the message says what failed and what to do.
    """
    row, target = DATASETS[name], folder / name
    if target.is_dir() and (is_unpacked(target) or not incomplete(target, row.images)):
        return target
    with disk_errors_reported(folder), locked(folder, name) as staging:
        if target.exists() and any(target.iterdir()):
            if complaint := incomplete(target, row.images):
                raise DownloadError(
                    f"{target} exists, but the dataset is incomplete: {complaint}. Rename or remove it, and run the "
                    f"command again."
                )
            return target
        print(f"Making {target}: {row.images} photographs and their fixations ({row.title}).", flush=True)
        hint = by_hand(row.archives, f"{command()} download -d {name} -p {folder} --from FOLDER")
        files = [obtain(archive, staging, source, row.archives, hint) for archive in row.archives]
        complete = make_dataset(row, files, staging)
        write_origins(files, staging.with_name(f"{name}.json"))
        if target.exists():
            target.rmdir()
        complete.replace(target)
        shutil.rmtree(staging)
        print(f"{target} is complete. Please cite: {row.citation}", flush=True)
    return target


def weights(key: str, folder: Path, source: str | None = None) -> Path:
    """Download published weights, unless they exist.

    Args:
        key: "model_<dataset>_<cpu|gpu>" or "vgg16_hybrid".
        folder: receives them.
        source: see `dataset`.

    Returns:
        The file, or the prefix of the TensorFlow checkpoint. A network may come in the other layout or as a SavedModel,
        with the same weights; instead of "vgg16_hybrid" it may be Keras' ImageNet VGG16.

    Raises:
        DownloadError: the message says what failed and what to do. A missing network connection is reported within 5
            seconds.
    """
    archives, failures, briefs = weight_files(key), [], []
    if not archives:
        raise DownloadError(f"The weights {key} are not available: no network was published for this dataset.")
    # Before the lock, because the folder may be read-only for this user.
    if there := find_weights(folder, archives):
        return there
    with disk_errors_reported(folder), locked(folder, key) as staging:
        if there := find_weights(folder, archives):
            return there
        urls = {url for archive in archives for url in archive.urls}
        dead = unreachable(list(urls)) if source is None else None
        for archive in archives:
            try:
                file = obtain(archive, staging, source, archives, dead=dead)
                install_weights(file, staging, folder)
                write_origins([file], staging.with_name(f"{key}.json"))
                shutil.rmtree(staging)
                return folder / archive.result
            except DownloadError as error:
                failures += [error.message, *(f"  {detail}" for detail in error.details)]
                briefs += [*error.details, error.message][:1]
                if not dead or not dead.keys() >= set(archive.urls):
                    print(error, flush=True)  # The next archive may be available.
        data = key.removeprefix("model_").rpartition("_")[0] if key.startswith("model_") else "salicon"
        hint = by_hand(archives, f"{command()} download -d {data} --weights --from FOLDER", one_is_enough=True)
        hosts = dict.fromkeys(urlsplit(url).hostname or url for archive in archives for url in archive.urls)
        brief = f"{' and '.join(hosts)} cannot be reached" if dead and len(dead) == len(urls) else briefs[0]
        raise DownloadError(f"The weights {key} are not available.", [*failures, *hint], brief)


def present(key: str, folder: Path = WEIGHTS_FOLDER) -> Path | None:
    """Published weights that exist already; see `weights`."""
    return find_weights(folder, weight_files(key))


def origins(key: str, folder: Path) -> list[dict]:
    """The archives that a dataset or published weights in a folder were made from, if this program downloaded them.

    Returns:
        For each, "file", "bytes", "sha256" and "md5".
    """
    try:
        return list(json.loads((folder / STAGING / f"{key}.json").read_text(encoding="utf-8"))["archives"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
