"""One interface to folders and object stores, and the list of photographs as a stream, for `test --cluster`."""

import abc
import codecs
import contextlib
import functools
import io
import itertools
import os
import posixpath
import re
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from ...image_files import IMAGE_SUFFIXES
from ...listing import is_skipped, suffix_of
from ...photographs import Photograph, name_maps, same_name
from ...utils import UserError, sweep_leftovers, whole_file

# A request that the store answers with an error, or not at all, is retried; the pauses between attempts double.
STORE_ATTEMPTS = 8
STORE_SECONDS = 30

# One letter before the colon is a drive of Windows.
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


# Types of a manifest's column.
TEXT = (pa.string(), pa.large_string(), pa.null())
NOT_A_PATH = "the list has no path here, expected text"


# --- Folders and object stores ----------------------------------------------------------------------------------------


def is_address(text) -> bool:
    """Whether a text is an address in an object store, such as "s3://bucket/photographs"."""
    return bool(ADDRESS.match(str(text)))


def absolute(path) -> str:
    """An address unchanged, or the absolute path of a file: workers run in other folders."""
    return str(path).rstrip("/") if is_address(path) else Path(os.path.abspath(path)).as_posix()  # noqa: PTH100 - without ..


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
        """Names of the folders and of the files in a folder of the store, without those of `is_skipped`."""

    def identity(self, folder: str) -> Any:
        """What is equal for two names of one folder."""
        return self.full(folder).rstrip("/")

    def is_link(self, folder: str) -> bool:
        return False

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
        """Remove a file if it exists."""


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
        with whole_file(Path(self.path, name)) as temporary:
            temporary.write_bytes(contents)

    def existing(self, names: list[str]) -> list[bool]:
        return [Path(self.path, name).is_file() for name in names]

    def remove(self, name: str) -> None:
        Path(self.path, name).unlink(missing_ok=True)


class Bucket(Store):
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
        return self.read_version(name)[0]

    def read_version(self, name: str, contents: bool = True) -> tuple[bytes, str]:
        """A file's contents, if wanted, and its `version`."""
        path = f"{self.root}/{name}"
        with self.filesystem.open_input_stream(path) as file:
            # S3 sends the ETag when a file is opened. Others have a key that is derived from all that they know.
            tag = (file.metadata() or {}).get("ETag", b"").decode() or self.filesystem.handler.fs.ukey(path)
            return file.read() if contents else b"", tag

    def write(self, name: str, contents: bytes) -> None:
        with self.filesystem.open_output_stream(f"{self.root}/{name}") as file:
            file.write(contents)

    def existing(self, names: list[str]) -> list[bool]:
        found = self.filesystem.get_file_info([f"{self.root}/{name}" for name in names])
        return [info.type == pyarrow.fs.FileType.File for info in found]

    def remove(self, name: str) -> None:
        if self.existing([name])[0]:
            self.filesystem.delete_file(f"{self.root}/{name}")


class Fetched(NamedTuple):
    """A photograph as a local file, or the reason why it cannot be read.

    Attributes:
        file: the photograph itself, or a copy.
        error: the reason, or "".
        version: see `version`.
        is_copy: whether `fetch` made the file. Only then may it be removed.
    """

    file: Path
    error: str = ""
    version: str = ""
    is_copy: bool = False


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
        contents, tag = Bucket(address).read_version(name)
        file.write_bytes(contents)
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
            return Bucket(address).read_version(name, contents=False)[1]
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


# --- The list of photographs ------------------------------------------------------------------------------------------


@dataclass
class Walk:
    """What is known while the folders of a store are listed.

    Attributes:
        seen: the identities of listed folders.
        links: linked folders to list at the end, so photographs are listed by their own path if they have one.
        skipped: how many other files there are of each suffix.
    """

    seen: set
    links: deque[str] = field(default_factory=deque)
    skipped: Counter[str] = field(default_factory=Counter)


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
        return self.walk(Counter())

    def walk(self, skipped: Counter[str]) -> Iterator[Photograph]:
        """The photographs; `skipped` receives the suffixes of other files in their folders."""
        try:
            yield from self._in_manifest() if self.path.endswith((".txt", ".parquet")) else self._below(skipped)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.path} cannot be read: {error}. Name photographs with -p.") from error

    def _below(self, skipped: Counter[str]) -> Iterator[Photograph]:
        folder, _, name = self.path.rpartition("/")
        folder = folder or "/"
        if name.lower().endswith(IMAGE_SUFFIXES) and open_store(folder).existing([name])[0]:
            yield from self._named(folder, [name])
            return
        store, walk = open_store(self.path), Walk({open_store(self.results).identity("")}, skipped=skipped)
        yield from self._walk(store, [""], walk)
        while walk.links:
            yield from self._walk(store, [walk.links.popleft()], walk)

    def _walk(self, store: Store, folders: list[str], walk: Walk) -> Iterator[Photograph]:
        """The photographs of a folder, then those below it, by the rules of `listing.list_names`.

        It takes several folders, whose maps would share one folder on a file system that ignores case.
        """
        inner: dict[str, list[str]] = {}
        names = []
        for folder in folders:
            if (identity := store.identity(folder)) in walk.seen:
                continue
            walk.seen.add(identity)
            subfolders, files = store.entries(folder)
            prefix = f"{folder}/" if folder else ""
            names += [prefix + name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
            walk.skipped.update(suffix_of(name) for name in files if not name.lower().endswith(IMAGE_SUFFIXES))
            for name in sorted(subfolders):
                inner.setdefault(same_name(name), []).append(prefix + name)
        yield from self._named(self.path, names, [name for same in inner.values() for name in same])
        for same in inner.values():
            walk.links += [name for name in same if store.is_link(name)]
            yield from self._walk(store, [name for name in same if not store.is_link(name)], walk)

    def _named(self, root: str, names: list[str], folders: Sequence[str] = ()) -> Iterator[Photograph]:
        """Name the maps of photographs. Only names with the same beginning can clash, so they are named in groups."""
        names.sort(key=lambda name: (_beginning(name), name))
        for _, alike in itertools.groupby(names, _beginning):
            for photograph in name_maps(list(alike), self.suffix, folders):
                yield photograph._replace(path=f"{root}/{photograph.path}")

    def _in_manifest(self) -> Iterator[Photograph]:
        for number, line in enumerate(_lines(self.path), 1):
            yield (
                self._listed(line)
                if line and isinstance(line, str)
                else Photograph(f"{self.path}, row {number}", "", "")
            )

    def _listed(self, line: str) -> Photograph:
        """A photograph in a manifest.

        Its map's name contains its whole name. Names that are not relative paths start with "@", so no two photographs
        share a map.
        """
        folder = self.path.rsplit("/", 1)[0]
        if line.startswith("file:///"):
            line = line.removeprefix("file://")
        if is_address(folder) and not is_address(line) and ".." in line.split("/"):
            scheme, root = folder.split("://", 1)
            line = f"{scheme}://{posixpath.normpath(posixpath.join(root, line))}"
        if is_address(line):
            path, (scheme, name) = line, line.split("://", 1)
            parts: Sequence[str] = [f"@{scheme.lower()}", *name.replace(os.sep, "/").split("/")]
        elif Path(line).is_absolute() or ".." in Path(line).parts:
            path = os.path.normpath(Path(folder, line))
            anchor = Path(path).anchor
            parts = ["@file", *re.findall(r"[^:/\\]+", anchor), *Path(path).relative_to(anchor).parts]
        else:
            parts = Path(line).parts
            path = "/".join([folder, *parts])
            parts = [f"@{parts[0]}", *parts[1:]] if line.startswith("@") else parts
        return Photograph(path, f"images/{_file_name(parts, self.suffix)}", f"overlays/{_file_name(parts, '.jpeg')}")


def _file_name(parts: Sequence[str], suffix: str) -> str:
    """The relative path of a map. A folder never has the name of a map, and is never above its parent."""
    *folders, name = parts or [""]
    reserved = re.compile(rf"(\.{{0,2}}|.*{re.escape(suffix)})@*", re.IGNORECASE | re.DOTALL)
    return "/".join([*(f"{part}@" if reserved.fullmatch(part) else part for part in folders), name + suffix])


def _beginning(name: str) -> str:
    return same_name(name.rsplit("/", 1)[-1].split(".", 1)[0])


def _lines(manifest: str) -> Iterator[Any]:
    """The paths in a manifest, and whatever else it has in their place."""
    folder, name = manifest.rsplit("/", 1)
    store = open_store(folder)
    files = store.filesystem if isinstance(store, Bucket) else pyarrow.fs.LocalFileSystem()
    root = store.root if isinstance(store, Bucket) else folder
    if name.endswith(".parquet"):
        with files.open_input_file(f"{root}/{name}") as file:
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            if "path" not in names:
                raise UserError(f"{manifest} has the columns {names}, expected one named 'path'.")
            kind = parquet.schema_arrow.field("path").type
            if (kind.value_type if pa.types.is_dictionary(kind) else kind) not in TEXT:
                raise UserError(f"The column 'path' of {manifest} has the type {kind}, expected text.")
            for batch in parquet.iter_batches(columns=["path"]):
                yield from batch.column(0).to_pylist()
    else:
        with files.open_input_stream(f"{root}/{name}") as file:
            lines = io.BufferedReader(file)
            start = lines.peek(3)[:3]
            if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UserError(f"{manifest} is UTF-16 text, expected UTF-8: save it with another encoding.")
            lines.read(len(codecs.BOM_UTF8) if start == codecs.BOM_UTF8 else 0)
            for line in lines:
                if line.strip():
                    yield os.fsdecode(line.strip())
