"""`test --cluster`: the maps of any number of photographs, on the machines that Ray Data finds.

The list of photographs is a stream of portions. A portion is what a worker takes at a time, and one file of the index:
the worker predicts its photographs as `test` does, writes their maps, and last the file of the index, whole or not at
all. What the index does not have by the end, because a worker died, is tried again one photograph at a time.
"""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.metadata
import itertools
import json
import logging
import os
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils import TENSORFLOW_SETTINGS, UserError, count, parallel_map, versions  # Before TensorFlow, for its settings.

# isort: split
import tensorflow as tf
from tqdm import tqdm

try:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers.
    import ray
    import ray.data
except ImportError as error:
    raise UserError(
        "--cluster needs Ray, which is not installed: python -m pip install -r requirements-cluster.txt"
    ) from error

import msinet
from config import MAX_PIXELS
from images import Unwritable, encode_map, encode_overlay
from model import choose_layout
from msinet import Network
from phases.distributed import index
from phases.distributed.store import Photograph, Photographs, Store, absolute, fetch, is_address, open_store

ROOT = Path(__file__).parents[1]

# Photographs in a portion, at most.
PORTION = 256

# Of a photograph whose worker dies: once in its portion, then alone. It is given up after the last.
ATTEMPTS = 3

# Photographs that a worker reads from an object store at a time, as waiting takes longer than the network needs.
READERS = 8

# Ray keeps the weights and lists of names here, on each machine that a run without an address starts.
OBJECT_STORE_BYTES = 512 * 2**20

# What other machines need not have: a run's data, and weights, which travel as arrays.
NOT_SENT = [".git", "data", "results", "weights", "docs", "tests", "**/node_modules"]

CONNECT_SECONDS = 10

# What is printed of photographs that failed; the index has all.
MOST_ERRORS = 1000


@dataclasses.dataclass(frozen=True)
class Job:
    """What each worker does with a photograph; see `phases.test.test`."""

    results: str
    suffix: str
    overlay: bool
    shards: bool
    batch_size: int
    device: str
    threads: int = 1


@dataclasses.dataclass
class Progress:
    """What a run has done so far, as far as its workers told."""

    done: int = 0
    failed: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)

    def add(self, told: dict) -> None:
        self.done += told["done"]
        self.failed += told["failed"]
        self.errors += told["errors"][: MOST_ERRORS - len(self.errors)]


def run(
    path: Path | str,
    *,
    data: str,
    size: tuple[int, int] | str | None,
    weights: str | None,
    params: dict,
    suffix: str,
    overlay: bool,
    mirrored: bool = False,
    max_pixels: int = MAX_PIXELS,
    address: str,
    workers: int | None,
    shards: bool,
    restart: bool,
) -> int:
    """Predict, and say what was done, as `test` does; the run's summary goes to `summary.json`.

    Args:
        path: see `distributed.store.Photographs`.
        address: of a Ray cluster, or "local" for one on this machine that lives as long as the run.
        workers: at most; by default one for each processor core, or for each GPU.
        shards: put the maps into the index instead of files of their own.
        restart: begin anew where the results are those of another run.
        others: see `phases.test.run`.

    Returns:
        The exit status: 1 when an image failed, else 0.
    """
    results = open_store(absolute(params["results"]))
    photographs = Photographs(absolute(path), results.path, suffix)
    if next(iter(photographs), None) is None:  # First, as weights may be a long download, which nothing is worth.
        raise UserError(f"No image below {path}. Name a folder of photographs, or a list of them, with -p.")
    kept = Path("results") if is_address(params["results"]) else Path(params["results"])
    network = msinet.load(
        weights,
        data=data,
        results=kept,
        input_size=size,
        device=params["device"],
        mirrored=mirrored,
        max_pixels=max_pixels,
    )
    print(network.summary())
    # Not before: this machine's GPUs and instructions, which a summary speaks of, are not those of the workers.
    network = dataclasses.replace(network, gpus=(), precision=params["precision"])
    if network.precision != "float32":
        print(f"Workers compute in {network.precision}.")
    job = Job(results.path, suffix, overlay, shards, params["batch_size"], params["device"])
    with results.open_for_writing():
        index.claim(results, _settings(photographs, network, job), restart)
        start = time.perf_counter()
        with _connected(address):
            before, progress = _predict(photographs, results, network, job, workers)
        seconds = time.perf_counter() - start
        _report(results, job, before, progress)
        summary = {
            "path": photographs.path,
            "data": data,
            **network.record(),
            "written": progress.done,
            "written_before": before,
            "failed": progress.failed,
            "seconds": round(seconds, 3),
            "images_per_second": round((progress.done + progress.failed) / seconds, 3),
            "versions": {**versions(), "ray": ray.__version__, "pyarrow": importlib.metadata.version("pyarrow")},
        }
        results.write("summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return 1 if progress.failed else 0


def _report(results: Store, job: Job, before: int, progress: Progress) -> None:
    for error in progress.errors:
        print(f"error: {error}", file=sys.stderr)
    if progress.failed > len(progress.errors):
        print(f"error: and {progress.failed - len(progress.errors)} more, see the index", file=sys.stderr)
    if before:
        print(f"{count(before, 'map')} had been written before.")
    print(f"{count(progress.done, 'map')} written to {results.full(index.INDEX if job.shards else 'images')}.")
    if progress.failed:
        print(f"{count(progress.failed, 'image')} failed.")


def _predict(
    photographs: Photographs, results: Store, network: Network, job: Job, workers: int | None
) -> tuple[int, Progress]:
    """All that is missing; returns how many maps there were before, and what was done."""
    before, _ = index.known(results, shards=job.shards)
    job, resources = _workers(job, workers)
    if network.precision == "float16" and not resources["num_gpus"]:
        raise UserError("--precision float16 was asked for, but the cluster has no GPU: use --precision bfloat16.")
    network_ref = ray.put(network)  # Ray copies it to each machine once; there the workers share the arrays.
    total = index.count_photographs.remote(photographs)
    progress, done = Progress(), before
    with tqdm(unit="image", leave=False, disable=None, initial=len(before)) as bar:
        for attempt in range(ATTEMPTS):
            listing = index.Listing(photographs, ray.put(done), PORTION if attempt == 0 else 1)
            told_of, listed = 0, -1
            for told in _pass(listing, network_ref, job, resources, alone=attempt > 0):
                progress.add(told)
                told_of += told["done"] + told["failed"]
                listed = max(listed, told["listed"])
                _show(bar, told, progress, total)
            if told_of == listed:
                return len(before), progress
            done, failed = index.known(results, shards=job.shards, recent=True)
            resources["workers"] = min(resources["workers"], max(1, ray.get(total) - len(done)))
            progress.done, progress.failed = len(done) - len(before) - failed, failed
        _give_up(photographs, done, results, progress)
    return len(before), progress


def _pass(listing: index.Listing, network_ref, job: Job, resources: dict, alone: bool) -> Iterator[dict]:
    """Let the workers have all portions of a listing, one at a time if `alone`; yields what they tell of each."""
    # Listing waits for the disk or the store. Were it to ask for a processor core, it would wait for ever for the
    # workers, which may have them all, and they for it.
    portions = ray.data.read_datasource(listing, override_num_blocks=1, concurrency=1, num_cpus=0)
    with warnings.catch_warnings():
        # The only way to say it until Ray 2.64, which is why requirements-cluster.txt has an upper bound.
        warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)
        told = portions.map(
            Worker,
            fn_constructor_args=[network_ref, job],
            compute=ray.data.ActorPoolStrategy(
                size=resources["workers"], max_tasks_in_flight_per_actor=1 if alone else 2
            ),
            num_cpus=resources["num_cpus"],
            num_gpus=resources["num_gpus"],
            max_task_retries=0,  # Ray starts the worker again, but not with the portion that it died of.
        )
    index.quiet(told)
    told.context.target_max_block_size = 1  # A block holds one portion, that is one row.
    told.context.max_errored_blocks = -1  # A worker that dies takes its portion along; `_predict` comes back to it.
    for row in told.iter_rows():
        if row["stopped"]:
            raise UserError(row["stopped"])
        yield row


def _workers(job: Job, workers: int | None) -> tuple[Job, dict]:
    """How many workers there are to be, and the part of a machine that each has."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    gpus = [int(machine.get("GPU", 0)) for machine in machines]
    if sum(gpus) and job.device != "cpu":
        threads = max(1, min(core // gpu for core, gpu in zip(cores, gpus, strict=True) if gpu))
        resources = {"workers": workers or sum(gpus), "num_cpus": threads, "num_gpus": 1}
    else:
        workers = workers or sum(cores) or 1
        fits = (n for n in range(max(cores, default=1), 1, -1) if sum(core // n for core in cores) >= workers)
        resources = {"workers": workers, "num_cpus": next(fits, 1), "num_gpus": 0}
    return dataclasses.replace(job, threads=resources["num_cpus"]), resources


def _show(bar, told: dict, progress: Progress, total) -> None:
    if bar.total is None and ray.wait([total], timeout=0)[0]:
        with contextlib.suppress(ray.exceptions.RayError, UserError):
            bar.total = ray.get(total)
    bar.set_postfix(failed=progress.failed, refresh=False)
    bar.update(told["done"] + told["failed"])


def _give_up(photographs: Photographs, done, results: Store, progress: Progress) -> None:
    """Put what no worker survived into the index."""
    missing = (photograph for photograph in photographs if not index.contains(done, [photograph.path])[0])
    while portion := list(itertools.islice(missing, PORTION)):
        reason = f"its worker died each of {ATTEMPTS} times"
        rows = [index.row(photograph, error=reason) for photograph in portion]
        index.write_part(results, rows)
        errors = [f"{row['path']}: {reason}" for row in rows]
        progress.add({"done": 0, "failed": len(rows), "errors": errors})


# --- A worker ---------------------------------------------------------------------------------------------------------


class Worker:
    """A process with a network, which Ray gives one portion after another.

    Args:
        network: Ray's reference to the network.
        job: what to do.
    """

    def __init__(self, network, job: Job):
        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.network = dataclasses.replace(ray.get(network), layout=choose_layout(job.device))
        self.job = job
        self.results = open_store(job.results)

    def __call__(self, row: dict) -> dict:
        """A portion -> how many photographs are done and failed, and why; or why the whole run has to stop."""
        columns = ([os.fsdecode(name) for name in row[field]] for field in Photograph._fields)
        portion = [Photograph(*names) for names in zip(*columns, strict=True)]
        told = {"done": 0, "failed": 0, "errors": [], "listed": row["listed"], "stopped": ""}
        try:
            rows = list(self._rows(portion))
            if rows:
                index.write_part(self.results, rows)
        except OSError as error:
            where = f"{self.job.results} cannot be written: {error}"
            return {**told, "stopped": f"{where}. Check its permissions and space, and repeat the command; it goes on."}
        except Exception:  # Ray would take it for a worker's death.
            return {**told, "stopped": f"a worker failed: {traceback.format_exc()}"}
        errors = [f"{row['path']}: {row['error']}" for row in rows if row["error"]]
        return {**told, "done": len(rows) - len(errors), "failed": len(errors), "errors": errors}

    def _rows(self, portion: list[Photograph]) -> Iterator[dict]:
        """Predict a portion and write its maps; yields a row of the index for each photograph."""
        with tempfile.TemporaryDirectory() as folder:
            files = parallel_map(lambda photograph: fetch(photograph.path, Path(folder)), portion, READERS)
            files, unread = itertools.tee(files)
            predictions = self.network.predictions((file for file, _ in files), self.job.batch_size)
            steps = zip(portion, predictions, (error for _, error in unread), strict=True)
            before = time.perf_counter()
            finished = parallel_map(
                lambda step: self._finish(*step), steps, weight=_map_pixels, most=msinet.PIXELS_IN_FLIGHT
            )
            for row in finished:
                now = time.perf_counter()
                yield {**row, "seconds": now - before}
                before = now

    def _finish(self, photograph: Photograph, prediction, unread: str) -> dict:
        """Write a photograph's map; returns its row."""
        file = prediction.photograph
        try:
            if unread or prediction.saliency is None:
                return index.row(photograph, error=unread or prediction.error)
            contents = encode_map(prediction.saliency, self.job.suffix)
            height, width = prediction.saliency.shape
            values = {"height": height, "width": width, "sha256": hashlib.sha256(contents).hexdigest()}
            files = {photograph.map: contents}
            if self.job.overlay:
                values["overlay"] = photograph.overlay
                files[photograph.overlay] = encode_overlay(file, prediction.saliency, self.network.max_pixels)
            if self.job.shards:
                values.update(zip(("contents", "overlay_contents"), files.values(), strict=False))
            else:
                for name, contents in files.items():
                    self.results.write(name, contents)
            return index.row(photograph, **values)
        except Unwritable as error:
            return index.row(photograph, error=str(error))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # Of this photograph alone; a full disk, say, is everybody's.
                raise
            return index.row(photograph, error="its name is too long for a map's beside it")
        finally:
            if str(file) != photograph.path:
                file.unlink(missing_ok=True)


def _map_pixels(step: tuple) -> int:
    prediction = step[1]
    return 0 if prediction.saliency is None else prediction.saliency.size


# --- Ray --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to the Ray cluster at an address, or to one of our own for as long as the block runs."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = (
        {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == "local" else {}
    )
    environment: dict[str, Any] = {"env_vars": {name: os.environ[name] for name in TENSORFLOW_SETTINGS}}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # `ray job submit` has already sent the program.
        environment |= {"working_dir": str(ROOT), "excludes": NOT_SENT}
    try:
        if ":" in address:  # Ray would try for minutes.
            host, port = address.rsplit("/", 1)[-1].rsplit(":", 1)
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment, **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"No Ray cluster at {address} that lets us in ({reason}): start one with `ray start --head`, or leave the "
            f"address out. See docs/cluster.md."
        ) from error
    try:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        yield
    finally:
        ray.shutdown()


def _settings(photographs: Photographs, network: Network, job: Job) -> dict:
    """What decides what the maps are, and so tells one run from another."""
    incidental = ("weights", "reason", "layout", "gpus", "onednn")
    record = {key: value for key, value in network.record().items() if key not in incidental}
    return {"path": photographs.path, "format": job.suffix, "overlay": job.overlay, "shards": job.shards, **record}
