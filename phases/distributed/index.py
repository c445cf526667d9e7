"""What there is to do and what is done, for `phases.cluster`: the list of photographs as Ray reads it, and the index.

The index has a row for each photograph, in files that are whole or not there.
"""

import hashlib
import io
import itertools
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from phases.distributed.store import Photograph, Photographs, Store
from utils import UserError

INDEX, RUN = "index", "run.json"

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "map": pa.string(),  # its file, relative to the results
        "status": pa.string(),  # DONE or FAILED
        "error": pa.string(),
        "sha256": pa.string(),  # of the map's file
        "seconds": pa.float32(),  # since the worker was done with the photograph before
        "host": pa.string(),
        "overlay": pa.string(),  # its file, with --overlay
        "contents": pa.binary(),  # of the map's file, with --shards
        "overlay_contents": pa.binary(),
    }
)
DONE, FAILED = "done", "failed"

# A photograph's identity among many: the beginning of the SHA-256 of its path. That two of a billion have the same is
# as likely as 1 in 10^20.
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
    """Write rows as a file of the index. Its name follows from the photographs, so that to repeat it replaces it."""
    name = hashlib.sha256("\n".join(row["path"] for row in rows).encode()).hexdigest()[:24]
    results.write(f"{INDEX}/{name}.parquet", _parquet(pa.Table.from_pylist(rows, SCHEMA)))


def ids(paths: list[str]) -> np.ndarray:
    return np.array([hashlib.sha256(_text(path).encode()).digest()[:16] for path in paths], ID)


def contains(known: np.ndarray, paths: list[str]) -> np.ndarray:
    """Which of the paths are known; `known` are sorted `ids`."""
    if not len(known) or not paths:
        return np.zeros(len(paths), bool)
    wanted = ids(paths)
    return known[np.searchsorted(known, wanted).clip(max=len(known) - 1)] == wanted


def known(results: Store, *, shards: bool, recent: bool = False) -> tuple[np.ndarray, int]:
    """The photographs that need not be predicted again, as sorted `ids`, 16 bytes each; and how many of them failed.

    They are those that the index says are done and whose maps are there; all other rows leave the index, so that a
    photograph never has two. What is `recent` is believed, failures too.
    """
    try:
        parts = [name for name in results.entries(INDEX)[1] if name.endswith(".parquet")]
    except OSError:
        parts = []
    if not parts:
        return np.array([], ID), 0
    checked = ray.data.from_items(parts, override_num_blocks=min(len(parts), 200)).map_batches(
        lambda batch: _check(batch, results, shards, recent), batch_size=None, num_cpus=0.5
    )
    quiet(checked)
    found = list(checked.iter_batches(batch_size=None, batch_format="numpy"))
    every = np.concatenate([np.array(batch["id"], ID) for batch in found])
    return np.unique(every), int(sum(batch["failed"].sum() for batch in found))


def quiet(dataset) -> None:
    """Let Ray Data work in silence: `phases.cluster` has a progress bar of its own."""
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False


def _check(batch: Any, results: Store, shards: bool, recent: bool) -> Any:
    """Names of files of the index -> the ids of their photographs that are known, and which of them failed."""
    kept: list[dict] = []
    for name in batch["item"]:
        part = f"{INDEX}/{name}"
        try:
            contents = results.read(part)
            table = pq.read_table(io.BytesIO(contents), columns=["path", "map", "status", "overlay"])
        except (pa.ArrowInvalid, OSError):  # Half of a file, from a store that is not as careful as we are.
            results.remove(part)
            continue
        rows = table.to_pylist()
        keep = [recent or row["status"] == DONE for row in rows]
        if not recent and not shards:
            names = [name for row in rows for name in (row["map"], row["overlay"]) if name]
            lost = {name for name, there in zip(names, results.existing(names), strict=True) if not there}
            keep = [
                done and lost.isdisjoint((row["map"], row["overlay"])) for done, row in zip(keep, rows, strict=True)
            ]
        if not any(keep):
            results.remove(part)
        elif not all(keep):
            whole = pq.read_table(io.BytesIO(contents))
            results.write(part, _parquet(whole.filter(pa.array(keep))))
        kept += itertools.compress(rows, keep)
    failed = np.array([row["status"] == FAILED for row in kept], bool)
    return {"id": ids([row["path"] for row in kept]).astype(object), "failed": failed}


def claim(results: Store, settings: dict, restart: bool) -> None:
    """Make the results those of a run with these settings, which decide what its maps are.

    Raises:
        UserError: they are those of a run with other settings; it names the difference.
    """
    settings = json.loads(json.dumps(settings))
    there = results.existing([RUN])[0]
    if restart:
        results.remove(INDEX)
    elif there:
        former = json.loads(results.read(RUN))
        differing = [key for key in {**former, **settings} if former.get(key) != settings.get(key)]
        if differing:
            difference = "; ".join(f"{key} {former.get(key)}, now {settings.get(key)}" for key in differing)
            raise UserError(
                f"{results.path} holds the results of another run: {difference}. Name another folder with --results, "
                f"or begin anew with --restart."
            )
    results.write(RUN, (json.dumps(settings, indent=2) + "\n").encode())


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _text(name: str) -> str:
    """A name of a file that is not valid text has its odd bytes written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- The list, as Ray reads it ----------------------------------------------------------------------------------------


class Listing(ray.data.Datasource):
    """Photographs in portions: a row has the paths of one, and the last row, an empty one, how many there were.

    Args:
        photographs: all there are.
        done: Ray's reference to what `known` returns; they are left out.
        portion: photographs in a portion, at most.
    """

    def __init__(self, photographs: Photographs, done, portion: int):
        super().__init__()
        self.photographs, self.done, self.portion = photographs, done, portion

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list:
        nothing_known = ray.data.block.BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(self._portions, nothing_known)]

    def _portions(self) -> Iterator[pa.Table]:
        done = ray.get(self.done)
        photographs, seen, listed = iter(self.photographs), 0, 0
        # A portion is a small part of what came before, so that all workers have work at once, and end together.
        while portion := list(itertools.islice(photographs, min(self.portion, max(4, seen // 32)))):
            was_done = contains(done, [photograph.path for photograph in portion])
            missing = [photograph for photograph, there in zip(portion, was_done, strict=True) if not there]
            seen, listed = seen + len(portion), listed + len(missing)
            if missing:
                yield _portion_row(missing)
        yield _portion_row([], listed)


def _portion_row(portion: list[Photograph], listed: int = -1) -> pa.Table:
    # As bytes, because a file's name need not be valid text.
    columns = {field: [[os.fsencode(getattr(p, field)) for p in portion]] for field in Photograph._fields}
    names = pa.list_(pa.binary())
    return pa.table({**{field: pa.array(values, names) for field, values in columns.items()}, "listed": [listed]})


@ray.remote(num_cpus=0)
def count_photographs(photographs: Photographs) -> int:
    """For the progress bar, which says the time left."""
    return sum(1 for _ in photographs)
