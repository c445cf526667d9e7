"""Get an archive with the right checksum, from its publisher, a mirror, or the user's folder."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from ..listing import hash_files
from ..utils import DownloadError, whole_file, write_json
from .datasets import Archive
from .hosts import check_address
from .transfer import fetch


@dataclass(frozen=True)
class Fetched:
    """An archive on the disk: its path and MD5, whether the user supplied it, and where to record its checksum."""

    path: Path
    md5: str
    is_users: bool
    record_path: Path | None

    def record(self) -> None:
        """Record the checksum, in the format of `md5sum`, for later downloads."""
        if self.record_path:
            with whole_file(self.record_path) as temporary:
                temporary.write_text(f"{self.md5}  {self.path.name}\n", encoding="utf-8")


def obtain(
    archive: Archive,
    staging: Path,
    source: str | None,
    siblings: Sequence[Archive],
    hint: Sequence[str] = (),
    dead: Mapping[str, str] | None = None,
) -> Fetched:
    """Get an archive, with the right checksum.

    Args:
        staging: the folder to download into; checksums of earlier downloads are next to it.
        source: the user's file or folder, the address of a mirror, or None for the published addresses.
        siblings: all archives that belong together.
        hint: lines to append to an error.
        dead: see `transfer.fetch`.

    Raises:
        DownloadError: it is not available, or is the wrong file.
        OSError: the disk is full, or the folder is not writable.
    """
    record = None if archive.md5 else staging.parent / f"{archive.file}.md5"
    words = record.read_text(encoding="utf-8").split() if record and record.is_file() else []
    recorded = words[0] if words else None
    expected = archive.md5 or recorded
    try:
        if source is not None and "://" not in source:
            path = _local(archive, Path(source), siblings)
            md5 = hash_files([path], "md5").hexdigest()
        else:
            path = staging / archive.file
            urls = archive.urls if source is None else (_at_mirror(archive, source, siblings),)
            # A killed run may have fetched it.
            md5 = hash_files([path], "md5").hexdigest() if path.is_file() else ""
            if not md5 or expected not in (None, md5):
                md5 = fetch(urls, path, expected, certificate_is_invalid=archive.certificate_is_invalid, dead=dead)
        if expected not in (None, md5):
            raise DownloadError(f"{path} has the wrong checksum: received MD5 {md5}, expected {expected}.")
    except DownloadError as error:
        details = [*error.details]
        if recorded and "checksum" in str(error):
            details += [f"The file has changed since it was first used. If its owners changed it, remove {record}."]
        raise DownloadError(error.message, [*details, *hint], error.brief) from error
    return Fetched(path, md5, path.parent != staging, record)


def write_origins(files: Sequence[Fetched], path: Path) -> None:
    """Record the checksums of the archives that a dataset or weights were made from."""
    described = [
        {
            "file": file.path.name,
            "bytes": file.path.stat().st_size,
            "sha256": hash_files([file.path]).hexdigest(),
            "md5": file.md5,
        }
        for file in files
    ]
    write_json(path, {"archives": described})


def discard(archives: Sequence[Archive], files: Sequence[Fetched], build: Path) -> None:
    """Remove unusable files, so the next run downloads them again."""
    shutil.rmtree(build, ignore_errors=True)
    for archive, file in zip(archives, files, strict=True):
        if not file.is_users and not archive.md5:
            file.path.unlink(missing_ok=True)


def by_hand(archives: Sequence[Archive], command: str, one_is_enough: bool = False) -> list[str]:
    """Instructions for downloading by hand, in lines."""
    where = "one of these in a folder" if one_is_enough and len(archives) > 1 else "in one folder"
    files = [f"  {archive.urls[0]} as {archive.file}" for archive in archives]
    return [f"By hand: save {where}", *files, f"and run: {command}"]


def _local(archive: Archive, source: Path, siblings: Sequence[Archive]) -> Path:
    path = source / archive.file if source.is_dir() else source
    if path.is_file() and (len(siblings) == 1 or path.name == archive.file):
        return path
    if not source.exists():
        raise DownloadError(f"No such file or folder: {source}.")
    if path.exists() and not path.is_file():
        raise DownloadError(f"{path} is not a regular file, expected {archive.file}.")
    raise DownloadError(f"{source} does not contain {archive.file}.")


def _at_mirror(archive: Archive, source: str, siblings: Sequence[Archive]) -> str:
    check_address(source)
    if len(siblings) == 1 and urlsplit(source).path.endswith(Path(archive.file).suffix):
        return source
    return f"{source.rstrip('/')}/{quote(archive.file)}"
