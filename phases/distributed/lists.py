"""The photographs and clips of `test --cluster` as a stream, from folders or lists, with the names of their maps."""

import io
import itertools
import os
import posixpath
import re
import string
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from ...image_files import IMAGE_SUFFIXES
from ...listing import suffix_of
from ...photographs import Photograph, name_clips, name_maps, same_name, video_suffix
from ...utils import UserError
from ...videos.reading import ANIMATION_SUFFIXES, CLIP_SUFFIXES
from .store import Bucket, is_address, open_store

SUFFIXES = (*IMAGE_SUFFIXES, *CLIP_SUFFIXES)

# Types of a manifest's column.
TEXT = (pa.string(), pa.large_string(), pa.null())

# The byte order marks of UTF-16, read as UTF-8.
UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")


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
            reason = str(error).rstrip(".")
            raise UserError(f"{self.path} cannot be read: {reason}. Name photographs with -p.") from error

    def _below(self, skipped: Counter[str]) -> Iterator[Photograph]:
        folder, _, name = self.path.rpartition("/")
        folder = folder or "/"
        if name.lower().endswith(SUFFIXES) and open_store(folder).existing([name])[0]:
            yield from self._named(folder, [name])
            return
        seen, links = {open_store(self.results).identity("")}, deque([""])
        while links:
            yield from self._walk([links.popleft()], seen, links, skipped)

    def _walk(self, folders: list[str], seen: set, links: deque[str], skipped: Counter[str]) -> Iterator[Photograph]:
        """The photographs of a folder, then those below it, by the rules of `listing.list_names`.

        It takes several folders, whose maps would share one folder on a file system that ignores case. `seen` are the
        identities of listed folders. Linked folders are added to `links`, to be listed at the end, so photographs are
        listed by their own path if they have one.
        """
        store = open_store(self.path)
        inner: dict[str, list[str]] = {}
        names = []
        for folder in folders:
            if (identity := store.identity(folder)) in seen:
                continue
            seen.add(identity)
            subfolders, files = store.entries(folder)
            prefix = f"{folder}/" if folder else ""
            names += [prefix + name for name in files if name.lower().endswith(SUFFIXES)]
            skipped.update(suffix_of(name) for name in files if not name.lower().endswith(SUFFIXES))
            for name in sorted(subfolders):
                inner.setdefault(same_name(name), []).append(prefix + name)
        yield from self._named(self.path, names, [name for same in inner.values() for name in same])
        for same in inner.values():
            links += [name for name in same if store.is_link(name)]
            yield from self._walk([name for name in same if not store.is_link(name)], seen, links, skipped)

    def _named(self, root: str, names: list[str], folders: Sequence[str] = ()) -> Iterator[Photograph]:
        """Name the maps of photographs. Only names with the same beginning can clash, so they are named in groups."""
        names.sort(key=lambda name: (_beginning(name), name))
        for _, alike in itertools.groupby(names, _beginning):
            for row in self._named_alike(list(alike), folders):
                yield row._replace(path=f"{root}/{row.path}")

    def _named_alike(self, names: list[str], folders: Sequence[str]) -> list[Photograph]:
        named = name_maps([name for name in names if not is_clip_name(name)], self.suffix, folders)
        if clips := [name for name in names if is_clip_name(name)]:
            animations = [as_clip(row, self.suffix) for row in named if row.path.lower().endswith(ANIMATION_SUFFIXES)]
            taken = [name.split("/", 1)[1] for row in animations for name in (row.map, row.overlay)]
            named += name_clips(clips, self.suffix, [*folders, *taken])
        return named

    def _in_manifest(self) -> Iterator[Photograph]:
        for number, line in enumerate(_lines(self.path), 1):
            is_path = line and isinstance(line, str)
            yield self._listed(line) if is_path else Photograph(f"{self.path}, row {number}", "", "")

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
        if is_clip_name(path):
            video = f"videos/{_file_name(parts, video_suffix(self.suffix))}"
            return Photograph(path, video, f"overlays/{_file_name(parts, '.mp4')}")
        return Photograph(path, f"images/{_file_name(parts, self.suffix)}", f"overlays/{_file_name(parts, '.jpeg')}")


def is_clip_name(path: str) -> bool:
    """Whether a path is that of a clip; only a worker can tell whether an image is animated."""
    return path.lower().endswith(CLIP_SUFFIXES)


def as_clip(photograph: Photograph, suffix: str) -> Photograph:
    """The same with a clip's files, for an animated image. They keep its suffix: `a.gif` → `videos/a.gif.mp4`."""
    own = photograph.path.rsplit("/", 1)[-1]
    name = photograph.map.removeprefix("images/").removesuffix(suffix)
    name = name if name.rsplit("/", 1)[-1] == own else name + suffix_of(own)
    return Photograph(photograph.path, f"videos/{name}{video_suffix(suffix)}", f"overlays/{name}.mp4")


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
            # A file's name may not be valid text.
            for number, line in enumerate(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="\n")):
                if number == 0 and line.startswith(UTF_16):
                    raise UserError(f"{manifest} is UTF-16 text, expected UTF-8: save it with another encoding.")
                if path := line.strip(string.whitespace):
                    yield path
