"""What all phases share: errors that a user can act on, and files written whole or not at all."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from config import VERSION

# The age from which on a temporary folder is that of a killed process, not of one that is at work.
LEFTOVER_SECONDS = 24 * 60 * 60


class UserError(Exception):
    """A mistake the user can mend. `main` prints its message as one line and exits with status 2.

    The message says what was received, what was expected, and what to do about it.
    """


class DownloadError(UserError):
    """A dataset or weights cannot be had: what was tried, why each way failed, and how to get them by hand.

    `brief` is the reason in a few words, for where there is another way on.
    """

    def __init__(self, message: str, brief: str = ""):
        super().__init__(message)
        self.brief = brief or message


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
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
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
        fails, it is removed and `path` stays as it was. A process that is killed leaves either folder whole or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.part"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
    temporary, former = (path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part") for _ in range(2))
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():  # No system replaces a folder in one step.
            path.replace(former)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def check_space(folder: Path, size: int) -> None:
    """Check that a file of `size` bytes fits into a folder.

    Raises:
        UserError: it says how much is missing.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"The disk is full: {size / 1e6:.0f} MB are to be written into {folder}, and {free / 1e6:.0f} MB are free. "
            f"Make room, and repeat the command."
        )


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


def plot_history(path: Path, history: Sequence[Mapping]) -> None:
    """Draw the training and validation loss over the epochs as a PNG.

    Args:
        path: the file to write.
        history: one row an epoch, with "epoch", "loss" and "val_loss".
    """
    from matplotlib.figure import Figure  # Without pyplot no display is asked for.

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    for key, label in (("loss", "training"), ("val_loss", "validation")):
        axes.plot(epochs, [row[key] for row in history], marker="o", markersize=3, label=label)
    axes.set(xlabel="epoch", ylabel="Kullback-Leibler divergence (nats)")
    axes.locator_params("x", integer=True)
    axes.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


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
