"""The photographs to predict as a source of Ray Data, and the index of those that are done, for `test --cluster`.

The index has one row for each photograph, in Parquet files that are written whole.
"""

import hashlib
import io
import itertools
import json
import os
import re
import socket
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from ...listing import name_counts
from ...photographs import Photograph
from ...utils import UserError, parallel_map
from .lists import Photographs, is_clip_name
from .store import READERS, Store, version

INDEX, RUN = "index", "run.json"
PART = re.compile(r"[0-9a-f]{24}\.parquet")  # names of the index's files

CHECKED = ["path", "map", "status", "overlay", "version"]

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "map": pa.string(),  # its file, relative to the results
        "status": pa.string(),  # DONE or FAILED
        "error": pa.string(),
        "sha256": pa.string(),  # of the map's file
        "version": pa.string(),  # of the photograph; see `store.version`
        "seconds": pa.float32(),  # since the worker finished the previous photograph
        "host": pa.string(),
        "overlay": pa.string(),  # its file, with --overlay
        "frames": pa.int32(),  # of a clip
        "contents": pa.binary(),  # of the map's file, with --shards
        "overlay_contents": pa.binary(),
    }
)
DONE, FAILED = "done", "failed"

# A photograph's identity: the beginning of the SHA-256 of its path. The probability that two of a billion photographs
# share one is 1 in 10^20.
ID = "S16"


def row(photograph: Photograph, *, error: str = "", **values) -> dict:
    """A row of the index."""
    return {
        "path": _text(photograph.path),
        "map": "" if error else _text(photograph.map),
        "status": FAILED if error else DONE,
        "error": error,
        "host": socket.gethostname(),
        **values,
    }


def write_part(results: Store, rows: list[dict]) -> None:
    """Write rows as a file of the index. Its name is derived from the photographs, so a repetition replaces it."""
    name = hashlib.sha256("\n".join(row["path"] for row in rows).encode()).hexdigest()[:24]
    results.write(f"{INDEX}/{name}.parquet", _parquet(pa.Table.from_pylist(rows, SCHEMA)))


def ids(paths: list[str]) -> np.ndarray:
    return np.array([hashlib.sha256(_text(path).encode()).digest()[:16] for path in paths], ID)


def contains(known: np.ndarray, paths: list[str]) -> np.ndarray:
    """Which of the paths are known; `known` is an array of sorted `ids`."""
    if not len(known) or not paths:
        return np.zeros(len(paths), bool)
    wanted = ids(paths)
    return known[np.searchsorted(known, wanted).clip(max=len(known) - 1)] == wanted


def known(results: Store, *, shards: bool, recent: bool = False) -> tuple[np.ndarray, int]:
    """The photographs that need no prediction, as sorted `ids` of 16 bytes each; and how many of them failed.

    These are the photographs that are done in the index, whose maps exist, and that were not replaced since. All other
    rows are removed from the index, so a photograph never has two. With `recent`, the index of this run is
    trusted, including failures.
    """
    parts = _parts(results)
    if not parts:
        return np.array([], ID), 0
    checked = ray.data.from_items(parts, override_num_blocks=min(len(parts), 200)).map_batches(
        lambda batch: _check(batch, results, shards, recent), batch_size=None, num_cpus=0.5
    )
    silence(checked)
    found = list(checked.iter_batches(batch_size=None, batch_format="numpy"))
    every = np.concatenate([np.array(batch["id"], ID) for batch in found])
    return np.unique(every), int(sum(batch["failed"].sum() for batch in found))


def _parts(results: Store) -> list[str]:
    """Names of the files of the index; other files in its folder belong to the user."""
    try:
        return [name for name in results.entries(INDEX)[1] if PART.fullmatch(name)]
    except FileNotFoundError:
        return []


def silence(dataset) -> None:
    """Turn off Ray Data's progress bars: the phase has its own."""
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False


def _check(batch: Any, results: Store, shards: bool, recent: bool) -> Any:
    """For names of index files: the ids of their photographs that are known, and which of them failed."""
    kept: list[dict] = []
    for name in batch["item"]:
        part = f"{INDEX}/{name}"
        try:
            contents = results.read(part)
            rows = pq.read_table(io.BytesIO(contents), columns=CHECKED).to_pylist()
        except pa.ArrowInvalid:  # Some stores keep half-written files. Earlier versions' files have other columns.
            results.remove(part)
            continue
        keep = [True] * len(rows) if recent else _valid(rows, results, shards)
        if not any(keep):
            results.remove(part)
        elif not all(keep):
            whole = pq.read_table(io.BytesIO(contents))
            results.write(part, _parquet(whole.filter(pa.array(keep))))
        kept += itertools.compress(rows, keep)
    failed = np.array([row["status"] == FAILED for row in kept], bool)
    return {"id": ids([row["path"] for row in kept]).astype(object), "failed": failed}


def _valid(rows: list[dict], results: Store, shards: bool) -> list[bool]:
    """Which rows have a map, of the photograph as it is now. A photograph that was removed keeps its map."""
    files = [[name for name in (row["map"], row["overlay"]) if name] for row in rows]
    if shards:  # The index has the maps of photographs.
        files = [names if names and names[0].startswith("videos/") else [] for names in files]
    names = list(itertools.chain(*files))
    lost = {name for name, there in zip(names, results.existing(names), strict=True) if not there}
    valid = [row["status"] == DONE and lost.isdisjoint(its) for row, its in zip(rows, files, strict=True)]
    paths = list(itertools.compress([row["path"] for row in rows], valid))
    now = dict(zip(paths, parallel_map(version, paths, READERS), strict=True))
    return [good and now[row["path"]] in (row["version"], "") for good, row in zip(valid, rows, strict=True)]


def claim(results: Store, settings: dict, restart: bool) -> None:
    """Record the settings of a run in its results; a `UserError` if they are those of a run with other settings."""
    settings = json.loads(json.dumps(settings))
    if restart:
        deque(parallel_map(lambda name: results.remove(f"{INDEX}/{name}"), _parts(results), READERS), maxlen=0)
    elif results.existing([RUN])[0]:
        try:
            former = dict(json.loads(results.read(RUN)))
        except ValueError as error:
            raise UserError(
                f"{results.full(RUN)} was not written by this command: name another folder with --results."
            ) from error
        differing = [key for key in {**former, **settings} if former.get(key) != settings.get(key)]
        if differing:
            difference = "; ".join(f"{key} {former.get(key)}, now {settings.get(key)}" for key in differing)
            raise UserError(
                f"{results.path} holds the results of another run: {difference}. Name another folder with --results, "
                f"or start over with --restart."
            )
    results.write(RUN, (json.dumps(settings, indent=2) + "\n").encode())


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _text(name: str) -> str:
    """A file name as valid text: bytes that are not valid UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- The list as a source of Ray Data ---------------------------------------------------------------------------------


class Listing(ray.data.Datasource):
    """Photographs in chunks, and clips alone: each row has the paths of one chunk, the last only their total number.

    `done` is Ray's reference to the `ids` of photographs to skip, `chunk` the greatest number in a chunk.
    """

    def __init__(self, photographs: Photographs, done, chunk: int):
        super().__init__()
        self.photographs, self.done, self.chunk = photographs, done, chunk

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list:
        unknown = ray.data.block.BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(self._chunks, unknown)]

    def _chunks(self) -> Iterator[pa.Table]:
        done = ray.get(self.done)
        photographs, seen, listed = iter(self.photographs), 0, 0
        # Chunks start small and grow, so all workers start at once and finish at about the same time.
        while chunk := list(itertools.islice(photographs, min(self.chunk, max(4, seen // 32)))):
            skipped = contains(done, [photograph.path for photograph in chunk])
            missing = [photograph for photograph, skip in zip(chunk, skipped, strict=True) if not skip]
            seen, listed = seen + len(chunk), listed + len(missing)
            # A clip takes as long as many photographs.
            parts = [[each for each in missing if not is_clip_name(each.path)]]
            parts += [[each] for each in missing if is_clip_name(each.path)]
            yield from (chunk_row(part) for part in parts if part)
        yield chunk_row([], listed)


def chunk_row(chunk: list[Photograph], listed: int = -1) -> pa.Table:
    # As bytes, because a file's name may not be valid text.
    columns = {field: [[os.fsencode(getattr(p, field)) for p in chunk]] for field in Photograph._fields}
    names = pa.list_(pa.binary())
    return pa.table({**{field: pa.array(values, names) for field, values in columns.items()}, "listed": [listed]})


@ray.remote(num_cpus=0)
def count_photographs(photographs: Photographs) -> tuple[int, str]:
    """Count them for the progress bar, which shows the remaining time; and other files, such as "3 .txt, 1 .cr2"."""
    skipped: Counter[str] = Counter()
    return sum(1 for _ in photographs.walk(skipped)), name_counts(skipped)
