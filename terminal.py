"""The standard streams of a process that a shell started."""

import io
import os
import sys
from collections.abc import Callable


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
