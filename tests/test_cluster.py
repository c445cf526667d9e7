"""`test --cluster` on real Ray, with processes as machines: a head without processor cores, and two with one core each.

test_cluster_lists.py and test_cluster_worker.py test the rest without machines.
"""

import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from clusters import assert_whole, contents_of, index_of, modified, plain, small, store, wait_until, write_photographs
from conftest import assert_close, write
from PIL import Image

import msinet
from msinet import main
from msinet.data import list_images
from msinet.images import encode_map, encode_overlay, read_stimulus
from msinet.installation import copied_modules

pytestmark = pytest.mark.filterwarnings("default")  # Ray causes warnings.

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from msinet.phases.distributed import cluster
from msinet.phases.distributed import store as cluster_store

# Classes of these files travel to the workers, which cannot import them.
for module in (__name__, "clusters"):
    cloudpickle.register_pickle_by_value(sys.modules[module])

ROOT = Path(__file__).parents[1]
FIXED = ("--weights", "lite", "--input-size", "48", "64")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trouble(msinet.Network):
    """A network whose process is killed by photographs with "deadly" in their names.

    With a `marker`, a file, that happens once. With `gate`, a file next to the results, the network waits for that file
    when it finds ten maps.
    """

    marker: str = ""
    gate: str = ""

    def predictions(self, photographs, batch_size=1):
        def watched():
            for photograph in photographs:
                if "deadly" in str(photograph) and not (self.marker and Path(self.marker).exists()):
                    if self.marker:
                        Path(self.marker).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield photograph

        gate = Path(self.gate)
        wait_until(lambda: not self.gate or gate.exists() or len(contents_of(gate.parent / "results")) < 10)
        return msinet.Network.predictions(self, watched(), batch_size)


def troubled(monkeypatch, **values) -> None:
    """Let `test --cluster` predict with a `Trouble`."""
    load = cluster.load

    def load_trouble(*arguments, **options):
        network = load(*arguments, **options)
        return Trouble(**{field.name: getattr(network, field.name) for field in dataclasses.fields(network)}, **values)

    monkeypatch.setattr(cluster, "load", load_trouble)


def add_machine(machines: Cluster, cores: int) -> None:
    """Start a machine, with retries: Ray gives it 30 seconds, which is not enough on a busy processor."""
    for attempts_left in (2, 1, 0):
        try:
            machines.add_node(num_cpus=cores, **machines.size)
            return
        except Exception as error:
            if not attempts_left or "timed out during startup" not in str(error):
                raise


@pytest.fixture(scope="module")
def machines(store):
    """A Ray cluster with authentication: a head without processor cores, and two machines with one core each."""
    machines = Cluster()
    machines.size = {"object_store_memory": 150 * 2**20}
    for cores in (0, 1, 1):
        add_machine(machines, cores)
    with cluster._connected(machines.address):
        yield machines
    machines.shutdown()


@pytest.fixture
def run(machines, tmp_path):
    """`test --cluster` on those machines, with the lite network at a small size."""

    def run_test(path, *flags, results=tmp_path / "results"):
        fixed = ("--results", str(results), "--cluster", machines.address)
        return main.main(["test", "-p", str(path), *FIXED, *fixed, *flags])

    return run_test


def damaged_files(jpeg: bytes) -> dict[str, bytes]:
    """Kinds of files that are not complete images, by name."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 99, 199)).save(buffer, "PNG")
    png = buffer.getvalue()
    contents = {
        ".jpg": (b"", b"\xff", jpeg[:4], jpeg[:100], jpeg[: len(jpeg) // 3], jpeg[::-1], b"text", bytes(3000)),
        ".png": (b"", png[:8], png[:40], png[:-30], png[:29] + bytes([png[29] ^ 255]) + png[30:]),
        ".giant.png": (png[:16] + b"\x7f\xff\xff\xff" * 2 + png[24:],),  # by its header
        ".webp": (b"RIFF\x24\x00\x00\x00WEBPVP8 ",),
        ".bmp": (b"BM" + bytes(10),),
    }
    return {f"{i}{suffix}": each for suffix, every in contents.items() for i, each in enumerate(every)}


@pytest.mark.cluster
def test_unreachable_cluster_is_a_clear_error(tmp_path, capsys):
    folder = write_photographs(tmp_path / "in", 1)
    flags = ("--results", str(tmp_path / "results"), "--cluster", "127.0.0.1:9")
    assert main.main(["test", "-p", str(folder), *FIXED, *flags]) == 2
    assert "Cannot connect to a Ray cluster at 127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.cluster
def test_folder_with_damaged_files_and_a_killed_worker(tmp_path, run, monkeypatch, capsys, request):
    folder = write_photographs(tmp_path / "in", 40)
    for name, contents in damaged_files(small(1)).items():
        write(folder / "damaged" / name, contents)
    write(folder / "deadly_once.jpg", small(3))
    troubled(monkeypatch, marker=str(tmp_path / "marker"))
    assert run(folder, "--overlay") == 1
    printed = capsys.readouterr()
    expected = plain(folder, tmp_path / "plain", overlay=True)
    assert contents_of(tmp_path / "results") == expected
    assert_whole(tmp_path / "results")
    assert (tmp_path / "marker").exists()

    assert main.main(["test", "-p", str(folder), *FIXED, "--results", str(tmp_path / "plain"), "--overlay"]) == 1
    of_plain = capsys.readouterr()
    assert sorted(line for line in printed.err.splitlines() if line.startswith("error: ")) == sorted(
        line for line in of_plain.err.splitlines() if line.startswith("error: ")
    )
    last_lines = of_plain.out.replace(str(tmp_path / "plain"), str(tmp_path / "results")).splitlines()[-4:]
    assert printed.out.replace("summary.json", "test.json").splitlines()[-4:] == last_lines

    index = index_of(tmp_path / "results")
    assert set(index) == {str(file) for file in list_images(folder)}
    done = {path: row for path, row in index.items() if row["status"] == "done"}
    assert len(done) == len(expected) // 2
    for row in done.values():
        contents = expected[row["map"]]
        assert hashlib.sha256(contents).hexdigest() == row["sha256"] and row["overlay"] in expected
        assert tf.io.extract_jpeg_shape(contents).numpy().tolist() == [row["height"], row["width"], 1]
        assert row["seconds"] > 0 and row["host"] and not row["error"]
    summary = json.loads((tmp_path / "results" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["written"], summary["failed"]) == (len(done), len(index) - len(done))
    assert summary["variant"] == "lite" and len(summary["sha256"]) == 64 and summary["versions"]["ray"]

    # The same command repeats only failures; another network is rejected, except with --restart.
    before = modified(tmp_path / "results", expected)
    assert run(folder, "--overlay", "--workers", "1") == 1
    assert f"{len(done)} maps had been written before.\n0 maps written to" in capsys.readouterr().out
    assert modified(tmp_path / "results", expected) == before
    assert index_of(tmp_path / "results").keys() == index.keys()
    other = tmp_path / "other.npz"
    np.savez(other, **{name: array + np.float32(1e-3) for name, array in msinet.load("lite").arrays.items()})
    for flags, words in (
        (("--input-size", "56", "64"), "input_size [48, 64], now [56, 64]"),
        (("--precision", "bfloat16"), "precision float32, now bfloat16"),
        (("--weights", str(other)), "sha256"),
    ):
        assert run(folder, "--overlay", *flags) == 2
        assert words in capsys.readouterr().err
    assert contents_of(tmp_path / "results") == expected  # None of them changed a map.
    request.getfixturevalue("bfloat16")  # The rest of the test needs it.
    assert run(folder, "--overlay", "--precision", "bfloat16", "--restart") == 1
    # In bfloat16, some processors round differently with another number of threads; a worker here has one.
    command = [sys.executable, "main.py", "test", "-p", folder, *FIXED, "--overlay", "--precision", "bfloat16"]
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    subprocess.run([*command, "--results", tmp_path / "low"], cwd=ROOT, env=environment, check=False)
    assert contents_of(tmp_path / "results") == contents_of(tmp_path / "low") != expected
    assert index_of(tmp_path / "results").keys() == index.keys()


@pytest.mark.cluster
def test_workers_import_a_copy_of_the_modules_that_runs_the_command(machines):
    @ray.remote(num_cpus=1)
    def package():
        import msinet

        return msinet.__file__, [str(file) for file in Path(msinet.__file__).parent.rglob("*.*")]

    file, found = ray.get(package.remote())
    assert "py_modules" in file  # Although the environment of the tests provides `msinet`, too.
    root = Path(file).parent
    with copied_modules() as copy:
        expected = {file.relative_to(copy) for file in copy.rglob("*.*")}
    assert {Path(file).relative_to(root) for file in found if "__pycache__" not in file} == expected


@pytest.mark.cluster
def test_machine_lost_during_a_run_loses_no_map(tmp_path, run, machines, monkeypatch):
    folder = write_photographs(tmp_path / "in", 80)
    gate = tmp_path / "gate"
    troubled(monkeypatch, gate=str(gate))
    lost = sorted(machines.worker_nodes, key=lambda node: node.node_id)[0]

    def lose():
        wait_until(lambda: len(contents_of(tmp_path / "results")) >= 10)
        machines.remove_node(lost, allow_graceful=False)
        gate.touch()

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        assert run(folder, "--format", "npy") == 0
    finally:
        thread.join()
        add_machine(machines, 1)
    found, expected = contents_of(tmp_path / "results"), plain(folder, tmp_path / "plain", format="npy")
    assert found.keys() == expected.keys()
    for name, contents in expected.items():  # A worker has one thread, `test` has all, so the last bits may differ.
        assert_close(np.load(io.BytesIO(found[name])), np.load(io.BytesIO(contents)))
    assert len(index_of(tmp_path / "results")) == 80
    assert_whole(tmp_path / "results")


@pytest.mark.cluster
def test_command_repeated_after_a_kill_and_an_interrupt_predicts_only_missing_maps(tmp_path, run, machines, capsys):
    total = 120  # Enough for the signals to arrive mid-run.
    folder, results = write_photographs(tmp_path / "in", total), tmp_path / "results"
    flags = ("--input-size", "240", "320", "--format", "png")
    command = [sys.executable, "main.py", "test", "-p", str(folder), "--weights", "lite", "--results", str(results)]
    for end in (signal.SIGKILL, signal.SIGINT):
        before = len(list(results.glob("index/*.parquet")))
        ended = subprocess.Popen([*command, *flags, "--cluster", machines.address], cwd=Path(main.__file__).parent)
        wait_until(lambda: ended.poll() is not None or len(list(results.glob("index/*.parquet"))) >= before + 2)  # noqa: B023
        assert ended.poll() is None
        ended.send_signal(end)
        ended.wait()
        wait_until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])  # No worker is left.
    assert ended.returncode == 130
    assert_whole(results)
    done = {row["map"] for row in index_of(results).values()}
    assert 0 < len(done) < total
    before = modified(results, done)
    assert run(folder, *flags) == 0
    assert modified(results, done) == before
    printed = capsys.readouterr().out
    assert f"{len(done)} maps had been written before.\n{total - len(done)} maps written to" in printed
    assert len(index_of(results)) == total
    assert_whole(results)
    assert main.main([*command[2:7], "--results", str(tmp_path / "plain"), *flags]) == 0
    assert contents_of(results) == contents_of(tmp_path / "plain")


@pytest.mark.cluster
def test_photograph_that_kills_its_worker_fails_and_the_others_are_predicted(tmp_path, run, monkeypatch, capsys):
    folder = write_photographs(tmp_path / "in", 12)
    write(folder / "0_deadly.jpg", small(3))
    troubled(monkeypatch)
    monkeypatch.setattr(cluster, "ATTEMPTS", 2)
    assert run(folder) == 1
    printed = capsys.readouterr()
    assert f"error: {folder / '0_deadly.jpg'}: its worker died each of 2 times\n" in printed.err
    assert "12 maps written to" in printed.out and "1 image failed." in printed.out
    row = index_of(tmp_path / "results")[str(folder / "0_deadly.jpg")]
    assert row["status"] == "failed" and "its worker died" in row["error"] and not row["map"]
    (folder / "0_deadly.jpg").unlink()
    assert contents_of(tmp_path / "results") == plain(folder, tmp_path / "plain")


@pytest.mark.cluster
def test_object_store_that_fails_for_a_while(tmp_path, run, store, capsys):
    folder = write_photographs(tmp_path / "in", 16)
    bucket = cluster_store.Bucket("s3://bucket/photos")
    owner = pyarrow.fs.S3FileSystem(endpoint_override=store.url, allow_bucket_creation=True)
    owner.create_dir("bucket")
    for file in list_images(folder):
        bucket.write(file.relative_to(folder).as_posix(), file.read_bytes())
    bucket.write("damaged.jpg", b"not an image at all")
    bucket.write("denied.jpg", small(1))
    store.requests.clear()
    store.faults, store.denied = 1, "denied.jpg"
    try:
        assert run("s3://bucket/photos/", "--overlay", results="s3://bucket/maps/") == 1
    finally:
        puts = [path for method, path in store.requests if method == "PUT" and "/overlays/" in path]
        store.faults, store.denied = 0, ""
    printed = capsys.readouterr()
    assert "error: s3://bucket/photos/damaged.jpg: " in printed.err
    assert "error: s3://bucket/photos/denied.jpg: cannot be read from the store" in printed.err
    assert "16 maps written to s3://bucket/maps/images." in printed.out
    assert len(puts) == 2 * 16, "one PUT a file, and one that failed"
    maps = cluster_store.Bucket("s3://bucket/maps")
    for name, contents in plain(folder, tmp_path / "plain", overlay=True).items():
        assert maps.read(name) == contents

    # A list of some of them, into shards, read like docs/cluster.md shows.
    names = [file.relative_to(folder).as_posix() for file in list_images(folder)][:6]
    listed = io.BytesIO()
    pq.write_table(pa.table({"path": [*names, "missing.jpg"], "id": range(7)}), listed)
    bucket.write("some.parquet", listed.getvalue())
    assert run("s3://bucket/photos/some.parquet", "--workers", "1", "--format", "npy", "--shards", "--overlay") == 1
    printed = capsys.readouterr()
    assert "error: s3://bucket/photos/missing.jpg: no such file" in printed.err
    done = [("status", "=", "done")]
    table = pq.read_table(tmp_path / "results" / "index", columns=["map", "contents"], filters=done)
    network = msinet.load("lite", input_size=(48, 64))
    maps = {name: next(network.predictions([folder / name])).saliency for name in names}
    assert {row["map"]: row["contents"] for row in table.to_pylist()} == {
        f"images/{name}.npy": encode_map(saliency, ".npy") for name, saliency in maps.items()
    }
    rows = pq.read_table(tmp_path / "results" / "index", filters=done).to_pylist()
    assert {row["overlay"]: row["overlay_contents"] for row in rows} == {
        f"overlays/{name}.jpeg": encode_overlay(read_stimulus(folder / name).numpy(), saliency)
        for name, saliency in maps.items()
    }
    assert contents_of(tmp_path / "results") == {}


@pytest.mark.cluster
def test_bucket_without_permission_is_a_clear_error(tmp_path, store, capsys):
    store.denied = "/secret"
    try:
        assert main.main(["test", "-p", "s3://secret/photos", "--results", str(tmp_path / "r"), "--cluster"]) == 2
    finally:
        store.denied = ""
    error = capsys.readouterr().err
    assert error.startswith("error: s3://secret/photos cannot be read: ") and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.cluster
def test_float16_needs_a_gpu(tmp_path, run, capsys):
    assert run(write_photographs(tmp_path / "in", 1), "--precision", "float16") == 2
    assert "--precision float16 needs a GPU, but the cluster has none" in capsys.readouterr().err


@pytest.mark.cluster
def test_results_that_cannot_be_written_end_the_run(tmp_path, run, capsys):
    folder = write_photographs(tmp_path / "in", 3)
    write(tmp_path / "results" / "images", b"a file where the folder should be")
    assert run(folder, "--workers", "1") == 2
    printed = capsys.readouterr()
    assert "results cannot be written" in printed.err and "maps written" not in printed.out
    assert_whole(tmp_path / "results")
