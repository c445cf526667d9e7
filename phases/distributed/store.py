"""One interface to folders and object stores, for `test --cluster`."""

import contextlib
import functools
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.fs

from ...listing import is_skipped
from ...photographs import Photograph
from ...utils import UserError, sweep_leftovers, whole_file

# A request that the store answers with an error, or not at all, is retried; the pauses between attempts double.
STORE_ATTEMPTS = 8
STORE_SECONDS = 30

# Photographs that a process reads at once from an object store: reading takes longer than predicting.
READERS = 8

# One letter before the colon is a drive of Windows.
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
NOT_A_PATH = "the list has no path here, expected text"


def is_address(text) -> bool:
    """Whether a text is an address in an object store, such as "s3://bucket/photographs"."""
    return bool(ADDRESS.match(str(text)))


def absolute(path) -> str:
    """An address unchanged, or the absolute path of a file: workers run in other folders."""
    return str(path).rstrip("/") if is_address(path) else Path(os.path.abspath(path)).as_posix()  # noqa: PTH100 - without ..


@dataclass(frozen=True)
class Place:
    """Where a store is. Names in it are relative to the path, with slashes."""

    path: str

    def full(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextlib.contextmanager
    def cleaned(self) -> Iterator[None]:
        """After the block, remove temporary files that killed workers have left."""
        yield

    def identity(self, folder: str) -> Any:
        """What is equal for two names of one folder."""
        return self.full(folder).rstrip("/")

    def is_link(self, folder: str) -> bool:
        return False


class Folder(Place):
    @contextlib.contextmanager
    def cleaned(self) -> Iterator[None]:
        try:
            yield
        finally:
            for folder, _, _ in os.walk(self.path):
                sweep_leftovers(Path(folder))

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files in a folder of the store, without those of `is_skipped`."""
        with os.scandir(self.full(folder)) as found:
            visible = [entry for entry in found if not is_skipped(entry.name)]
        folders = [entry.name for entry in visible if entry.is_dir()]
        return folders, [entry.name for entry in visible if not entry.is_dir()]

    def identity(self, folder: str) -> Any:
        try:
            status = Path(self.path, folder).stat()
        except FileNotFoundError:
            return super().identity(folder)
        return status.st_dev, status.st_ino

    def is_link(self, folder: str) -> bool:
        return Path(self.path, folder).is_symlink()

    def read(self, name: str) -> bytes:
        return Path(self.path, name).read_bytes()

    def write(self, name: str, contents: bytes) -> None:
        """Write a file whole or not at all."""
        with whole_file(Path(self.path, name)) as temporary:
            temporary.write_bytes(contents)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A local folder; after the block, its files are in the store under the same names."""
        yield Path(self.path)

    def existing(self, names: list[str]) -> list[bool]:
        """Which files exist."""
        return [Path(self.path, name).is_file() for name in names]

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        Path(self.path, name).unlink(missing_ok=True)


class Bucket(Place):
    """The objects below an address in an object store; methods are those of `Folder`."""

    @property
    def root(self) -> str:
        return self.path.split("://", 1)[1]

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        return _filesystem(self.path.split("://", 1)[0])

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        selector = pyarrow.fs.FileSelector(f"{self.root}/{folder}".rstrip("/"))
        found = [info for info in self.filesystem.get_file_info(selector) if not is_skipped(info.base_name)]
        folders = [info.base_name for info in found if info.type == pyarrow.fs.FileType.Directory]
        return folders, [info.base_name for info in found if info.type == pyarrow.fs.FileType.File]

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(f"{self.root}/{name}") as file:
            return file.read()

    def version(self, name: str, copy: Path | None = None) -> str:
        """A file's `version`; the file is copied on request."""
        path = f"{self.root}/{name}"
        with self.filesystem.open_input_stream(path) as file:
            # S3 sends the ETag when a file is opened. Others have a key that is derived from all that they know.
            tag = (file.metadata() or {}).get("ETag", b"").decode() or self.filesystem.handler.fs.ukey(path)
            if copy:
                with copy.open("wb") as target:
                    shutil.copyfileobj(file, target, 2**20)
            return tag

    def write(self, name: str, contents: bytes) -> None:
        with self.filesystem.open_output_stream(f"{self.root}/{name}") as file:
            file.write(contents)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            yield folder
            for file in (path for path in folder.rglob("*") if path.is_file()):
                target = f"{self.root}/{file.relative_to(folder).as_posix()}"
                with file.open("rb") as source, self.filesystem.open_output_stream(target) as copy:
                    shutil.copyfileobj(source, copy, 2**20)

    def existing(self, names: list[str]) -> list[bool]:
        found = self.filesystem.get_file_info([f"{self.root}/{name}" for name in names])
        return [info.type == pyarrow.fs.FileType.File for info in found]

    def remove(self, name: str) -> None:
        if self.existing([name])[0]:
            self.filesystem.delete_file(f"{self.root}/{name}")


Store = Folder | Bucket


def open_store(path: str) -> Store:
    return Bucket(path) if is_address(path) else Folder(path)


class Fetched(NamedTuple):
    """A photograph as a local file, or the reason why it cannot be read.

    The file may only be removed if `fetch` made it, `is_copy`. For its version, see the function `version`.
    """

    file: Path
    error: str = ""
    version: str = ""
    is_copy: bool = False

    @contextlib.contextmanager
    def removed(self) -> Iterator[None]:
        """Remove the copy after the block."""
        try:
            yield
        finally:
            if self.is_copy:
                self.file.unlink(missing_ok=True)


def fetch(photograph: Photograph, folder: Path) -> Fetched:
    """Read a photograph; one in an object store is copied into the folder."""
    path = photograph.path
    if not photograph.map:
        return Fetched(Path(path), NOT_A_PATH)
    if not is_address(path):
        return Fetched(Path(path), version=version(path))
    address, name = path.rsplit("/", 1)
    file = folder / f"{uuid.uuid4().hex}{Path(name).suffix}"
    try:
        tag = Bucket(address).version(name, file)
    except FileNotFoundError:
        return Fetched(file, "no such file")
    except UserError as error:
        return Fetched(file, str(error))
    except Exception as error:  # Each kind of store has its own.
        return Fetched(file, f"cannot be read from the store ({str(error)[:200]})")
    return Fetched(file, version=tag, is_copy=True)


def version(path: str) -> str:
    """What changes when a photograph is replaced: its ETag in a store, else its size and its modification time.

    Empty if there is no such photograph.
    """
    try:
        if is_address(path):
            address, name = path.rsplit("/", 1)
            return Bucket(address).version(name)
        status = os.stat(path)  # noqa: PTH116 - a path from the list may not be valid, which this reports
        return f"{status.st_size} {status.st_mtime_ns}"
    except FileNotFoundError:
        return ""
    except Exception as error:
        return f"unknown ({type(error).__name__})"


@functools.lru_cache
def _filesystem(scheme: str) -> pyarrow.fs.FileSystem:
    """The store of a kind of address. Credentials, region and endpoint come from the environment."""
    if scheme == "s3":
        return pyarrow.fs.S3FileSystem(
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=STORE_ATTEMPTS),
            connect_timeout=STORE_SECONDS,
            request_timeout=STORE_SECONDS,
            allow_delayed_open=True,  # One request writes a file, so it is written whole or not at all.
        )
    try:
        import fsspec

        files = fsspec.filesystem(scheme, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UserError(f"Received an address of {scheme}://, which cannot be opened: {error}.") from error
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(files))
