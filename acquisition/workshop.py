"""Where downloads are at work: a folder that one process uses at a time, and what its disk may answer."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from utils import DownloadError, NoSpaceError

# Beside the datasets: archives on their way, datasets that are being made, and the checksums of earlier downloads.
WORKSHOP = ".downloads"


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[Path]:
    """A folder to work in that no other process uses. The lock of a process that dies is free."""
    workshop = folder / WORKSHOP / name
    workshop.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workshop.with_name(f"{name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Waiting for another process that is fetching {name} into {folder}.", flush=True)
        lock.acquire()
    try:
        # The process that was waited for has removed it.
        workshop.mkdir(parents=True, exist_ok=True)
        yield workshop
        with contextlib.suppress(OSError):
            workshop.rmdir()  # if nothing is left in it
    finally:
        lock.release()


@contextlib.contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """What the disk of a folder refuses, as a `DownloadError`."""
    try:
        yield
    except NoSpaceError as error:
        raise DownloadError(f"{error} Or choose another folder with -p.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise DownloadError(
                f"The disk of {folder} is full. What was fetched is kept: make room, and run the command again."
            ) from error
        raise DownloadError(f"{folder} cannot be written to ({error}). Choose another folder with -p.") from error
