"""From archives to the complete folder of a dataset, or to installed weights."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..listing import files_by_name, list_files
from ..utils import DownloadError, sweep_leftovers, whole_file
from . import readers
from .archives import extract
from .convert import convert
from .datasets import Archive, Dataset
from .obtain import Fetched, discard


def make_dataset(row: Dataset, files: Sequence[Fetched], staging: Path) -> Path:
    """Unpack and convert a dataset's archives, continuing an earlier run; returns the complete folder in `staging`.

    Raises:
        DownloadError: an archive is damaged, dangerous, or not the expected one.
        OSError: the disk is full, or the folder is not writable.
    """
    # Named after the archives, so files that an earlier run made of others are not mixed in.
    build = staging / hashlib.sha256("".join(file.md5 for file in files).encode()).hexdigest()[:16]
    try:
        for file in files:
            extract(file.path, build, file.archive.members, file.archive.member_md5)
        stimuli = _names(build / "stimuli")
        if len(stimuli) != row.images:
            raise DownloadError(f"The archive has {len(stimuli)} photographs, expected {row.images}.")
        convert(stimuli, build, getattr(readers, f"read_{row.reader}"), row.sigma)
        shutil.rmtree(build / "raw")
        for part in [build, *(path for path in build.rglob("*") if path.is_dir())]:
            sweep_leftovers(part)
        if complaint := incomplete(build, row.images):
            raise DownloadError(f"The archives do not have the complete dataset: {complaint}.")
    except DownloadError as error:
        discard(files, build)
        advice = "No dataset was made. Download another copy, and name it with --from."
        raise DownloadError(error.message, [*error.details, advice], error.brief) from error
    return build


def incomplete(folder: Path, images: int) -> str:
    """How a dataset's folder differs from the complete dataset, in words; empty if it does not."""
    names = {kind: set(_names(folder / kind)) for kind in ("stimuli", "fixations", "saliency")}
    if len(names["stimuli"]) != images:
        return f"{len(names['stimuli'])} photographs, expected {images}"
    for kind in ("fixations", "saliency"):
        if odd := sorted(names[kind] ^ names["stimuli"]):
            return f"stimuli and {kind} differ in {len(odd)} names, such as {odd[0]}"
    return ""


def install_weights(file: Fetched, staging: Path, folder: Path) -> None:
    """Move weights into their folder, last the file that `find_weights` looks for."""
    if not file.archive.members:
        with whole_file(folder / file.archive.file) as temporary:
            shutil.copyfile(file.path, temporary)
        return
    unpacked = staging / "unpacked"
    try:
        shutil.rmtree(unpacked, ignore_errors=True)
        extract(file.path, unpacked, file.archive.members)
    except DownloadError:
        discard([file], unpacked)
        raise
    for member in sorted(unpacked.iterdir(), key=lambda path: path.suffix == ".index"):
        member.replace(folder / member.name)


def find_weights(folder: Path, archives: Sequence[Archive]) -> Path | None:
    """The first of some weights that is in a folder, as a file or the prefix of a checkpoint; None if there is none."""
    for archive in archives:
        path = folder / archive.result
        if path.is_file() or path.with_name(f"{path.name}.index").is_file():
            return path
    return None


def _names(folder: Path) -> dict[str, Path]:
    # Without pipes and devices.
    return files_by_name(folder, [file for file in list_files(folder) if file.is_file()])
