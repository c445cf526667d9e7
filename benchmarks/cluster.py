"""Speed and memory of `test --cluster` on this machine, compared with plain `test`.

    python benchmarks/cluster.py [--images 2000] [--many 1000 5000 20000] [--input-size 240 320]

Photographs are copies of the one that Matplotlib ships, and each run is a separate process. Speeds exclude the first
and last tenth of the maps, and so the startup; the time of the whole command is listed too. Ratios within one run mean
more than the numbers, which depend on the machine and its load.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

from msinet import main  # noqa: E402
from msinet.photographs import sample_photograph  # noqa: E402
from msinet.utils import quiet_stderr  # noqa: E402

SECONDS_BETWEEN_LOOKS = 0.5


def copies(folder: Path, number: int, contents: bytes) -> Path:
    """A folder with one photograph under many names."""
    folder.mkdir(parents=True)
    (folder / "000000.jpg").write_bytes(contents)
    for i in range(1, number):
        os.link(folder / "000000.jpg", folder / f"{i:06d}.jpg")
    return folder


def small_photograph() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(sample_photograph()) as photograph:
        photograph.resize((64, 48)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


# --- One run, in a separate process -----------------------------------------------------------------------------------


def worker_bytes() -> int:
    """Resident memory of the largest worker among this process's descendants."""
    parents, names, sizes = {}, {}, {}
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            number = int(process.name)
            parents[number] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            names[number] = (process / "cmdline").read_text()
            sizes[number] = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def is_ours(number: int) -> bool:
        while number in parents and number != os.getpid():
            number = parents[number]
        return number == os.getpid()

    return max((sizes[n] for n, name in names.items() if name.startswith("ray::MapWorker") and is_ours(n)), default=0)


def run_one(arguments: list[str], instant: bool) -> dict:
    """Run the command line; with `instant`, with a network that returns zeros immediately."""
    with quiet_stderr():
        import tensorflow as tf

        import msinet

    class Instant(msinet.Network):
        def _graph_on(self, device):
            return lambda images: tf.zeros((*images.shape[:3], 1))

    if instant:
        load = msinet.load

        def load_instant(*names, **options):
            network = load(*names, **options)
            return Instant(**{field: getattr(network, field) for field in network.__dataclass_fields__})

        msinet.load = load_instant
        with contextlib.suppress(ImportError):
            from ray import cloudpickle

            cloudpickle.register_pickle_by_value(sys.modules[__name__])

    greatest, over = {"head": 0, "worker": 0}, threading.Event()

    def watch():
        page = os.sysconf("SC_PAGE_SIZE")
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            head = int(Path("/proc/self/statm").read_text().split()[1]) * page
            greatest["head"] = max(greatest["head"], head)
            greatest["worker"] = max(greatest["worker"], worker_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = os.times()
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        status = main.main(arguments)
    seconds = time.perf_counter() - start
    over.set()
    watcher.join()
    after = os.times()
    processor = sum(after[:4]) - sum(before[:4])
    return {"status": status, "seconds": seconds, "processor": processor, **greatest}


def measured(folder: Path, results: Path, *flags: str, instant: bool = False) -> dict:
    """Run `test` on a folder; adds the speed in maps per second."""
    arguments = ["test", "-p", str(folder), "--weights", "lite", "--results", str(results), *flags]
    command = [sys.executable, __file__, "--one", json.dumps({"arguments": arguments, "instant": instant})]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(finished.stdout.splitlines()[-1])
    assert row["status"] == 0, finished.stderr
    times = sorted(file.stat().st_mtime for file in (results / "images").iterdir())
    middle = times[len(times) // 10 : -len(times) // 10]
    row["speed"] = (len(middle) - 1) / max(1e-9, middle[-1] - middle[0])
    return row


# --- Tables -----------------------------------------------------------------------------------------------------------


def print_speeds(folder: Path, scratch: Path, size: list[str], number: int) -> None:
    print("| command | images per second | relative to plain `test` | whole command, s |\n| --- | --- | --- | --- |")
    plain = None
    for name, flags in (
        ("`test`", []),
        ("`test --cluster --workers 1`", ["--cluster", "--workers", "1"]),
        ("`test --cluster --workers 2`", ["--cluster", "--workers", "2"]),
    ):
        row = measured(folder, scratch / name.strip("`").replace(" ", ""), "--input-size", *size, *flags)
        plain = plain or row["speed"]
        print(f"| {name} | {row['speed']:.2f} | {row['speed'] / plain:.2f} | {row['seconds']:.0f} |", flush=True)
    print(f"\n{number} photographs of 512×600 at {size[0]}×{size[1]}, lite.\n")


def print_scale(scratch: Path, numbers: list[int]) -> None:
    """The engine alone: tiny photographs and a network that takes no time."""
    print("| photographs | images per second | ms per image | plain `test`, ms | head, MiB | worker, MiB | again, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    contents, size = small_photograph(), ["--input-size", "48", "64"]
    for number in numbers:
        folder = copies(scratch / f"in{number}", number, contents)
        plain = measured(folder, scratch / f"plain{number}", *size, instant=True)
        results = scratch / f"cluster{number}"
        row = measured(folder, results, *size, "--cluster", instant=True)
        again = measured(folder, results, *size, "--cluster", instant=True)
        head, worker = (round(row[name] / 2**20) for name in ("head", "worker"))
        each, plain_each = 1e3 / row["speed"], 1e3 / plain["speed"]
        print(f"| {number} | {row['speed']:.0f} | {each:.2f} | {plain_each:.2f} | {head} | {worker} | "
              f"{again['seconds']:.1f} |", flush=True)  # fmt: skip


def print_listing(scratch: Path, number: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from msinet.phases.distributed.lists import Photographs

    folder = next(scratch.glob("in*"))
    manifest = scratch / "list.parquet"
    pq.write_table(pa.table({"path": [f"s3://bucket/photographs/{i:09d}.jpg" for i in range(number)]}), manifest)
    for name, path in (("a folder", folder), ("a list in Parquet", manifest)):
        start = time.perf_counter()
        listed = sum(1 for _ in Photographs(str(path), "", ".jpeg"))
        print(f"Listing {name}: {listed / (time.perf_counter() - start):.0f} photographs per second")
    for name in ("index/*.parquet", "images/*"):
        sizes = [file.stat().st_size for file in max(scratch.glob("cluster*")).glob(name)]
        print(f"{name}: {len(sizes)} files, {sum(sizes)} bytes")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="photographs for the speeds (default: 2000)")
    parser.add_argument(
        "--many", type=int, nargs="*", default=[1000, 5000, 20000], help="tiny photographs for the other tables"
    )
    parser.add_argument("--input-size", nargs=2, default=["240", "320"], metavar=("H", "W"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(**json.loads(options.one))))
        return
    print(f"{os.cpu_count()} processor cores, load {os.getloadavg()[0]:.1f} before the start\n")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.images:
            photographs = copies(scratch / "photographs", options.images, sample_photograph().read_bytes())
            print_speeds(photographs, scratch, options.input_size, options.images)
        if options.many:
            print_scale(scratch, options.many)
            print_listing(scratch, 200_000)


if __name__ == "__main__":
    run()
