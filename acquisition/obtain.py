"""Get an archive with the right checksum, from its publisher, a mirror, or the user's folder."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ..listing import hash_files
from ..utils import DownloadError, whole_file, write_json
from .datasets import Archive
from .hosts import check_address
from .transfer import fetch


class Fetched(NamedTuple):
    """An archive on the disk: its path and MD5, and whether the user supplied it."""

    archive: Archive
    path: Path
    md5: str
    is_users: bool


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
    record = staging.with_name(f"{archive.file}.md5")
    words = record.read_text(encoding="utf-8").split() if not archive.md5 and record.is_file() else []
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
    return Fetched(archive, path, md5, path.parent != staging)


def write_origins(files: Sequence[Fetched], path: Path) -> None:
    """Record the archives that a dataset or weights were made from, and for later downloads their unknown checksums."""
    for file in files:
        if not file.archive.md5:
            with whole_file(path.with_name(f"{file.archive.file}.md5")) as temporary:
                temporary.write_text(f"{file.md5}  {file.path.name}\n", encoding="utf-8")  # as of `md5sum`
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


def discard(files: Sequence[Fetched], build: Path) -> None:
    """Remove unusable files, so the next run downloads them again."""
    shutil.rmtree(build, ignore_errors=True)
    for file in files:
        if not file.is_users and not file.archive.md5:
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
