"""Shared by the tests of `test --cluster`: photographs, results, and a store that fails for a while."""

import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import write
from PIL import Image

import msinet
from msinet.phases import test
from msinet.photographs import Options, find_images, name_all

# Ray reads them when it is imported.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0123456789abcdef" * 4, RAY_USAGE_STATS_ENABLED="0")
pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
pytest.importorskip("moto", reason="moto, a store for the tests, is not installed: pip install 'moto[server]>=5'")

import pyarrow.parquet as pq
import ray

from msinet.phases.distributed import index as cluster_index
from msinet.phases.distributed import store as cluster_store
from msinet.phases.distributed.worker import Worker

STORE_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def wait_until(condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def small(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).uniform(0, 255, (5, 7, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((56 + seed % 5, 40 + seed % 3)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_photographs(folder: Path, number: int) -> Path:
    for i in range(number):
        write(folder / ("", "sub", "sub/deeper", "Sub")[i % 4] / f"{i:03d}.jpg", small(i))
    return folder


def options_for(results: Path, **values) -> Options:
    return Options(
        params={"results": str(results), "batch_size": 1, "device": "cpu", "orientation": "upright"}, **values
    )


def plain(path: Path, results: Path, **values) -> dict[str, bytes]:
    """The files that `test` writes without a cluster, by name."""
    network = msinet.load("lite", input_size=(48, 64))
    options = options_for(results, **values)
    test.test(network, name_all(find_images([path]).images, options.suffix), options)
    return contents_of(results)


def contents_of(results: Path) -> dict[str, bytes]:
    files = [file for name in ("images", "overlays") for file in (results / name).rglob("*") if file.is_file()]
    return {file.relative_to(results).as_posix(): file.read_bytes() for file in files}


def index_of(results: Path) -> dict[str, dict]:
    """The index by path; each path occurs once."""
    rows = pq.read_table(results / "index").to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows)
    return by_path


def check_index(worker, *, recent: bool = False) -> dict:
    """What the index has to say: see `index._check`."""
    parts = {"item": list(worker.results.entries("index")[1])}
    return cluster_index._check(parts, worker.results, worker.options.shards, recent=recent)


def known_paths(worker, paths: list[str]) -> list[bool]:
    """Which photographs a repeated command would skip."""
    found = check_index(worker)["id"]
    return cluster_index.contains(np.sort(np.array(found, cluster_index.ID)), paths).tolist()


def modified(results: Path, names) -> dict[str, int]:
    """When files were last written, by name."""
    return {name: (results / name).stat().st_mtime_ns for name in names}


def assert_whole(results: Path) -> None:
    """No temporary file is left anywhere."""
    assert [str(file) for file in results.rglob(".*")] == []


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A worker in this process, whose results are in `tmp_path / "results"`."""
    monkeypatch.setattr(ray, "get", lambda value: value)
    for setting in ("intra", "inter"):
        monkeypatch.setattr(tf.config.threading, f"set_{setting}_op_parallelism_threads", lambda number: None)
    network, results = msinet.load("lite", input_size=(48, 64)), tmp_path / "results"
    return Worker(network, cluster_store.open_store(str(results)), options_for(results, format="png"), 1)


@pytest.fixture(scope="module")
def store():
    """A loopback S3 server. It answers the first `faults` requests for each key with an error, and rejects `denied`."""
    from moto import server

    state = SimpleNamespace(requests=[], faults=0, denied="")
    application = server.DomainDispatcherApplication.__call__

    def misbehaving(dispatcher, environment, start_response):
        request = (environment["REQUEST_METHOD"], environment["PATH_INFO"])
        state.requests.append(request)
        if state.denied and state.denied in request[1]:
            start_response("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        if state.requests.count(request) <= state.faults:
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        return application(dispatcher, environment, start_response)

    before, loopback = dict(os.environ), server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.DomainDispatcherApplication, "__call__", misbehaving)
        loopback.start()
        state.url = "http://{}:{}".format(*loopback.get_host_and_port())
        os.environ.update(STORE_ENVIRONMENT, AWS_ENDPOINT_URL=state.url)
        cluster_store._filesystem.cache_clear()
        yield state
        loopback.stop()
    cluster_store._filesystem.cache_clear()
    os.environ.clear()
    os.environ.update(before)
