"""The standard streams of a process that a shell started."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator

LOADING = "Loading TensorFlow …"


def run_with_streams(main: Callable[[], int]) -> int:
    """Run a command line with usable standard streams; returns the exit status."""
    repair_streams()
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:  # The reader has ended, such as `head`. Python would complain about it when it exits.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        return 141  # What shells report for a program that the signal SIGPIPE ended.


def is_terminal(stream) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # It is missing or closed.
        return False


def repair_streams() -> None:
    """Open standard streams that the caller closed, or other files would get their numbers and messages."""
    for stream, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number, which is this one.
        if getattr(sys, name) is None:
            setattr(sys, name, open(stream, "w" if stream else "r", closefd=False))  # noqa: SIM115
    # A file name that the terminal cannot show must not stop a run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def only_python_on_stderr() -> Iterator[None]:
    """Keep native libraries from writing to the terminal, such as the JPEG library's warnings about damaged files.

    Python's own output is still shown. If standard error is already redirected, nothing changes.
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
            with _native_stderr_closed():
                yield
        finally:
            sys.stderr = before


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence native libraries while they are imported, such as TensorFlow's start-up messages.

    A terminal shows that the program is loading, which takes seconds. Python's own errors are raised after the block
    and are still shown. Without a standard error, nothing changes.
    """
    waiting = "tensorflow" not in sys.modules and is_terminal(sys.stderr)
    if waiting:
        print(LOADING, end="\r", file=sys.stderr, flush=True)
    try:
        with _native_stderr_closed():
            yield
    finally:
        if waiting:
            print(" " * len(LOADING), end="\r", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Send what is written to the file of standard error nowhere."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (AttributeError, OSError, ValueError):
        yield
        return
    try:
        with open(os.devnull, "wb") as null:  # noqa: PTH123 - a device, not a file
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
