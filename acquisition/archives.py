"""Zip archives from strangers: what is wanted of them is unpacked as a stream, and what is dangerous is refused."""

import contextlib
import hashlib
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from acquisition.transfer import CHUNK, RESERVE
from utils import DownloadError, check_space, whole_file

# Photographs and maps hardly shrink in an archive, MATLAB's files and binary maps do. Beyond both bounds it is a bomb.
GREATEST_RATIO = 100
GREATEST_UNSUSPICIOUS_SIZE = 200_000_000  # bytes

# Names that Windows gives to devices, whatever the suffix.
DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)\s*(?:\..*)?", re.IGNORECASE)

# What Macintoshes add to archives.
JUNK = re.compile(r"(?:.*/)?(?:__MACOSX/.*|\._[^/]*)")


def extract(
    archive: Path, folder: Path, members: Sequence[tuple[str, str]], checksums: Mapping[str, str] | None = None
) -> None:
    """Unpack what is wanted of a zip archive. What an earlier run has unpacked stays; each file is whole.

    Args:
        archive: the zip file.
        folder: where its members go.
        members: pairs of a regular expression for the end of a member's path, from a folder's name on, and where the
            member goes in `folder`, with the groups of the expression. The first that matches counts; members that
            match none are left out.
        checksums: MD5 of members in hexadecimal, by where they go.

    Raises:
        DownloadError: the archive is damaged, lacks what is wanted, or is dangerous.
        OSError: the disk is full, or the folder cannot be written to.
    """
    with _damage_reported(archive), zipfile.ZipFile(archive) as content:
        wanted = _choose(archive, content.infolist(), members)
        missing = {target: info for target, info in wanted.items() if not _is_there(folder / target, info)}
        _check_size(archive, wanted.values())
        size = sum(info.file_size for info in missing.values())
        folder.mkdir(parents=True, exist_ok=True)
        check_space(folder, size, f"unpacking {archive.name}", RESERVE)
        with tqdm(
            total=size, unit="B", unit_scale=True, desc=f"Unpacking {archive.name}", leave=False, disable=None
        ) as bar:
            for target, info in missing.items():
                _unpack(content, info, folder / target, (checksums or {}).get(target), bar)


def _choose(
    archive: Path, infos: Sequence[zipfile.ZipInfo], members: Sequence[tuple[str, str]]
) -> dict[str, zipfile.ZipInfo]:
    """The wanted members by where they go. One dangerous name, wanted or not, condemns the archive."""
    patterns = [(re.compile(r"(?:.*/)?" + pattern), target) for pattern, target in members]
    wanted: dict[str, zipfile.ZipInfo] = {}
    used = set()
    for info in infos:
        _check_name(archive, info)
        if JUNK.fullmatch(info.filename):
            continue
        for pattern, target in patterns:
            if match := pattern.fullmatch(info.filename):
                path = match.expand(target)
                if path in wanted:
                    raise DownloadError(
                        f"{archive} holds two files for {path}: {wanted[path].filename} and {info.filename}."
                    )
                wanted[path] = info
                used.add(pattern)
                break
    if lacking := [
        pattern for (pattern, _), (compiled, _) in zip(members, patterns, strict=True) if compiled not in used
    ]:
        raise DownloadError(
            f"{archive} is not the expected archive: none of its {len(infos)} members is called like {lacking[0]}."
        )
    return wanted


def _check_name(archive: Path, info: zipfile.ZipInfo) -> None:
    # As `zipfile` cuts a name at a null character, the original is looked at.
    name = info.orig_filename
    parts = name.replace("\\", "/").rstrip("/").split("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    reason = ""
    if parts[0] == "" or re.match(r"[A-Za-z]:", name):
        reason = "has an absolute path"
    elif ".." in parts:
        reason = "leads out of the folder"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        reason = "is a link or a device"
    elif any(DEVICES.fullmatch(part) for part in parts) or re.search(r"[\0-\x1f:]", name):
        reason = "has the name of a device, or characters that no file name has"
    elif info.flag_bits & 1:
        reason = "is encrypted"
    if reason:
        raise DownloadError(f"{archive} is refused, nothing was unpacked: its member {name!r} {reason}.")


def _check_size(archive: Path, infos) -> None:
    # A member never gives more bytes than it declares: `zipfile` stops there.
    size, packed = sum(info.file_size for info in infos), archive.stat().st_size
    if size > max(GREATEST_UNSUSPICIOUS_SIZE, GREATEST_RATIO * packed):
        raise DownloadError(
            f"{archive} is refused, nothing was unpacked: its {packed:,} bytes would become {size:,}, which no dataset "
            f"needs."
        )


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size


def _unpack(content: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, checksum: str | None, bar: tqdm) -> None:
    md5 = hashlib.md5(usedforsecurity=False)
    with whole_file(path) as temporary:
        with content.open(info) as source, temporary.open("wb") as target:
            while chunk := source.read(CHUNK):
                md5.update(chunk)
                target.write(chunk)
                bar.update(len(chunk))
        if checksum not in (None, md5.hexdigest()):
            raise zipfile.BadZipFile(
                f"{info.filename} has the wrong checksum: received MD5 {md5.hexdigest()}, expected {checksum}"
            )


@contextlib.contextmanager
def _damage_reported(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise DownloadError(f"{archive} is damaged or no zip archive ({error}).") from error
