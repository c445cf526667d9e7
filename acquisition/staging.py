"""The staging folder of a download, which one process uses at a time, and errors of its disk."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..utils import DownloadError, NoSpaceError

# Next to the datasets: unfinished archives and datasets, and the checksums of earlier downloads.
STAGING = ".downloads"


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[Path]:
    """A staging folder that no other process uses. The lock of a killed process is released."""
    staging = folder / STAGING / name
    staging.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(staging.with_name(f"{name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        print(f"Waiting for another process that is fetching {name} into {folder}.", flush=True)
        held = lock.acquire()
    with held:
        staging.mkdir(exist_ok=True)
        yield staging
        with contextlib.suppress(OSError):
            staging.rmdir()  # if it is empty


@contextlib.contextmanager
def disk_errors_reported(folder: Path) -> Iterator[None]:
    """Raise errors of a folder's disk as a `DownloadError`."""
    try:
        yield
    except NoSpaceError as error:
        raise DownloadError(f"{error} Or choose another folder with -p.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise DownloadError(
                f"The disk of {folder} is full: free some space, and run the command again. Downloads are kept."
            ) from error
        raise DownloadError(f"{folder} is not writable ({error}). Choose another folder with -p.") from error
