"""A worker of `test --cluster`: it predicts the photographs and clips of a chunk."""

import dataclasses
import errno
import hashlib
import itertools
import os
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import ray
import tensorflow as tf

from ...image_files import Unreadable
from ...listing import hash_files
from ...model import choose_layout
from ...photographs import NAME_TOO_LONG, Options, Photograph, map_pixels, write_maps
from ...predictor import PIXELS_IN_FLIGHT
from ...utils import UserError, parallel_map
from ...videos.reading import is_clip
from ..clips import predict_clip
from . import index
from .lists import as_clip, is_clip_name
from .store import READERS, Fetched, Store, fetch


class Worker:
    """A process with a network, given as Ray's reference; Ray calls it with one chunk after another."""

    def __init__(self, network, results: Store, options: Options, threads: int):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.network = dataclasses.replace(ray.get(network), layout=choose_layout(options.params["device"]))
        self.results, self.options = results, options

    def __call__(self, row: dict) -> dict:
        """Predict a chunk; returns how many rows are done and failed, the errors, and the folders of the maps.

        "stopped" is the reason why the whole run must stop, or "".
        """
        columns = ([os.fsdecode(name) for name in row[field]] for field in Photograph._fields)
        chunk = [Photograph(*names) for names in zip(*columns, strict=True)]
        report = {"done": 0, "failed": 0, "errors": [], "folders": [], "listed": row["listed"], "stopped": ""}
        rows, before = [], time.perf_counter()
        try:
            for found in self._rows(chunk):
                now = time.perf_counter()
                rows.append({**found, "seconds": now - before})
                before = now
            if rows:
                index.write_part(self.results, rows)
        except OSError as error:
            reason = f"{self.results.path} cannot be written: {error}"
            advice = "Check its permissions and space, and repeat the command; it continues."
            return {**report, "stopped": f"{reason}. {advice}"}
        except Exception:  # Ray would retry it, as after a worker's death.
            return {**report, "stopped": f"a worker failed: {traceback.format_exc()}"}
        errors = [f"{row['path']}: {row['error']}" for row in rows if row["error"]]
        folders = sorted({row["map"].split("/")[0] for row in rows if row["map"]})
        return {**report, "done": len(rows) - len(errors), "failed": len(errors), "errors": errors, "folders": folders}

    def _rows(self, chunk: list[Photograph]) -> Iterator[dict]:
        """Predict a chunk and write its maps, the clips last; yields the index row of each."""
        animations: list[tuple[Photograph, Fetched]] = []
        with tempfile.TemporaryDirectory() as folder:

            def photographs() -> Iterator[tuple[Photograph, Fetched]]:
                listed = [each for each in chunk if not is_clip_name(each.path)]
                for each, fetched in parallel_map(lambda each: (each, fetch(each, Path(folder))), listed, READERS):
                    if not fetched.error and is_clip(fetched.file):
                        animations.append((as_clip(each, self.options.suffix), fetched))
                    else:
                        yield each, fetched

            waiting, pairs = itertools.tee(photographs())
            predictions = self.network.predictions(
                (fetched.file for _, fetched in waiting), self.options.params["batch_size"]
            )
            yield from parallel_map(
                self._photograph,
                zip(predictions, pairs, strict=True),
                weight=lambda step: map_pixels(step[0]),
                most=PIXELS_IN_FLIGHT,
            )
            clips = ((each, fetch(each, Path(folder))) for each in chunk if is_clip_name(each.path))
            for clip, fetched in itertools.chain(animations, clips):
                yield self._clip(clip, fetched)

    def _photograph(self, step: tuple) -> dict:
        """Write the map of a photograph; returns its index row."""
        prediction, (photograph, fetched) = step
        write = (lambda name, contents: None) if self.options.shards else self.results.write
        with fetched.removed():  # Now, because the disk may not have space for the whole chunk.
            error = fetched.error
            files, error = ({}, error) if error else write_maps(photograph, prediction, self.options, write)
        if error:
            return index.row(photograph, error=error)
        height, width = prediction.saliency.shape
        sha256 = hashlib.sha256(files[photograph.map]).hexdigest()
        row = index.row(photograph, height=height, width=width, sha256=sha256, version=fetched.version)
        if self.options.overlay:
            row["overlay"] = photograph.overlay
        if self.options.shards:
            row |= zip(("contents", "overlay_contents"), files.values(), strict=False)
        return row

    def _clip(self, clip: Photograph, fetched: Fetched) -> dict:
        """Write the video of a clip's maps, as a file even with `--shards`; returns its index row."""
        if fetched.error:
            return index.row(clip, error=fetched.error)
        try:
            with fetched.removed(), self.results.folder() as folder:
                options = dataclasses.replace(self.options, params={**self.options.params, "results": str(folder)})
                found = predict_clip(self.network, clip._replace(path=str(fetched.file)), options)
                sha256 = hash_files([folder / clip.map]).hexdigest()
        except (Unreadable, UserError) as error:
            return index.row(clip, error=str(error))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return index.row(clip, error=NAME_TOO_LONG)
        values = {name: found[name] for name in ("height", "width", "frames")}
        values |= {"overlay": clip.overlay} if self.options.overlay else {}
        row = index.row(clip, error=found["damage"], sha256=sha256, version=fetched.version, **values)
        return {**row, "map": clip.map}  # Damaged clips have one, of the frames before the damage.
