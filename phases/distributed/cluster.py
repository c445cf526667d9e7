"""`test --cluster`: the maps of any number of photographs, on the machines of a Ray cluster.

The list of photographs is a stream of chunks. A worker takes one chunk at a time: it predicts the photographs as `test`
does, writes their maps, and finally writes one file of the index. Photographs that are missing in the index at the end,
because a worker died, are retried one at a time.
"""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...installation import copied_modules, install_command
from ...progress import ProgressBar
from ...utils import TENSORFLOW_SETTINGS, UserError, count, only_python_on_stderr, versions

try:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends usage statistics by default.
    import ray
    import ray.data
except ImportError as error:
    raise UserError(f"--cluster needs Ray, which is not installed: {install_command('cluster')}") from error

from ...network import Network, load
from ...photographs import Found, Options, sample_photograph
from . import index
from .lease import exclusive
from .lists import Photographs
from .store import Store, absolute, is_address, open_store
from .worker import Worker

# Maximum number of photographs in a chunk.
CHUNK = 256

# Attempts per photograph: first in its chunk, then alone.
ATTEMPTS = 3

# Size of Ray's object store, which holds the weights and lists of names, on a cluster that is started for one run.
OBJECT_STORE_BYTES = 512 * 2**20

CONNECT_SECONDS = 10

# Maximum number of errors that are printed; the index has all of them.
MOST_ERRORS = 1000


@dataclasses.dataclass
class Progress:
    """What the workers of a run have reported so far."""

    done: int = 0
    failed: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)
    folders: set[str] = dataclasses.field(default_factory=set)  # where the maps are: "images", "videos"

    def add(self, report: dict) -> None:
        self.done += report["done"]
        self.failed += report["failed"]
        self.errors += report["errors"][: MOST_ERRORS - len(self.errors)]
        self.folders.update(report["folders"])


class Share(NamedTuple):
    """The number of workers, and the processor cores and GPUs of each."""

    workers: int
    cores: int
    gpus: int


def run(options: Options) -> int:
    """Predict, and print the outcome like `test`; the run's summary goes to `summary.json`.

    Returns the exit status: 1 if a photograph failed, else 0.
    """
    params = options.params
    path = options.only_path or sample_photograph()
    results = open_store(absolute(params["results"]))
    photographs = Photographs(absolute(path), results.path, options.suffix)
    if photographs.path == results.path:
        raise UserError(f"The maps would be mixed with the photographs in {path}: name other --results.")
    for folder in ("images", "overlays", "videos"):
        if f"{photographs.path}/".startswith(f"{results.full(folder)}/"):
            raise UserError(f"{path} is in the folder of results, where maps could replace it: name other --results.")
    if next(iter(photographs), None) is None:  # Check this before a long download of weights.
        raise UserError(f"No image below {path}. Name a folder of photographs, or a list of them, with -p.")
    network = load(
        options.weights,
        data=options.data,
        results=Path("results") if is_address(params["results"]) else Path(params["results"]),
        input_size=options.input_size,
        device=params["device"],
        mirrored=options.mirrored,
        max_pixels=options.max_pixels,
        orientation=params["orientation"],
    )
    print(network.summary())
    # Set these after loading, because this machine's GPUs and precision may differ from the workers'.
    network = dataclasses.replace(network, gpus=(), precision=params["precision"])
    if network.precision != "float32":
        print(f"Workers compute in {network.precision}.")
    with exclusive(results) as check_lease, results.cleaned():
        index.claim(results, _settings(photographs, network, options), options.restart)
        start = time.perf_counter()
        # Ray's core prints warnings that its settings cannot turn off.
        with only_python_on_stderr(), _connected(str(options.cluster)):
            before, progress, skipped = _predict(photographs, results, network, options, check_lease)
        seconds = time.perf_counter() - start
        _report(results, options, before, progress, skipped)
        summary = {
            "path": photographs.path,
            "data": options.data,
            **network.record(),
            "written": progress.done,
            "written_before": before,
            "failed": progress.failed,
            "skipped": skipped,
            "seconds": round(seconds, 3),
            "images_per_second": round((progress.done + progress.failed) / seconds, 3),
            "versions": {**versions(), "ray": ray.__version__, "pyarrow": importlib.metadata.version("pyarrow")},
        }
        results.write("summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        print(f"Record of the run: {results.full('summary.json')}")
    return 1 if progress.failed else 0


def _settings(photographs: Photographs, network: Network, options: Options) -> dict:
    """The settings that affect maps; a resumed run must match them."""
    incidental = ("weights", "reason", "layout", "gpus", "onednn")
    record = {key: value for key, value in network.record().items() if key not in incidental}
    chosen = {"format": options.suffix, "overlay": options.overlay, "shards": options.shards}
    of_clips = {"every": options.every, "fps": options.fps, "smooth": options.smooth}
    chosen |= {name: value for name, value in of_clips.items() if value != getattr(Options, name)}
    return {"path": photographs.path, **chosen, **record}


def _report(results: Store, options: Options, before: int, progress: Progress, skipped: str) -> None:
    for error in progress.errors:
        print(f"error: {error}", file=sys.stderr)
    if progress.failed > len(progress.errors):
        print(f"error: and {progress.failed - len(progress.errors)} more, see the index", file=sys.stderr)
    if before:
        print(f"{count(before, 'map')} had been written before.")
    folders = sorted(progress.folders) or ["images"]
    if options.shards:
        folders = [index.INDEX if name == "images" else name for name in folders]
    print(f"{count(progress.done, 'map')} written to {' and '.join(map(results.full, folders))}.")
    if options.overlay:
        folder = index.INDEX if options.shards else "overlays"
        print(f"{count(progress.done, 'overlay')} written to {results.full(folder)}.")
    if progress.failed:
        print(f"{count(progress.failed, 'image')} failed.")
    if summary := Found({}, skipped).summary():
        print(summary)


def _predict(
    photographs: Photographs, results: Store, network: Network, options: Options, check_lease: Callable[[], None]
) -> tuple[int, Progress, str]:
    """Predict all photographs that are missing.

    Returns the number of maps that existed before, the progress, and what was skipped in the folders of photographs.
    """
    before, _ = index.known(results, shards=options.shards)
    share = share_machines(options)
    if network.precision == "float16" and not share.gpus:
        raise UserError("--precision float16 needs a GPU, but the cluster has none: use --precision bfloat16.")
    network_ref = ray.put(network)  # Ray copies it once to each machine; workers share the arrays.
    total = index.count_photographs.remote(photographs)
    progress, done = Progress(), before
    with ProgressBar(unit="image", initial=len(before)) as bar:
        for attempt in range(ATTEMPTS):
            alone = attempt > 0
            listing = index.Listing(photographs, ray.put(done), 1 if alone else CHUNK)
            constructor = [network_ref, results, options, share.cores]
            reported, listed = 0, -1
            for report in _reports(listing, constructor, share, alone):
                check_lease()
                progress.add(report)
                reported += report["done"] + report["failed"]
                listed = max(listed, report["listed"])
                _show(bar, report, progress, total)
            if reported == listed:
                return len(before), progress, ray.get(total)[1]
            done, failed = index.known(results, shards=options.shards, recent=True)
            share = share._replace(workers=min(share.workers, max(1, ray.get(total)[0] - len(done))))
            progress.done, progress.failed = len(done) - len(before) - failed, failed
        _give_up(photographs, done, results, progress)
    return len(before), progress, ray.get(total)[1]


def _reports(listing: index.Listing, constructor: list, share: Share, alone: bool) -> Iterator[dict]:
    """Distribute the chunks of a listing across workers, one at a time if `alone`; yields the report of each chunk."""
    # Listing reserves no core: workers may occupy all cores while they wait for it, which would be a deadlock.
    chunks = ray.data.read_datasource(listing, override_num_blocks=1, concurrency=1, num_cpus=0)
    with warnings.catch_warnings():
        # Ray before 2.64 has no other way to set `max_task_retries`; requirements-cluster.txt has an upper bound.
        warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)
        reports = chunks.map(
            Worker,
            fn_constructor_args=constructor,
            compute=ray.data.ActorPoolStrategy(size=share.workers, max_tasks_in_flight_per_actor=1 if alone else 2),
            num_cpus=share.cores,
            num_gpus=share.gpus,
            max_task_retries=0,  # Ray restarts the worker, but does not repeat the chunk that killed it.
        )
    index.silence(reports)
    reports.context.target_max_block_size = 1  # One chunk (one row) per block.
    reports.context.max_errored_blocks = -1  # Chunks of dead workers fail; `_predict` retries them.
    for row in reports.iter_rows():
        if row["stopped"]:
            raise UserError(row["stopped"])
        yield row


def share_machines(options: Options) -> Share:
    """The number of workers and the resources of each, from those of the cluster's machines."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    gpus = [int(machine.get("GPU", 0)) for machine in machines]
    if sum(gpus) and options.params["device"] != "cpu":
        threads = max(1, min(core // gpu for core, gpu in zip(cores, gpus, strict=True) if gpu))
        return Share(options.workers or sum(gpus), threads, 1)
    workers = options.workers or sum(cores) or 1
    fits = (n for n in range(max(cores, default=1), 1, -1) if sum(core // n for core in cores) >= workers)
    return Share(workers, next(fits, 1), 0)


def _show(bar, report: dict, progress: Progress, total) -> None:
    if bar.total is None and ray.wait([total], timeout=0)[0]:
        with contextlib.suppress(ray.exceptions.RayError, UserError):
            bar.total = ray.get(total)[0]
    bar.set_postfix(failed=progress.failed, refresh=False)
    bar.update(report["done"] + report["failed"])


def _give_up(photographs: Photographs, done, results: Store, progress: Progress) -> None:
    """Record photographs that crashed every worker."""
    missing = (photograph for photograph in photographs if not index.contains(done, [photograph.path])[0])
    while chunk := list(itertools.islice(missing, CHUNK)):
        reason = f"its worker died each of {ATTEMPTS} times"
        rows = [index.row(photograph, error=reason) for photograph in chunk]
        index.write_part(results, rows)
        errors = [f"{row['path']}: {reason}" for row in rows]
        progress.add({"done": 0, "failed": len(rows), "errors": errors, "folders": []})


# --- Ray --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to the Ray cluster at an address; "local" starts one for the duration of the block.

    Workers import a copy of this program's modules, even if another version is installed on their machines. The rest of
    a clone is not copied, because users may keep photographs and passwords there; weights are sent as arrays.
    """
    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {}
    variables = {name: os.environ[name] for name in TENSORFLOW_SETTINGS}
    environment: dict[str, Any] = {"env_vars": variables}
    with copied_modules() as package:
        if address == "local":
            settings = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
        else:
            environment["py_modules"] = [str(package)]
        try:
            if ":" in address:  # Ray would retry for minutes.
                host, port = address.rsplit("/", 1)[-1].rsplit(":", 1)
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment, **settings)
        except Exception as error:  # Ray raises bare exceptions too.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if address == "local":
                raise UserError(f"Ray did not start ({reason}): try again when the machine is less busy.") from error
            raise UserError(
                f"Cannot connect to a Ray cluster at {address} ({reason}): start one with `ray start --head`, or omit "
                f"the address. See docs/cluster.md."
            ) from error
        try:
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            yield
        finally:
            ray.shutdown()
