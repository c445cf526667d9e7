"""How the program was installed, as a clone or as a package, and everything that depends on it."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent

# The folder of an installed package may be read-only.
IN_CLONE = (PACKAGE / "pyproject.toml").is_file()


def download_folder(name: str) -> Path:
    """The folder for downloaded files: inside the clone, or in the user's cache."""
    if IN_CLONE:
        return PACKAGE / name
    from platformdirs import user_cache_path  # Here, because the command line imports this module and must start fast.

    return user_cache_path("msinet", appauthor=False) / name


def command() -> str:
    """The command that runs the program, for messages."""
    return "python main.py" if IN_CLONE and Path(sys.argv[0]).stem != "msinet" else "msinet"


def install_command(extra: str) -> str:
    """The command that installs the optional packages of a `requirements-<extra>.txt`, for messages."""
    packages = f"-r requirements-{extra}.txt" if IN_CLONE else f"'msinet[{extra}]'"
    return f"python -m pip install {packages}"


def packages(folder: Path) -> Iterator[Path]:
    """The folders with modules of the package in a folder."""
    yield folder
    for file in sorted(folder.glob("*/__init__.py")):
        yield from packages(file.parent)


@contextlib.contextmanager
def copied_modules() -> Iterator[Path]:
    """A temporary copy of the modules in a folder named `msinet`; other processes import it from the parent folder.

    A clone may have any name, and next to its modules lie weights, photographs and private files.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        for folder in packages(PACKAGE):
            target = Path(temporary) / "msinet" / folder.relative_to(PACKAGE)
            target.mkdir(parents=True)
            tables = () if folder == PACKAGE else folder.glob("*.json")
            for file in (*folder.glob("*.py"), *tables):
                shutil.copyfile(file, target / file.name)
        yield Path(temporary) / "msinet"
