"""A file on the disk with the right checksum: from where it was published, from a mirror, or from the user's folder."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from acquisition.datasets import Archive
from acquisition.hosts import check_address
from acquisition.transfer import fetch, file_md5
from utils import DownloadError, whole_file


@dataclass(frozen=True)
class Fetched:
    """An archive on the disk: where, its MD5, whether it is the user's own, and where to record its checksum."""

    path: Path
    md5: str
    is_users: bool
    record_path: Path | None

    def record(self) -> None:
        """Keep the checksum, in the format of `md5sum`, for every later download."""
        if self.record_path:
            with whole_file(self.record_path) as temporary:
                temporary.write_text(f"{self.md5}  {self.path.name}\n", encoding="utf-8")


def obtain(
    archive: Archive, workshop: Path, source: str | None, siblings: Sequence[Archive], hint: Sequence[str] = ()
) -> Fetched:
    """Have an archive on the disk, with the right checksum.

    Args:
        archive: the file.
        workshop: the folder that it is fetched into; checksums of earlier downloads are beside it.
        source: a file or folder of the user's, the address of a mirror, or None for where it was published.
        siblings: all archives that belong together.
        hint: what an error says last, in lines.

    Raises:
        DownloadError: it cannot be had, or is not the right file.
        OSError: the disk is full, or the folder cannot be written to.
    """
    record = None if archive.md5 else workshop.parent / f"{archive.file}.md5"
    recorded = _recorded(record) if record else None
    expected = archive.md5 or recorded
    try:
        if source is not None and "://" not in source:
            path = _local(archive, Path(source), siblings)
            md5 = file_md5(path)
        else:
            path = workshop / archive.file
            urls = archive.urls if source is None else (_at_mirror(archive, source, siblings),)
            # An earlier run may have fetched it, and been stopped later.
            md5 = file_md5(path) if path.is_file() else ""
            if not md5 or expected not in (None, md5):
                md5 = fetch(urls, path, expected, certificate_is_invalid=archive.certificate_is_invalid)
        if expected not in (None, md5):
            raise DownloadError(f"{path} has the wrong checksum: received MD5 {md5}, expected {expected}.")
    except DownloadError as error:
        details = [*error.details]
        if recorded and "checksum" in str(error):
            details += [f"It was another file when it was first used. If its owners have changed it, remove {record}."]
        raise DownloadError(error.message, [*details, *hint]) from error
    return Fetched(path, md5, path.parent != workshop, record)


def discard(archives: Sequence[Archive], files: Sequence[Fetched], build: Path) -> None:
    """Remove what cannot be used, so that the next run fetches it anew."""
    shutil.rmtree(build, ignore_errors=True)
    for archive, file in zip(archives, files, strict=True):
        if not file.is_users and not archive.md5:
            file.path.unlink(missing_ok=True)


def by_hand(archives: Sequence[Archive], command: str, one_is_enough: bool = False) -> list[str]:
    """How to do without the downloader, in lines."""
    where = "one of these in a folder" if one_is_enough and len(archives) > 1 else "in one folder"
    files = [f"  {archive.urls[0]} as {archive.file}" for archive in archives]
    return [f"By hand: save {where}", *files, f"and run: {command}"]


def _recorded(record: Path) -> str | None:
    words = record.read_text(encoding="utf-8").split() if record.is_file() else []
    return words[0] if words else None


def _local(archive: Archive, source: Path, siblings: Sequence[Archive]) -> Path:
    path = source / archive.file if source.is_dir() else source
    if path.is_file() and (len(siblings) == 1 or path.name == archive.file):
        return path
    if not source.exists():
        raise DownloadError(f"There is nothing at {source}.")
    if path.exists() and not path.is_file():
        raise DownloadError(f"{path} is no regular file, expected {archive.file}.")
    raise DownloadError(f"{source} does not hold {archive.file}.")


def _at_mirror(archive: Archive, source: str, siblings: Sequence[Archive]) -> str:
    check_address(source)
    if len(siblings) == 1 and urlsplit(source).path.endswith(Path(archive.file).suffix):
        return source
    return f"{source.rstrip('/')}/{quote(archive.file)}"
