"""Shared by all phases: errors that a user can act on, and complete files or none."""

import contextlib
import csv
import functools
import itertools
import json
import math
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .config import VERSION
from .terminal import only_python_on_stderr as only_python_on_stderr
from .terminal import quiet_stderr as quiet_stderr

# TensorFlow reads these variables when it is imported, so `__init__.py` imports this module first. Values that the
# user set are kept.
# oneDNN: TensorFlow enables it by default only on newer processors, but it is up to three times as fast on all.
# Log level 3: only errors, because TensorFlow's other messages would hide ours.
TENSORFLOW_SETTINGS = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
for _name, _value in TENSORFLOW_SETTINGS.items():
    os.environ.setdefault(_name, _value)

# Names of unfinished files and folders start with this. Next to each is a lock file, which its process holds.
UNFINISHED = ".unfinished-"
OF_THE_DESKTOP = (".DS_Store", "Thumbs.db", "desktop.ini")  # Added by operating systems.
FORMER = "former"  # in an unfinished folder: the folder that it is about to replace


class UserError(Exception):
    """A mistake the user can fix. `main` prints its message and exits with status 2.

    The message says what was received, what was expected, and what to do about it.
    """


class NoSpaceError(UserError):
    """The disk is too full for the data to write."""


class DownloadError(UserError):
    """A dataset or weights are not available: what was tried, why it failed, and how to download them by hand.

    Printed, it is the message on the first line, followed by the details, one per line, indented. `brief` is the
    reason in a few words, for callers that can continue without the file.
    """

    def __init__(self, message: str, details: Sequence[str] = (), brief: str = ""):
        super().__init__("\n  ".join([message, *details]))
        self.message, self.details, self.brief = message, tuple(details), brief or message


# --- Complete files or none -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a complete file or none.

    Args:
        path: the file to create or replace; its folder is created when missing.

    Yields:
        A temporary path in the same folder and with the same suffixes. When the block succeeds, the file there replaces
        `path` in one step; when the block fails, it is removed and `path` stays as it was. If the process is killed,
        the next process that writes into the folder removes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(path.parent.absolute())
    with _unfinished(path.parent, "".join(path.suffixes)[-32:]) as temporary:
        yield temporary
        temporary.replace(path)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Write a complete folder or none.

    Args:
        path: the folder to create or replace.

    Yields:
        An empty temporary folder on the same disk. When the block succeeds, it replaces `path`; when the block fails,
        it is removed and `path` stays as it was. If the process is killed between the two steps of a replacement, the
        next call restores the former folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(path.parent)
    with _unfinished(path.parent) as unfinished:
        temporary, former = unfinished / "new", unfinished / FORMER / path.name
        temporary.mkdir(parents=True)
        former.parent.mkdir()
        yield temporary
        if path.exists():  # No system replaces a folder in one step.
            path.replace(former)
        temporary.replace(path)


@contextlib.contextmanager
def _unfinished(folder: Path, suffixes: str = "") -> Iterator[Path]:
    """A new path in a folder, which is locked during the block; whatever is there afterwards is removed."""
    temporary = folder / f"{UNFINISHED}{uuid.uuid4().hex}{suffixes}"
    from filelock import FileLock  # Here and below, imports that would slow down `--help`.

    lock = temporary.with_name(f"{temporary.name}.lock")
    with FileLock(lock):
        try:
            yield temporary
        finally:
            _clear(temporary, lock)


def sweep_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder while they wrote files or folders into it.

    Files of running processes are kept. A folder that was about to be replaced is restored, unless another one has
    taken its place.
    """
    from filelock import FileLock

    for lock in folder.glob(f"{UNFINISHED}*.lock"):
        # The owner may still be running, or be another user.
        with contextlib.suppress(OSError), FileLock(lock, timeout=0):
            _clear(lock.with_suffix(""), lock)


def _clear(leftover: Path, lock: Path) -> None:
    if leftover.is_dir():
        for former in leftover.glob(f"{FORMER}/*"):
            if not (leftover.parent / former.name).exists():
                former.replace(leftover.parent / former.name)
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)
    with contextlib.suppress(PermissionError):  # Windows removes it when it is released.
        lock.unlink(missing_ok=True)


@functools.cache
def _sweep_once(folder: Path) -> None:
    """Once per process, because a folder may receive thousands of files."""
    sweep_leftovers(folder)


@contextlib.contextmanager
def locked(file: Path, doing: str) -> Iterator[None]:
    """Lock something for this process. The lock of a killed process is released.

    Args:
        file: the lock's file, which stays; next to it is a note about the process that has the lock.
        doing: for the message, such as "is training results/a".

    Raises:
        UserError: another process has the lock.
    """
    from filelock import FileLock, Timeout

    file.parent.mkdir(parents=True, exist_ok=True)
    owner, lock = file.with_suffix(".lock.json"), FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another process {doing}{_holder(owner)}. Wait until it ends, stop it, or choose another --results folder."
        ) from error
    try:
        write_json(owner, {"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _holder(owner: Path) -> str:
    try:
        holder = json.loads(owner.read_text(encoding="utf-8"))
        return f": process {holder['process']}, since {holder['since']}"
    except (OSError, ValueError, KeyError):  # The note is not written yet.
        return ""


def check_space(folder: Path, size: int, purpose: str = "", reserve: int = 0) -> None:
    """Raise a `NoSpaceError` unless `size` bytes fit into a folder, and `reserve` bytes stay free.

    `purpose` says in a few words what the space is needed for.
    """
    free = shutil.disk_usage(folder).free
    if free < size + reserve:
        needs = f" for {purpose}" if purpose else ""
        keeps = f", of which {reserve / 1e6:.0f} MB must stay free" if reserve else ""
        raise NoSpaceError(
            f"The disk is full: {folder} needs {size / 1e6:.0f} MB{needs}, and {free / 1e6:.0f} MB are free{keeps}. "
            f"Free some space, and repeat the command."
        )


def check_writable(folder: Path) -> None:
    """Raise a `UserError` unless a folder is writable; it is created when missing. Nothing is computed in vain then."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise UserError(
            f"{folder} is not writable ({error.strerror}): free some space, change its permissions, or name another "
            f"folder."
        ) from error


def check_replaceable(folder: Path, marker: str) -> None:
    """Raise a `UserError` if a folder holds anything that this program did not write.

    `marker` is the file that identifies folders of this program, and that it writes last.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: name a folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / marker).exists():
        raise UserError(f"{folder} holds files that this command did not write: name an empty or a new folder.")
    # The change time, because a file that is moved there keeps its modification time.
    written = (folder / marker).stat().st_ctime_ns
    for file in folder.rglob("*"):
        if file.is_file() and file.lstat().st_ctime_ns > written and file.name not in OF_THE_DESKTOP:
            raise UserError(
                f"{file} was added or changed after this command wrote the folder, and would be lost: move it, remove "
                f"{folder}, or name another folder."
            )


# --- Records and small helpers ----------------------------------------------------------------------------------------


def write_json(path: Path, content: dict) -> None:
    """Write a complete JSON file or none."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a complete CSV file or none; a key of a row that is no column is a `ValueError`."""
    with (
        whole_file(path) as temporary,
        # Names of photographs may be bytes that are not valid text.
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.DictWriter(file, list(columns))
        table.writeheader()
        table.writerows(rows)


def write_record(path: Path, content: dict) -> None:
    """Write the record of a run: what it did, and the versions that its numbers depend on."""
    write_json(path, {**content, "version": VERSION, "versions": versions(), "platform": platform.platform()})


def name_some(names: Sequence[str], separator: str = ", ", most: int = 5) -> str:
    """The first few names and the number of the others, for a sentence."""
    return separator.join([*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])])


def parallel_map(
    function: Callable,
    items: Iterable,
    workers: int | None = None,
    ahead: int | None = None,
    weight: Callable[[Any], float] | None = None,
    most: float = math.inf,
) -> Iterator:
    """Like `map`, in threads. NumPy, SciPy, Pillow and TensorFlow run in parallel there.

    Args:
        function: takes one item.
        items: any number of items; memory use does not depend on it.
        workers: threads; by default one per processor core.
        ahead: largest number of items in flight; by default four per thread.
        weight: memory that an item takes, in any unit such as pixels, if items differ much in it.
        most: largest sum of weights in flight. A heavier item runs alone.

    Yields:
        The results, in order. If `items` raises an error, it is raised after the results of the items before.
    """
    workers = workers or cores()
    ahead = ahead or 4 * workers
    pool = ThreadPoolExecutor(workers)
    pending: deque = deque()  # of futures with their weights
    load, error = 0.0, None
    items = iter(items)
    try:
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except Exception as raised:
                error = raised
                break
            heavy = weight(item) if weight else 0.0
            while pending and (len(pending) >= ahead or load + heavy > most):
                future, gone = pending.popleft()
                load -= gone
                yield future.result()
            pending.append((pool.submit(function, item), heavy))
            load += heavy
        while pending:
            yield pending.popleft()[0].result()
        if error:
            raise error
    finally:
        pool.shutdown(cancel_futures=True)


def in_batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of at most `size` items. If `items` raises an error, it is raised after the items before."""
    items = iter(items)
    batch: list = []
    try:
        while True:
            batch.extend(itertools.islice(items, size))  # Keeps earlier items on an error.
            if not batch:
                return
            yield batch
            batch = []
    except Exception:
        yield batch
        raise


def cores() -> int:
    """The processor cores that this process may use; containers and batch systems may limit them."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")  # Ray, among others, sets the limit of a process here.
    return min(available, int(limit)) if limit.isdigit() and int(limit) else available


def count(number: int, noun: str) -> str:
    """ "1 map", "2 maps": a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@functools.cache
def print_once(text: str) -> None:
    """Print a line, unless this process has printed it before."""
    print(text, flush=True)


def onednn_enabled() -> bool:
    """Whether TensorFlow uses oneDNN's kernels; see `TENSORFLOW_SETTINGS`."""
    return os.environ["TF_ENABLE_ONEDNN_OPTS"].lower() not in ("0", "false")


@functools.cache
def processor_instructions() -> frozenset[str]:
    """Names of the processor's instruction sets, such as "avx2"; empty if they are unknown."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return frozenset()


def processor_name() -> str:
    """The processor's model, such as "AMD EPYC"."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine() or "not known"


def versions() -> dict[str, str]:
    """Versions of the libraries that a run's numbers may depend on."""
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("tensorflow", "keras", "numpy")}}
