"""Downloaded zip archives: the needed members are unpacked as a stream, and dangerous archives are rejected."""

import contextlib
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..listing import hash_files
from ..progress import ProgressBar
from ..utils import DownloadError, check_space, whole_file
from .transfer import RESERVE

CHUNK = 1 << 18  # bytes that are unpacked at once

# Photographs and maps hardly compress, MATLAB files and binary maps do. Beyond both bounds, the archive is a bomb.
GREATEST_RATIO = 100
GREATEST_UNSUSPICIOUS_SIZE = 200_000_000  # bytes

# Names of devices on Windows, with any suffix.
DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)\s*(?:\..*)?", re.IGNORECASE)

# Members that macOS adds to archives.
JUNK = re.compile(r"(?:.*/)?(?:__MACOSX/.*|\._[^/]*)")


def extract(
    archive: Path, folder: Path, members: Sequence[tuple[str, str]], checksums: Mapping[str, str] | None = None
) -> None:
    """Unpack the needed members of a zip archive. Files unpacked by an earlier run are kept; each file is complete.

    Args:
        archive: the zip file.
        folder: receives the members.
        members: pairs of a regular expression, for one or several trailing parts of a member's path, and the target
            path in `folder`, which may use the expression's groups. The first match counts; other members are skipped.
        checksums: MD5 of members in hexadecimal, by target path.

    Raises:
        DownloadError: the archive is damaged or dangerous, or lacks a needed member.
        OSError: the disk is full, or the folder is not writable.
    """
    with _damage_reported(archive), zipfile.ZipFile(archive) as opened:
        wanted = _choose(archive, opened.infolist(), members)
        # `zipfile` stops reading a member at its declared size.
        size, packed = sum(info.file_size for info in wanted.values()), archive.stat().st_size
        if size > max(GREATEST_UNSUSPICIOUS_SIZE, GREATEST_RATIO * packed):
            raise DownloadError(
                f"{archive} was rejected and not unpacked: its {packed:,} bytes would become {size:,}, more than "
                f"any dataset needs."
            )
        missing = {target: info for target, info in wanted.items() if not _is_there(folder / target, info)}
        size = sum(info.file_size for info in missing.values())
        folder.mkdir(parents=True, exist_ok=True)
        check_space(folder, size, f"unpacking {archive.name}", RESERVE)
        with ProgressBar(total=size, unit="B", unit_scale=True, desc=f"Unpacking {archive.name}") as bar:
            for target, info in missing.items():
                _unpack(opened, info, folder / target, (checksums or {}).get(target), bar)


def _choose(
    archive: Path, infos: Sequence[zipfile.ZipInfo], members: Sequence[tuple[str, str]]
) -> dict[str, zipfile.ZipInfo]:
    """The needed members by target path. An archive with any dangerous name is rejected."""
    wanted: dict[str, zipfile.ZipInfo] = {}
    lacking = dict(members)
    for info in infos:
        _check_name(archive, info)
        if JUNK.fullmatch(info.filename):
            continue
        for pattern, target in members:
            if match := re.fullmatch(r"(?:.*/)?" + pattern, info.filename):
                path = match.expand(target)
                if path in wanted:
                    raise DownloadError(
                        f"{archive} holds two files for {path}: {wanted[path].filename} and {info.filename}."
                    )
                wanted[path] = info
                lacking.pop(pattern, None)
                break
    if lacking:
        raise DownloadError(
            f"{archive} is not the expected archive: none of its {len(infos)} members matches {next(iter(lacking))}."
        )
    return wanted


def _check_name(archive: Path, info: zipfile.ZipInfo) -> None:
    # The original name, because `zipfile` cuts a name at a null character.
    name = info.orig_filename
    parts = name.replace("\\", "/").rstrip("/").split("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    reason = ""
    if parts[0] == "" or re.match(r"[A-Za-z]:", name):
        reason = "has an absolute path"
    elif ".." in parts:
        reason = "leads outside the folder"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        reason = "is a link or a device"
    elif any(DEVICES.fullmatch(part) for part in parts) or re.search(r"[\0-\x1f:]", name):
        reason = "has the name of a device or invalid characters"
    elif info.flag_bits & 1:
        reason = "is encrypted"
    if reason:
        raise DownloadError(f"{archive} was rejected and not unpacked: its member {name!r} {reason}.")


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size


def _unpack(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, checksum: str | None, bar: ProgressBar) -> None:
    with whole_file(path) as temporary:
        with opened.open(info) as source, temporary.open("wb") as target:
            while chunk := source.read(CHUNK):
                target.write(chunk)
                bar.update(len(chunk))
        if checksum and (received := hash_files([temporary], "md5").hexdigest()) != checksum:
            raise zipfile.BadZipFile(
                f"{info.filename} has the wrong checksum: received MD5 {received}, expected {checksum}"
            )


@contextlib.contextmanager
def _damage_reported(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise DownloadError(f"{archive} is damaged or not a zip archive ({error}).") from error
