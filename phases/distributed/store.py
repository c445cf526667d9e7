"""One interface to folders and object stores, and the list of photographs as a stream, for `test --cluster`."""

import abc
import contextlib
import functools
import io
import itertools
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs
import pyarrow.parquet as pq

from ...data import IMAGE_SUFFIXES
from ...photographs import Photograph, name_maps, same_name
from ...utils import UserError, sweep_leftovers, whole_file

# A request that the store answers with an error, or not at all, is retried; the pauses between attempts double.
STORE_ATTEMPTS = 8
STORE_SECONDS = 30


# --- Folders and object stores ----------------------------------------------------------------------------------------


def is_address(text) -> bool:
    """Whether a text is an address in an object store, such as "s3://bucket/photographs"."""
    return "://" in str(text)


def absolute(path) -> str:
    """An address unchanged, or the absolute path of a file: workers run in other folders."""
    return str(path).rstrip("/") if is_address(path) else Path(path).absolute().as_posix()


def open_store(path: str) -> "Store":
    return Bucket(path) if is_address(path) else Folder(path)


@dataclass(frozen=True)
class Store(abc.ABC):
    """A folder, or the objects below an address in an object store. Names are relative to it, with slashes."""

    path: str

    def full(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextlib.contextmanager
    def cleaned(self) -> Iterator[None]:
        """After the block, remove temporary files that killed workers have left."""
        yield

    @abc.abstractmethod
    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files in a folder of the store, without hidden ones."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes: ...

    @abc.abstractmethod
    def write(self, name: str, contents: bytes) -> None:
        """Write a file whole or not at all."""

    @abc.abstractmethod
    def existing(self, names: list[str]) -> list[bool]:
        """Which files exist."""

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, or a folder with everything in it, if it exists."""


class Folder(Store):
    @contextlib.contextmanager
    def cleaned(self) -> Iterator[None]:
        try:
            yield
        finally:
            for folder, _, _ in os.walk(self.path):
                sweep_leftovers(Path(folder))

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        with os.scandir(self.full(folder)) as found:
            visible = [entry for entry in found if not entry.name.startswith(".")]
        # Links to folders are not followed, because they may form a loop.
        folders = [entry.name for entry in visible if entry.is_dir() and not entry.is_symlink()]
        return folders, [entry.name for entry in visible if not entry.is_dir()]

    def read(self, name: str) -> bytes:
        return Path(self.path, name).read_bytes()

    def write(self, name: str, contents: bytes) -> None:
        with whole_file(Path(self.path, name)) as temporary:
            temporary.write_bytes(contents)

    def existing(self, names: list[str]) -> list[bool]:
        return [Path(self.path, name).is_file() for name in names]

    def remove(self, name: str) -> None:
        path = Path(self.path, name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class Bucket(Store):
    @property
    def root(self) -> str:
        return self.path.split("://", 1)[1]

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        return _filesystem(self.path.split("://", 1)[0])

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        selector = pyarrow.fs.FileSelector(f"{self.root}/{folder}".rstrip("/"))
        found = [info for info in self.filesystem.get_file_info(selector) if not info.base_name.startswith(".")]
        folders = [info.base_name for info in found if info.type == pyarrow.fs.FileType.Directory]
        return folders, [info.base_name for info in found if info.type == pyarrow.fs.FileType.File]

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(f"{self.root}/{name}") as file:
            return file.read()

    def write(self, name: str, contents: bytes) -> None:
        with self.filesystem.open_output_stream(f"{self.root}/{name}") as file:
            file.write(contents)

    def existing(self, names: list[str]) -> list[bool]:
        found = self.filesystem.get_file_info([f"{self.root}/{name}" for name in names])
        return [info.type == pyarrow.fs.FileType.File for info in found]

    def remove(self, name: str) -> None:
        path = f"{self.root}/{name}"
        kind = self.filesystem.get_file_info(path).type
        if kind == pyarrow.fs.FileType.Directory:
            self.filesystem.delete_dir(path)
        elif kind == pyarrow.fs.FileType.File:
            self.filesystem.delete_file(path)


def fetch(path: str, folder: Path) -> tuple[Path, str]:
    """A photograph as a local file, and "" or the reason why it cannot be read; a copy goes into the folder."""
    if not is_address(path):
        return Path(path), ""
    address, name = path.rsplit("/", 1)
    file = folder / f"{uuid.uuid4().hex}{Path(name).suffix}"
    try:
        file.write_bytes(open_store(address).read(name))
    except FileNotFoundError:
        return file, "no such file"
    except OSError as error:
        return file, f"cannot be read from the store ({str(error)[:200]})"
    return file, ""


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


# --- The list of photographs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photographs:
    """A stream of photographs, in the same order each time.

    Attributes:
        path: a photograph, a folder of photographs, or a manifest (.txt or .parquet); an absolute path or an address.
        results: a folder that is skipped if it is below `path`.
        suffix: of the maps.
    """

    path: str
    results: str
    suffix: str

    def __iter__(self) -> Iterator[Photograph]:
        try:
            yield from self._in_manifest() if self.path.endswith((".txt", ".parquet")) else self._below()
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error}. Name photographs with -p.") from error

    def _below(self) -> Iterator[Photograph]:
        folder, _, name = self.path.rpartition("/")
        folder = folder or "/"
        if name.lower().endswith(IMAGE_SUFFIXES) and open_store(folder).existing([name])[0]:
            return self._named(folder, [name])
        return self._walk(open_store(self.path), [""])

    def _walk(self, store: Store, folders: list[str]) -> Iterator[Photograph]:
        """The photographs of a folder, then those below it.

        It takes several folders, whose maps would share one folder on a file system that ignores case.
        """
        inner: dict[str, list[str]] = {}
        names = []
        for folder in folders:
            subfolders, files = store.entries(folder)
            prefix = f"{folder}/" if folder else ""
            names += [prefix + name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
            for name in sorted(subfolders):
                if store.full(prefix + name) != self.results:
                    inner.setdefault(same_name(name), []).append(prefix + name)
        yield from self._named(self.path, names)
        for same in inner.values():
            yield from self._walk(store, same)

    def _named(self, root: str, names: list[str]) -> Iterator[Photograph]:
        """Name the maps of photographs. Only names with the same beginning can clash, so they are named in groups."""
        names.sort(key=lambda name: (_beginning(name), name))
        for _, alike in itertools.groupby(names, _beginning):
            for photograph in name_maps([Path(name) for name in alike], Path(), self.suffix):
                yield photograph._replace(path=f"{root}/{photograph.path}")

    def _in_manifest(self) -> Iterator[Photograph]:
        """Each map's name contains the photograph's whole name, so no two photographs share a map."""
        folder = self.path.rsplit("/", 1)[0]
        for line in _lines(self.path):
            if is_address(line):
                path, name = line, line.replace("://", "/")
            elif Path(line).is_absolute() or ".." in Path(line).parts:
                path = os.path.normpath(Path(folder, line))
                name = f"file/{Path(path).relative_to(Path(path).anchor).as_posix()}"
            else:
                name = Path(line).as_posix()
                path = f"{folder}/{name}"
            yield Photograph(path, f"images/{name}{self.suffix}", f"overlays/{name}.jpeg")


def _beginning(name: str) -> str:
    return same_name(name.rsplit("/", 1)[-1].split(".", 1)[0])


def _lines(manifest: str) -> Iterator[str]:
    """The paths in a manifest."""
    folder, name = manifest.rsplit("/", 1)
    store = open_store(folder)
    files = store.filesystem if isinstance(store, Bucket) else pyarrow.fs.LocalFileSystem()
    root = store.root if isinstance(store, Bucket) else folder
    if name.endswith(".parquet"):
        with files.open_input_file(f"{root}/{name}") as file:
            parquet = pq.ParquetFile(file)
            if "path" not in parquet.schema_arrow.names:
                raise UserError(f"{manifest} has the columns {parquet.schema_arrow.names}, expected one named 'path'.")
            for batch in parquet.iter_batches(columns=["path"]):
                yield from batch.column(0).to_pylist()
    else:
        with files.open_input_stream(f"{root}/{name}") as file:
            for line in io.BufferedReader(file):
                if line.strip():
                    yield os.fsdecode(line.strip())
