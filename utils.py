"""What all phases share: errors that a user can act on, and files written whole or not at all."""

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from config import VERSION

# The age from which on temporary files of another computer, of which nobody here can say whether it lives, are removed.
LEFTOVER_SECONDS = 24 * 60 * 60

# Temporary files are called after whom they belong to: the computer, the process there, and a number of their own.
OWNED = re.compile(
    r"\.(?:(?P<target>.+)\.)?(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}(?P<suffixes>.*)", re.DOTALL
)
PART, FORMER = ".part", ".former"  # a folder that is being written, and the one whose place it is about to take


class UserError(Exception):
    """A mistake the user can mend. `main` prints its message and exits with status 2.

    The message says what was received, what was expected, and what to do about it.
    """


class NoSpaceError(UserError):
    """The disk has too little room for what is to be written."""


class DownloadError(UserError):
    """A dataset or weights cannot be had: what was tried, why each way failed, and how to get them by hand.

    Printed, it is the message in the first line, and below it the details, one in a line, indented. `brief` is the
    reason in a few words, for where there is another way on.
    """

    def __init__(self, message: str, details: Sequence[str] = (), brief: str = ""):
        super().__init__("\n  ".join([message, *details]))
        self.message, self.details, self.brief = message, tuple(details), brief or message


# --- Files whole or not at all ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    Args:
        path: the file to create or replace; its folder is created when missing.

    Yields:
        A temporary path in the same folder and with the same suffixes. When the block succeeds, it replaces
        `path` in one step; when the block fails, it is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(path.parent.absolute())
    # Without the rest of the name, which may be as long as the system allows.
    temporary = path.with_name(f".{_owner()}{''.join(path.suffixes)[-32:]}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Write a folder with all that is in it, or not at all.

    Args:
        path: the folder to create or replace.

    Yields:
        An empty temporary folder beside it. When the block succeeds, it takes the place of `path`; when the block
        fails, it is removed and `path` stays as it was. Of a process that is killed in the moment between, the former
        folder comes back with the next call.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(path.parent)
    temporary, former = (path.with_name(f".{path.name}.{_owner()}{suffix}") for suffix in (PART, FORMER))
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():  # No system replaces a folder in one step.
            path.replace(former)
        temporary.replace(path)
    finally:
        if former.exists() and not path.exists():
            former.replace(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def sweep_leftovers(folder: Path) -> None:
    """Remove what killed processes have left in a folder while they wrote files or folders into it.

    What belongs to a living process stays, and so does what another computer began within the last day. A folder that
    was about to be replaced comes back, unless another has taken its place.
    """
    try:
        entries = list(folder.iterdir())
    except OSError:
        return  # Where nobody may list, one may still write.
    for leftover in entries:
        match = OWNED.fullmatch(leftover.name)
        if not match or _is_in_use(leftover, match["host"], int(match["process"])):
            continue
        # Another process may be sweeping too, or have no permission for what a third one left.
        with contextlib.suppress(OSError):
            if match["suffixes"] == FORMER and match["target"] and not (folder / match["target"]).exists():
                leftover.replace(folder / match["target"])
            elif leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


@functools.cache
def _sweep_once(folder: Path) -> None:
    """Once a run, as a folder may be given thousands of files."""
    sweep_leftovers(folder)


def _owner() -> str:
    return f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@functools.cache
def _host() -> str:
    """Where the numbers of processes are those that are seen here: this computer, or this container on it."""
    namespace = Path("/proc/self/ns/pid")
    place = f"{platform.node()} {namespace.stat().st_ino if namespace.exists() else ''}"
    return f"{zlib.crc32(place.encode()):08x}"


def _is_in_use(leftover: Path, host: str, process: int) -> bool:
    if host == _host() and os.name == "posix":  # Elsewhere, the question whether a process lives would end it.
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # It is another user's.
        return True
    try:
        return time.time() - leftover.stat().st_mtime < LEFTOVER_SECONDS
    except OSError:
        return True  # Its owner has just finished.


def check_space(folder: Path, size: int, purpose: str = "", reserve: int = 0) -> None:
    """Check that `size` bytes fit into a folder.

    Args:
        folder: where they are to be written.
        size: bytes.
        purpose: what for, in a few words.
        reserve: bytes that must stay free.

    Raises:
        NoSpaceError: it says how much is missing.
    """
    free = shutil.disk_usage(folder).free
    if free < size + reserve:
        needs = f" for {purpose}" if purpose else ""
        keeps = f", of which {reserve / 1e6:.0f} must stay so" if reserve else ""
        raise NoSpaceError(
            f"The disk is full: {size / 1e6:.0f} MB are to be written into {folder}{needs}, and {free / 1e6:.0f} MB "
            f"are free{keeps}. Make room, and repeat the command."
        )


def check_writable(folder: Path) -> None:
    """Check, before anything is computed, that files can be written into a folder; it is created when missing.

    Raises:
        UserError: it says why not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise UserError(
            f"Nothing can be written into {folder} ({error.strerror}): make room there, change its permissions, or "
            f"name another folder."
        ) from error


def check_replaceable(folder: Path, marker: str) -> None:
    """Complain if a folder holds anything that this program did not write.

    Args:
        folder: to be replaced.
        marker: the file by which our own folders are known.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).exists():
        raise UserError(f"{folder} holds files that this command did not write: name an empty or a new folder.")


# --- Listing files ----------------------------------------------------------------------------------------------------


def list_files(folder: Path, suffixes: tuple[str, ...] = ("",)) -> list[Path]:
    """Every file below a folder, in the order of their paths; hidden files and folders are passed over.

    What is no regular file, such as a pipe, is listed too, so that who was to read it can say so.

    Args:
        folder: one that is missing has no files.
        suffixes: those that count, in lower case; all by default.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"The folder {error.filename} cannot be read ({error.strerror}): allow reading it, or move it away."
        )

    found = []
    for path, folders, files in os.walk(folder, onerror=refuse if folder.is_dir() else None):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(path, name) for name in files if not name.startswith(".") and name.lower().endswith(suffixes)]
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def files_by_name(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Files below a folder by their names, the paths there without suffix, in their own order.

    Raises:
        UserError: two files share a name.
    """
    named: dict[str, Path] = {}
    for file in files:
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise UserError(f"Two files for one image: {named[name]} and {file}. Keep one of them.")
        named[name] = file
    return named


# --- Records and small things -----------------------------------------------------------------------------------------


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_record(path: Path, content: dict) -> None:
    """Write what someone needs to judge or repeat a run: what it did, and the versions that its numbers depend on."""
    write_json(path, {**content, "version": VERSION, "versions": versions(), "platform": platform.platform()})


def name_some(names: Sequence[str], separator: str = ", ", most: int = 5) -> str:
    """The first of some names, and how many more there are, for a sentence."""
    return separator.join([*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])])


def parallel_map(
    function: Callable,
    items: Iterable,
    workers: int | None = None,
    ahead: int | None = None,
    weight: Callable[[Any], float] | None = None,
    most: float = math.inf,
) -> Iterator:
    """Like `map`, in threads, which NumPy, SciPy, Pillow and TensorFlow let run side by side.

    Args:
        function: of one item.
        items: any number of them; their number does not matter to the memory.
        workers: threads; one a processor core by default.
        ahead: the greatest number of items between the input and the output; four a thread by default.
        weight: of an item, such as its pixels, where items differ much in the memory that they take.
        most: the greatest sum of weights between the input and the output. An item that is heavier goes alone.

    Yields:
        The results, in order.
    """
    workers = workers or cores()
    ahead = ahead or 4 * workers
    pool = ThreadPoolExecutor(workers)
    pending: deque = deque()  # of futures with their weights
    load = 0.0
    try:
        for item in items:
            heavy = weight(item) if weight else 0.0
            while pending and (len(pending) >= ahead or load + heavy > most):
                future, gone = pending.popleft()
                load -= gone
                yield future.result()
            pending.append((pool.submit(function, item), heavy))
            load += heavy
        while pending:
            yield pending.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """The processor cores that this process may use, which containers and batch systems make fewer than there are."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("OMP_NUM_THREADS", "")  # Ray, among others, says there what is a process's part.
    return min(there, int(share)) if share.isdigit() and int(share) else there


def count(number: int, noun: str) -> str:
    """ "1 map", "2 maps": a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def versions() -> dict[str, str]:
    """The versions that a run's numbers may depend on, for its record."""
    packages = ("tensorflow", "keras", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


@contextlib.contextmanager
def only_python_on_stderr() -> Iterator[None]:
    """Keep native libraries from writing to the terminal, such as the JPEG library's remarks on damaged files.

    What Python prints there is still seen. Where something else already receives it, nothing is changed.
    """
    try:
        attached = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        attached = False
    if not attached:
        yield
        return
    before = sys.stderr
    with os.fdopen(os.dup(2), "w", encoding=before.encoding, errors=before.errors, buffering=1) as terminal:
        sys.stderr = terminal
        try:
            with quiet_stderr():
                yield
        finally:
            sys.stderr = before


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence what native libraries print while they are imported, such as TensorFlow's greeting.

    Python's own errors are raised after the block, and so are seen.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a file
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
