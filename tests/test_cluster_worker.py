"""A worker of `test --cluster`, the index, and who may write into the results; without machines."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from clusters import assert_whole, check_index, index_of, known_paths, small, store, worker, write_photographs
from conftest import write
from PIL import Image

from msinet import main
from msinet.photographs import Options
from msinet.utils import UserError

pytestmark = pytest.mark.filterwarnings("default")  # Ray causes warnings.

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import ray

from msinet.phases.distributed import cluster, lease, lists
from msinet.phases.distributed import index as cluster_index
from msinet.phases.distributed import store as cluster_store
from msinet.phases.distributed import worker as cluster_worker
from msinet.phases.distributed.lists import Photographs


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
    assert cluster.share_machines(Options({"device": "auto"}, workers=workers)) == expected


def test_ray_that_does_not_start_is_one_line(monkeypatch, tmp_path, photograph, capsys):
    def time_out(*_, **__):
        raise Exception("The current node timed out during startup.\nMore")

    monkeypatch.setattr(ray, "init", time_out)
    image = write(tmp_path / "a.jpg", tf.io.encode_jpeg(photograph()))
    assert main.main(["test", "-p", str(image), "--weights", "lite", "--results", str(tmp_path), "--cluster"]) == 2
    error = "Ray did not start (The current node timed out during startup.): try again when the machine is less busy."
    assert error in capsys.readouterr().err


def chunk(path) -> dict:
    return cluster_index.chunk_row(list(Photographs(str(path), "", ".png"))).to_pylist()[0]


def test_full_disk_stops_the_run_and_leaves_no_partial_file(tmp_path, worker, monkeypatch):
    write_photographs(tmp_path / "in", 3)
    old = write(tmp_path / "results" / "images" / "000.png", b"old")
    half = Path.write_bytes

    def full(path, contents):
        half(path, contents[: len(contents) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    report = worker(chunk(tmp_path / "in"))
    assert "No space left on device" in report["stopped"] and "repeat the command" in report["stopped"]
    assert_whole(tmp_path / "results")
    assert old.read_bytes() == b"old" and not (tmp_path / "results" / "index").exists()


def test_killed_workers_temporary_files_are_removed_after_the_run(tmp_path):
    script = """
import os, sys
from msinet import utils
writing = utils.whole_file(utils.Path(sys.argv[1]))
writing.__enter__().touch()
os._exit(9)
"""
    map_file = str(tmp_path / "results" / "images" / "sub" / "map.png")
    subprocess.run([sys.executable, "-c", script, map_file], check=False)
    assert list((tmp_path / "results" / "images" / "sub").iterdir())
    with cluster_store.open_store(str(tmp_path / "results")).cleaned():
        pass
    assert_whole(tmp_path / "results")


def test_only_done_photographs_with_existing_maps_are_known(tmp_path, worker):
    write_photographs(tmp_path / "in", 6)
    write(tmp_path / "in" / "damaged.jpg", b"none")
    results = tmp_path / "results"
    for _ in range(2):  # A repeated chunk replaces its part of the index.
        assert worker(chunk(tmp_path / "in"))["done"] == 6
    (part,) = (results / "index").iterdir()
    half_file = write(results / "index" / f"{0:024x}.parquet", part.read_bytes()[:500])
    (results / "images" / "000.png").unlink()
    recent = check_index(worker, recent=True)
    assert len(recent["id"]) == 7 and recent["failed"].sum() == 1
    checked = check_index(worker)
    assert len(checked["id"]) == 5 and checked["failed"].sum() == 0
    assert {Path(path).name for path in index_of(results)} == {f"{i:03d}.jpg" for i in range(1, 6)}
    assert not half_file.exists()


# --- What belongs to the user -----------------------------------------------------------------------------------------


class Backslashes(type(Path())):
    """A path that is written as on Windows."""

    def __str__(self):
        return super().__str__().replace("/", "\\")

    def __fspath__(self):
        return super().__str__()


def test_no_photograph_is_removed_however_its_path_is_written(tmp_path, worker, monkeypatch):
    folder = write_photographs(tmp_path / "in", 3)
    paths = [str(file) for file in folder.rglob("*.jpg")]
    write(tmp_path / "list" / "m.txt", "\n".join([*paths, ".", "..", "none.jpg", "//"]).encode())
    for module in (lists, cluster_store, cluster_worker):
        monkeypatch.setattr(module, "Path", Backslashes)
    report = worker(chunk(f"{tmp_path}/list/m.txt"))
    assert (report["done"], report["failed"], report["stopped"]) == (3, 4, "")
    assert sorted(str(file) for file in folder.rglob("*.jpg")) == sorted(paths)
    assert (tmp_path / "list" / "m.txt").exists()


def test_copies_from_a_store_are_removed_one_by_one(tmp_path, worker, monkeypatch):
    bucket = cluster_store.open_store("memory://photographs")
    for i in range(3):
        bucket.write(f"{i}.jpg", small(i))
    copies, write_maps = [], cluster_worker.write_maps

    def watched(photograph, prediction, *arguments):
        copies.append(prediction.photograph)
        assert prediction.photograph.exists()
        return write_maps(photograph, prediction, *arguments)

    monkeypatch.setattr(cluster_worker, "write_maps", watched)
    chunk_of = [cluster_store.Photograph(f"memory://photographs/{i}.jpg", f"images/{i}.png", "") for i in range(3)]
    assert [row["error"] for row in worker._rows(chunk_of)] == [""] * 3 and len(copies) == 3
    assert not any(copy.exists() for copy in copies)
    assert bucket.existing(["0.jpg", "1.jpg", "2.jpg"]) == [True] * 3


def test_restart_removes_only_the_index(tmp_path):
    results = cluster_store.open_store(str(tmp_path))
    cluster_index.write_part(results, [{"path": "a.jpg"}])
    for name in ("index/mine.parquet", "index/sub/thesis.txt", "images/a.jpg"):
        write(tmp_path / name, b"years of work")
    cluster_index.claim(results, {}, restart=True)
    assert {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.*")} == {
        "index/mine.parquet", "index/sub/thesis.txt", "images/a.jpg", "run.json",
    }  # fmt: skip


def test_native_warnings_during_a_run_do_not_reach_the_terminal(tmp_path):
    script = """
import contextlib, os, sys
from msinet import main
from msinet.phases.distributed import cluster
cluster._connected = lambda address: contextlib.nullcontext()
def predict(*arguments):
    os.write(2, b"core_worker.cc: a warning")
    print("from Python", file=sys.stderr)
    return 0, cluster.Progress(), "2 .txt"
cluster._predict = predict
sys.exit(main.main(["test", "-p", *sys.argv[1:], "--weights", "lite", "--cluster"]))
"""
    write(tmp_path / "a.jpg", small(1))
    command = [sys.executable, "-c", script, str(tmp_path / "a.jpg"), "--results", str(tmp_path / "results")]
    finished = subprocess.run(command, cwd=Path(main.__file__).parent, capture_output=True, text=True, check=False)
    assert finished.returncode == 0 and finished.stderr.splitlines()[-1:] == ["from Python"]
    assert "core_worker" not in finished.stderr
    assert "Skipped files that are not photographs: 2 .txt." in finished.stdout


def test_photographs_where_maps_go_are_rejected(tmp_path, capsys):
    mine = write(tmp_path / "images" / "a.jpeg", small(1))
    for path in (mine, mine.parent, tmp_path / "x" / ".." / "images"):
        assert main.main(["test", "-p", str(path), "--results", str(tmp_path), "--weights", "lite", "--cluster"]) == 2
        assert "is in the folder of results" in capsys.readouterr().err
    assert mine.read_bytes() == small(1)
    assert main.main(["test", "-p", str(tmp_path), "--results", str(tmp_path), "--weights", "lite", "--cluster"]) == 2
    assert "would be mixed with the photographs" in capsys.readouterr().err


def test_run_record_of_another_program_is_a_clear_error(tmp_path):
    mine = write(tmp_path / "run.json", b"[1, 2")
    with pytest.raises(UserError, match=r"run\.json was not written by this command"):
        cluster_index.claim(cluster_store.open_store(str(tmp_path)), {}, restart=False)
    assert mine.read_bytes() == b"[1, 2"


# --- Wrong entries and replaced photographs ---------------------------------------------------------------------------


@pytest.mark.parametrize("dictionary", [False, True])
def test_unknown_stores_and_entries_that_are_no_paths_are_one_failed_row_each(tmp_path, worker, dictionary):
    write(tmp_path / "good.jpg", small(1))
    column = pa.array(["foo://x/a.jpg", None, "good.jpg", "a\0b.jpg", "n" * 300 + ".jpg", ""])
    pq.write_table(pa.table({"path": column.dictionary_encode() if dictionary else column}), tmp_path / "m.parquet")
    report = worker(chunk(tmp_path / "m.parquet"))
    assert (report["done"], report["failed"], report["stopped"]) == (1, 5, "")
    rows = pq.read_table(tmp_path / "results" / "index").to_pylist()
    assert [row["status"] for row in rows] == ["failed", "failed", "done", "failed", "failed", "failed"]
    assert "foo://, which cannot be opened" in rows[0]["error"]
    assert rows[1]["error"] == rows[5]["error"] == cluster_store.NOT_A_PATH
    assert [rows[i]["path"] for i in (1, 5)] == [f"{tmp_path / 'm.parquet'}, row {i}" for i in (2, 6)]
    assert (tmp_path / "results" / "images" / "good.jpg.png").exists()


def bitmap(path: Path, seed: int) -> None:
    """A photograph whose file has the same size for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_replaced_photograph_is_predicted_again_and_a_removed_one_keeps_its_map(tmp_path, worker):
    folder = tmp_path / "in"
    paths = [str(folder / f"{name}.bmp") for name in "abc"]
    for i, path in enumerate(paths):
        bitmap(Path(path), i)
    worker(chunk(folder))
    first = (tmp_path / "results" / "images" / "a.png").read_bytes()
    assert known_paths(worker, paths) == [True, True, True]
    before = Path(paths[0]).stat()
    bitmap(Path(paths[0]), 7)
    assert Path(paths[0]).stat().st_size == before.st_size
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    Path(paths[2]).unlink()
    assert known_paths(worker, paths) == [False, True, True]
    worker(chunk(folder))
    assert (tmp_path / "results" / "images" / "a.png").read_bytes() != first


def test_photograph_that_is_replaced_in_a_store_is_predicted_again(worker, store):
    pyarrow.fs.S3FileSystem(endpoint_override=store.url, allow_bucket_creation=True).create_dir("replaced")
    bucket = cluster_store.open_store("s3://replaced")
    paths = [f"s3://replaced/{name}.jpg" for name in "ab"]
    for i, path in enumerate(paths):
        bucket.write(path.rpartition("/")[2], small(i))
    worker(chunk("s3://replaced"))
    assert known_paths(worker, paths) == [True, True]
    contents = bytearray(small(1))
    contents[-3] ^= 1  # As large as before, and within the same second.
    bucket.write("b.jpg", bytes(contents))
    assert known_paths(worker, paths) == [True, False]


# --- One run at a time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [False, True])
def test_second_run_in_the_same_results_ends_before_it_changes_them(tmp_path, address, monkeypatch, capsys):
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0)
    results = f"memory://{tmp_path.name}" if address else str(tmp_path / "results")
    write(tmp_path / "a.jpg", small(1))
    command = ["test", "-p", str(tmp_path / "a.jpg"), "--weights", "lite", "--results", results, "--cluster"]
    there = cluster_store.open_store(results)
    with lease.exclusive(there):
        cluster_index.write_part(there, [{"path": "a.jpg"}])
        files = there.entries("index")[1]
        for flags in ([], ["--restart"]):
            assert main.main([*command, *flags]) == 2
            error = capsys.readouterr().err
            assert f"is writing into {results}: process {os.getpid()}" in error and error.count("\n") == 1
        assert there.entries("index")[1] == files and there.existing(["run.json"]) == [False]
    with lease.exclusive(there):
        pass
    assert there.existing([lease.LEASE]) == [False]


def test_lease_of_a_killed_run_expires_and_a_taken_lease_stops_a_run(monkeypatch):
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0)
    bucket = cluster_store.open_store("memory://leases")
    killed = lease.Lease(bucket)
    killed.take()
    with pytest.raises(UserError, match=r"repeat the command in 1[12]\d s"):
        lease.Lease(bucket).take()
    later = killed.renewed + lease.LEASE_SECONDS + 1
    monkeypatch.setattr(lease, "time", SimpleNamespace(time=lambda: later, sleep=lambda seconds: None))
    successor = lease.Lease(bucket)
    successor.take()
    successor.check()
    killed.renewed = later  # As if it had only been slow.
    killed.check()
    killed.keep(SimpleNamespace(wait=lambda seconds: False))
    with pytest.raises(UserError, match="Another run may be writing"):
        killed.check()
    successor.check(now=True)
    killed.release()
    assert successor._read()["run"] == successor.run
