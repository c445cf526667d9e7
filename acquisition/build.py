"""From archives to the complete folder of a dataset, or to weights in their folder."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from acquisition.archives import extract
from acquisition.convert import convert
from acquisition.datasets import Archive, Dataset
from acquisition.obtain import Fetched, discard
from utils import DownloadError, files_by_name, list_files, whole_file


def make_dataset(row: Dataset, files: Sequence[Fetched], workshop: Path) -> Path:
    """Unpack and convert a dataset's archives; what an earlier run has done is not done again.

    Returns:
        The complete folder, still in the workshop.

    Raises:
        DownloadError: an archive is damaged, dangerous, or not the expected one.
        OSError: the disk is full, or the folder cannot be written to.
    """
    # Named after the archives, so that what an earlier run made of others is not mixed in.
    build = workshop / hashlib.sha256("".join(file.md5 for file in files).encode()).hexdigest()[:16]
    try:
        for archive, file in zip(row.archives, files, strict=True):
            extract(file.path, build, archive.members, archive.member_md5)
        stimuli = _names(build / "stimuli")
        if len(stimuli) != row.images:
            raise DownloadError(f"The archive holds {len(stimuli)} photographs, expected {row.images}.")
        for note in convert(stimuli, build, build / "raw", row.reader, row.sigma):
            print(note)
        shutil.rmtree(build / "raw")
        for leftover in [file for file in build.rglob(".*") if file.is_file()]:  # of a run that was killed
            leftover.unlink()
        if complaint := incomplete(build, row.images):
            raise DownloadError(f"The archives do not hold the complete dataset: {complaint}.")
    except DownloadError as error:
        discard(row.archives, files, build)
        advice = "No dataset was made. Fetch another copy, and name it with --from."
        raise DownloadError(error.message, [*error.details, advice]) from error
    return build


def incomplete(folder: Path, images: int) -> str:
    """What a dataset's folder lacks or has too much, in words; empty for a complete one."""
    names = {kind: set(_names(folder / kind)) for kind in ("stimuli", "fixations", "saliency")}
    if len(names["stimuli"]) != images:
        return f"{len(names['stimuli'])} photographs, expected {images}"
    for kind in ("fixations", "saliency"):
        if odd := sorted(names[kind] ^ names["stimuli"]):
            return f"stimuli and {kind} differ in {len(odd)} names, {odd[0]} among them"
    return ""


def install_weights(archive: Archive, file: Fetched, workshop: Path, folder: Path) -> None:
    """Put weights into their folder, the file by which they are found last."""
    if not archive.members:
        with whole_file(folder / archive.file) as temporary:
            shutil.copyfile(file.path, temporary)
        return
    unpacked = workshop / "unpacked"
    try:
        shutil.rmtree(unpacked, ignore_errors=True)
        extract(file.path, unpacked, archive.members)
    except DownloadError:
        discard([archive], [file], unpacked)
        raise
    for member in sorted(unpacked.iterdir(), key=lambda path: path.suffix == ".index"):
        member.replace(folder / member.name)


def find_weights(folder: Path, archives: Sequence[Archive]) -> Path | None:
    """The file, or the prefix of a checkpoint, of the first of some weights that is in a folder."""
    for archive in archives:
        path = folder / archive.result
        if path.is_file() or path.with_name(f"{path.name}.index").is_file():
            return path
    return None


def _names(folder: Path) -> dict[str, Path]:
    # A pipe or a device is no photograph.
    return files_by_name(folder, [file for file in list_files(folder) if file.is_file()])
