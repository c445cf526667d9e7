"""What all phases share: errors that a user can act on, and files written whole or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """A mistake the user can mend. `main` prints its message as one line and exits with status 2.

    The message says what was received, what was expected, and what to do about it.
    """


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
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
