"""`test --cluster`: on real Ray, a head without processor cores and two machines with one each, as processes here.

What does not need Ray's machines is tested without: names, portions, files written whole, the index.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write
from PIL import Image

import main
import msinet
from data import list_images
from images import encode_map
from phases import test
from photographs import find_images, output_paths
from utils import UserError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
pytest.importorskip("moto", reason="moto, a store for the tests, is not installed: pip install -r requirements-dev.txt")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import ray.cloudpickle  # noqa: E402
import ray.cluster_utils  # noqa: E402

from phases import cluster, cluster_index, cluster_store  # noqa: E402
from phases.cluster_store import Photographs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # Ray has warnings of its own.

# Classes of this file travel to the workers, which cannot import it.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

FIXED = ("--weights", "lite", "--input-size", "48", "64")
STORE_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Trouble(msinet.Network):
    """A network whose process is killed where a photograph's name has the word "deadly".

    With a `marker`, a file, that happens once. Before each photograph it pauses for `pause` seconds.
    """

    marker: str = ""
    pause: float = 0.0

    def predictions(self, photographs, batch_size=1):
        def watched():
            for photograph in photographs:
                if "deadly" in str(photograph) and not (self.marker and Path(self.marker).exists()):
                    if self.marker:
                        Path(self.marker).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(self.pause)
                yield photograph

        return msinet.Network.predictions(self, watched(), batch_size)


def troubled(monkeypatch, **values) -> None:
    """Let `test --cluster` predict with a `Trouble`."""
    load = msinet.load

    def load_trouble(*arguments, **options):
        network = load(*arguments, **options)
        trouble = Trouble(**{field.name: getattr(network, field.name) for field in dataclasses.fields(network)})
        trouble.__dict__.update(values)
        return trouble

    monkeypatch.setattr(msinet, "load", load_trouble)


def small(seed: int, height: int = 40, width: int = 56) -> bytes:
    coarse = np.random.default_rng(seed).uniform(0, 255, (5, 7, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width + seed % 5, height + seed % 3)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_photographs(folder: Path, number: int) -> Path:
    for i in range(number):
        write(folder / ("", "sub", "sub/deeper", "Sub")[i % 4] / f"{i:03d}.jpg", small(i))
    return folder


def plain(path: Path, results: Path, suffix: str = ".jpeg", overlay: bool = False) -> dict[str, bytes]:
    """What `test` without a cluster writes, by name."""
    network = msinet.load("lite", input_size=(48, 64))
    test.test(network, find_images(path), path, results, batch_size=1, suffix=suffix, overlay=overlay)
    return contents_of(results)


def contents_of(results: Path) -> dict[str, bytes]:
    files = [file for name in ("images", "overlays") for file in (results / name).rglob("*") if file.is_file()]
    return {file.relative_to(results).as_posix(): file.read_bytes() for file in files}


def index_of(results: Path) -> dict[str, dict]:
    """The index by path; no path is there twice."""
    rows = pq.read_table(results / "index").to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows)
    return by_path


def assert_whole(results: Path) -> None:
    """No temporary file is left anywhere."""
    assert [str(file) for file in results.rglob(".*")] == []


# --- Without machines -------------------------------------------------------------------------------------------------


def test_listing_gives_the_names_that_plain_test_gives(tmp_path):
    names = ("x.png", "x.jpg", "x.png.jpg", "X.gif", "a/x.png", "A/x.jpg", "a/y.webp", "ä.png", "a\u0308.jpg", ".h.png")
    for name in (*names, "a/.hidden/z.png", "text.md", os.fsdecode(b"latin\xe9.png")):
        write(tmp_path / "in" / name, b"")
    for suffix in (".jpeg", ".npy"):
        listed = list(Photographs(str(tmp_path / "in"), "", suffix))
        images = list_images(tmp_path / "in")
        expected = output_paths(images, tmp_path / "in", Path("images"), suffix)
        assert {Path(photograph.path): Path(photograph.map) for photograph in listed} == expected
    one = Photographs(str(tmp_path / "in" / "x.png"), "", ".png")
    assert [photograph.map for photograph in one] == ["images/x.png"]


def test_listing_passes_over_the_results(tmp_path):
    for name in ("a.png", "results/images/a.jpeg"):
        write(tmp_path / name, b"")
    listed = Photographs(str(tmp_path), str(tmp_path / "results"), ".jpeg")
    assert [photograph.map for photograph in listed] == ["images/a.jpeg"]


def test_manifest_names_photographs_wherever_they_are(tmp_path):
    entries = ["a.jpg", "sub/a.png", "/data/a.jpg", "../b.jpg", "s3://bucket/a.jpg"]
    write(tmp_path / "list" / "m.txt", "\n\n".join(entries).encode())
    pq.write_table(pa.table({"number": range(5), "path": entries}), tmp_path / "list" / "m.parquet")
    for name in ("m.txt", "m.parquet"):
        listed = list(Photographs(str(tmp_path / "list" / name), "", ".png"))
        here = tmp_path.as_posix()
        assert [photograph.path for photograph in listed] == [
            f"{here}/list/a.jpg", f"{here}/list/sub/a.png", "/data/a.jpg", f"{here}/b.jpg", "s3://bucket/a.jpg",
        ]  # fmt: skip
        assert [photograph.map for photograph in listed] == [
            "images/a.jpg.png", "images/sub/a.png.png", "images/file/data/a.jpg.png", f"images/file{here}/b.jpg.png",
            "images/s3/bucket/a.jpg.png",
        ]  # fmt: skip
    pq.write_table(pa.table({"file": entries}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="expected one called 'path'"):
        list(Photographs(str(tmp_path / "other.parquet"), "", ".png"))


def test_portions_leave_out_what_is_done_and_grow(tmp_path, monkeypatch):
    write(tmp_path / "m.txt", "".join(f"{i}.jpg\n" for i in range(1000)).encode())
    monkeypatch.setattr(ray, "get", lambda value: value)
    done = np.sort(cluster_index.ids([f"{tmp_path.as_posix()}/{i}.jpg" for i in range(0, 1000, 2)]))
    listing = cluster_index.Listing(Photographs(str(tmp_path / "m.txt"), "", ".png"), done, portion=16)
    rows = [row for table in listing._portions() for row in table.to_pylist()]
    paths = [os.fsdecode(path) for row in rows for path in row["path"]]
    assert paths == [f"{tmp_path.as_posix()}/{i}.jpg" for i in range(1, 1000, 2)]
    assert [row["listed"] for row in rows] == [-1] * (len(rows) - 1) + [500]
    assert len(rows[0]["path"]) == 2 and max(len(row["path"]) for row in rows) == 8  # half of 4 and of 16


@pytest.mark.parametrize(
    ("machines", "workers", "expected"),
    [
        ([{"CPU": 1.0}], None, (1, 1, 0)),
        ([{"CPU": 2.0}], None, (2, 1, 0)),
        ([{"CPU": 64.0}, {}], None, (64, 1, 0)),
        ([{"CPU": 64.0}, {"CPU": 64.0}], 4, (4, 32, 0)),
        ([{"CPU": 3.0}, {"CPU": 3.0}], 2, (2, 3, 0)),
        ([{"CPU": 2.0}], 8, (8, 1, 0)),
        ([{"CPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}], None, (2, 8, 1)),
    ],
)
def test_workers_share_what_the_machines_have(monkeypatch, machines, workers, expected):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": machine} for machine in machines])
    job = cluster.Job("", ".png", False, False, 1, "auto")
    job, resources = cluster._workers(job, workers)
    assert (resources["workers"], resources["num_cpus"], resources["num_gpus"]) == expected
    assert job.threads == resources["num_cpus"]


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A worker in this process, whose results are in `tmp_path / "results"`."""
    monkeypatch.setattr(ray, "get", lambda value: value)
    for setting in ("intra", "inter"):
        monkeypatch.setattr(tf.config.threading, f"set_{setting}_op_parallelism_threads", lambda number: None)
    job = cluster.Job(str(tmp_path / "results"), ".png", False, False, 1, "cpu")
    return cluster.Worker(msinet.load("lite", input_size=(48, 64)), job)


def portion(folder: Path) -> dict:
    listed = list(Photographs(str(folder), "", ".png"))
    return cluster_index._portion_row(listed).to_pylist()[0]


def test_full_disk_stops_the_run_and_leaves_no_half_of_a_file(tmp_path, worker, monkeypatch):
    write_photographs(tmp_path / "in", 3)
    old = write(tmp_path / "results" / "images" / "000.png", b"old")
    half = Path.write_bytes

    def full(path, contents):
        half(path, contents[: len(contents) // 2])
        raise OSError(28, "No space left on device")

    with worker.results.open_for_writing():
        monkeypatch.setattr(Path, "write_bytes", full)
        told = worker(portion(tmp_path / "in"))
        assert "No space left on device" in told["stopped"] and "repeat the command" in told["stopped"]
        assert list((tmp_path / "results" / ".part").iterdir()) == []
    assert old.read_bytes() == b"old" and not (tmp_path / "results" / "index").exists()


def test_same_portion_again_replaces_its_part_of_the_index(tmp_path, worker):
    write_photographs(tmp_path / "in", 3)
    with worker.results.open_for_writing():
        for _ in range(2):
            assert worker(portion(tmp_path / "in"))["done"] == 3
    assert len(list((tmp_path / "results" / "index").iterdir())) == 1 and len(index_of(tmp_path / "results")) == 3


def test_only_what_is_done_and_there_is_known(tmp_path, worker):
    write_photographs(tmp_path / "in", 6)
    write(tmp_path / "in" / "damaged.jpg", b"none")
    results = tmp_path / "results"
    check = {"results": worker.results, "shards": False}
    with worker.results.open_for_writing():
        worker(portion(tmp_path / "in"))
        half = (next((results / "index").iterdir())).read_bytes()[:500]
        write(results / "index" / "half.parquet", half)
        (results / "images" / "000.png").unlink()
        parts = {"item": sorted(file.name for file in (results / "index").iterdir())}
        recent = cluster_index._check(parts, recent=True, **check)
        assert len(recent["id"]) == 7 and recent["failed"].sum() == 1
        again = {"item": [name for name in parts["item"] if (results / "index" / name).exists()]}
        checked = cluster_index._check(again, recent=False, **check)
    assert len(checked["id"]) == 5 and checked["failed"].sum() == 0
    left = index_of(results)
    assert len(left) == 5 and {Path(path).name for path in left} == {f"{i:03d}.jpg" for i in range(1, 6)}
    assert not (results / "index" / "half.parquet").exists()


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    write(tmp_path / "a.jpg", small(0))
    for module in ("ray", "phases.cluster"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delattr(sys.modules["phases"], "cluster", raising=False)
    assert main.main(["test", "-p", str(tmp_path / "a.jpg"), "--results", str(tmp_path / "r"), "--cluster"]) == 2
    printed = capsys.readouterr()
    assert printed.err == (
        "error: --cluster needs Ray, which is not installed: python -m pip install -r requirements-cluster.txt\n"
    )


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--shards"], "--shards: only with --cluster"),
        (["--workers", "2", "--restart"], "--workers and --restart: only with --cluster"),
        (["-p", "s3://bucket/photographs"], "with --cluster only"),
        (["-p", "nowhere.jpg", "--cluster"], "nowhere.jpg cannot be read"),
        (["-p", "zip0://nowhere/photographs", "--cluster"], "zip0://, which cannot be opened"),
    ],
)
def test_flags_that_cannot_be_followed_are_clear_errors(tmp_path, monkeypatch, capsys, flags, complaint):
    monkeypatch.chdir(tmp_path)
    assert main.main(["test", "--results", str(tmp_path / "r"), *flags]) == 2
    assert complaint in capsys.readouterr().err
