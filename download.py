"""Downloads: datasets and published weights, from where they were published onto the disk, whole or not at all."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

from acquisition.build import find_weights, incomplete, install_weights, make_dataset
from acquisition.datasets import DATASETS, weight_files
from acquisition.hosts import unreachable
from acquisition.obtain import by_hand, obtain
from acquisition.workshop import locked, plain_errors
from utils import DownloadError

WEIGHTS_FOLDER = Path(__file__).parent / "weights"


def dataset(name: str, folder: Path, source: str | None = None) -> Path:
    """Make a dataset's folder, unless it is there: download, unpack, convert and check it.

    Killed at any moment, it continues when it is called again. Of two processes one works, and the other waits.

    Args:
        name: a key of `DATASETS`.
        folder: where the dataset's folder `name` goes, with `stimuli`, `fixations` (binary PNG, 0 and 255), `saliency`
            and `fixations.csv` (image, x, y, observer; one row a fixation; -1 for an observer who is not known).
        source: a file or folder with the archives, or the http(s) address of a mirror; None for the published ones.

    Returns:
        The dataset's folder, complete.

    Raises:
        DownloadError: it says what failed and what to do.
    """
    row, target = DATASETS[name], folder / name
    if target.is_dir() and not incomplete(target, row.images):
        return target
    with plain_errors(folder), locked(folder, name) as workshop:
        if target.exists() and any(target.iterdir()):
            if complaint := incomplete(target, row.images):
                raise DownloadError(
                    f"{target} exists, but is not the complete dataset: {complaint}. Rename or remove it, and run the "
                    f"command again."
                )
            return target
        print(f"Making {target}: {row.images} photographs and their fixations ({row.title}).", flush=True)
        hint = by_hand(row.archives, f"python main.py download -d {name} -p {folder} --from FOLDER")
        files = [obtain(archive, workshop, source, row.archives, hint) for archive in row.archives]
        complete = make_dataset(row, files, workshop)
        for file in files:
            file.record()
        if target.exists():
            target.rmdir()
        complete.replace(target)
        shutil.rmtree(workshop)
        print(f"{target} is complete. Please cite: {row.citation}", flush=True)
    return target


def weights(key: str, folder: Path, source: str | None = None) -> Path:
    """Fetch published weights, unless they are there.

    Args:
        key: "model_<dataset>_<cpu|gpu>" or "vgg16_hybrid".
        folder: where they go.
        source: see `dataset`.

    Returns:
        The file, or the prefix of the TensorFlow checkpoint. Of a network it may be the other layout's, or a
        SavedModel's, with the same weights; in place of "vgg16_hybrid", Keras' ImageNet VGG16.

    Raises:
        DownloadError: it says what failed and what to do. That there is no network is known within 5 seconds.
    """
    archives, failures, briefs = weight_files(key), [], []
    if not archives:
        raise DownloadError(f"The weights {key} cannot be had: no network was published for this dataset.")
    # Looked for before the lock, as the folder may be one that only an administrator writes to.
    if there := find_weights(folder, archives):
        return there
    with plain_errors(folder), locked(folder, key) as workshop:
        if there := find_weights(folder, archives):
            return there
        urls = {url for archive in archives for url in archive.urls}
        dead = unreachable(list(urls)) if source is None else {}
        for archive in archives:
            if dead.keys() >= set(archive.urls):
                failures += [f"{url}: {dead[url]}" for url in archive.urls]
                briefs += failures[-1:]
                continue
            try:
                file = obtain(archive, workshop, source, archives)
                install_weights(archive, file, workshop, folder)
                file.record()
                shutil.rmtree(workshop)
                return folder / archive.result
            except DownloadError as error:
                failures += [error.message, *(f"  {detail}" for detail in error.details)]
                briefs += [*error.details, error.message][:1]
                print(error, flush=True)
        data = key.removeprefix("model_").rpartition("_")[0] if key.startswith("model_") else "salicon"
        hint = by_hand(archives, f"python main.py download -d {data} --weights --from FOLDER", one_is_enough=True)
        hosts = dict.fromkeys(urlsplit(url).hostname or url for archive in archives for url in archive.urls)
        brief = f"{' and '.join(hosts)} cannot be reached" if len(dead) == len(urls) else briefs[0]
        raise DownloadError(f"The weights {key} cannot be had.", [*failures, *hint], brief)
