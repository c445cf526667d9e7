"""Files of folders: which there are, and their names."""

import hashlib
import os
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from .utils import UserError

# Folders that other programs make next to photographs: thumbnails, metadata and deleted files.
NOT_OF_USERS = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "lost+found")


def is_skipped(name: str) -> bool:
    """Whether listings skip a file or folder of this name: it is hidden, or another program made it."""
    return name.startswith(".") or name.lower() in NOT_OF_USERS


def list_files(folder: Path, suffixes: tuple[str, ...] = ("",), without: Sequence[Path] = ()) -> list[Path]:
    """The files of `list_names` as paths."""
    return [folder / name for name in list_names(folder, suffixes, without)]


def list_names(folder: Path, suffixes: tuple[str, ...] = ("",), without: Sequence[Path] = ()) -> list[str]:
    """Every file below a folder as a relative path with slashes, sorted, except those of `is_skipped`.

    Linked folders are listed once, even if links form a cycle. Files that are not regular, such as pipes, are listed
    too, so the reader can report them.

    Args:
        folder: a missing folder has no files.
        suffixes: lower-case suffixes to include; all by default.
        without: folders to leave out.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"The folder {error.filename} cannot be read ({error.strerror}): allow reading it, or move it away."
        )

    found: list[str] = []
    start = len(os.path.join(folder, ""))  # noqa: PTH118 - texts, because many paths are slow
    seen = {_identity(path) for path in without if path.is_dir()}
    pending = deque([os.fspath(folder)])
    while pending:  # Links come last, so files are listed by their own path if they have one.
        for path, folders, files in os.walk(pending.popleft(), onerror=refuse if folder.is_dir() else None):
            if (identity := _identity(path)) in seen:
                folders.clear()
                continue
            seen.add(identity)
            folders[:] = [name for name in folders if not is_skipped(name)]
            links = (os.path.join(path, name) for name in sorted(folders))  # noqa: PTH118
            pending += [link for link in links if os.path.islink(link)]  # noqa: PTH114
            above = path[start:].replace(os.sep, "/") + "/" if len(path) > start else ""
            found += [above + name for name in files if name.lower().endswith(suffixes) and not is_skipped(name)]
    return sorted(found)


def _identity(folder: str | Path) -> tuple[int, int]:
    """What is equal for two paths of one folder."""
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def count_suffixes(files: Iterable[Path | str]) -> str:
    """ "3 .txt, 1 .cr2": how many files there are of each suffix, the most frequent first."""
    return name_counts(Counter(map(suffix_of, files)))


def suffix_of(file: Path | str) -> str:
    return os.path.splitext(file)[1].lower() or "without suffix"  # noqa: PTH122 - also of texts


def name_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {suffix}" for suffix, number in counts.most_common())


def files_by_name(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Files below a folder by name, the relative path without suffix, in the given order.

    Names are in Unicode's form NFC, because macOS writes an accent as a separate character. Two files that share a name
    are a `UserError`.
    """
    named: dict[str, Path] = {}
    for file in files:
        name = unicodedata.normalize("NFC", file.relative_to(folder).with_suffix("").as_posix())
        if name in named:
            raise UserError(f"Two files for one image: {named[name]} and {file}. Keep one of them.")
        named[name] = file
    return named


def hash_files(files: Iterable[Path], algorithm: str = "sha256"):
    """The hash object, as of `hashlib`, of the contents of files in order, read in pieces."""
    digest = hashlib.new(algorithm, usedforsecurity=False)  # The published checksums are MD5.
    for file in files:
        with file.open("rb") as contents:
            while chunk := contents.read(1 << 20):
                digest.update(chunk)
    return digest
