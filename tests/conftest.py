"""Shared by the tests of several modules: seeded weights, tiny photographs, and tiny datasets."""

import functools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

# As the program does. Without it, the kernels of this process depend on whether xdist started it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_archives
from loopback import Loopback
from PIL import Image
from tiny_archives import zip_of

from msinet import progress
from msinet.acquisition import transfer
from msinet.acquisition.datasets import DATASETS

pytest_plugins = ["browser"]  # Fixtures of several files.

FIXTURES = Path(__file__).parent / "fixtures"

# The published numbers were computed with TensorFlow's plain kernels on a processor with AVX2. Rounding differs between
# kernels by several 1e-6 (the published numbers themselves are 1.3e-6 away from float64), so the bound of 1e-6 holds
# only for the same kernels.
PUBLISHED_KERNELS = {"TF_ENABLE_ONEDNN_OPTS": "0", "ONEDNN_MAX_CPU_ISA": "AVX2", "TF_NUM_INTRAOP_THREADS": "2"}

LOOPBACK = ("127.0.0.1", "::1", "localhost")

# Files that take long though they have few tests. The others fill the time of whichever process ends first.
LONGEST = ("test_train", "test_package", "test_devices", "test_custom")

# Shells start commands in the background with Ctrl-C ignored, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Start with the longest files; `--no-loadscope-reorder` keeps this order."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """In this process, names other than this machine's are unknown, as without a network.

    It does not hold for other programs that tests start: `npm ci` fetches packages from where npm is told to.
    """
    getaddrinfo = socket.getaddrinfo

    def resolve(host, *arguments, **options):
        if host not in LOOPBACK:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return getaddrinfo(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture(autouse=True)
def no_progress_lines(monkeypatch):
    """On a slow machine, lines about the progress would join the messages that tests read."""
    monkeypatch.setattr(progress, "LOG_SECONDS", 10_000)


@pytest.fixture(scope="session")
def fixture():
    """Load a file of frozen numbers by name."""
    return lambda name: np.load(FIXTURES / name)


@pytest.fixture(scope="session")
def channels_first():
    """Skip where TensorFlow has no channels-first kernels: on CPUs without oneDNN."""
    skip_unless_supported("channels-first", tf.zeros((1, 3, 8, 8)), "NCHW")


@pytest.fixture(scope="session")
def bfloat16():
    """Skip where TensorFlow has no bfloat16 kernels: when oneDNN is restricted to less than the CPU supports."""
    skip_unless_supported("bfloat16", tf.zeros((1, 8, 8, 3), tf.bfloat16), "NHWC")


def skip_unless_supported(name: str, images: tf.Tensor, data_format: str) -> None:
    kernel = tf.zeros((3, 3, 3, 8), images.dtype)
    try:
        tf.function(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME", data_format))(images)
    except tf.errors.OpError as error:
        pytest.skip(f"TensorFlow has no {name} convolution here: {error.message.splitlines()[0][:80]}")


@pytest.fixture
def eager(monkeypatch):
    """Train without graphs: tracing them takes longer than an epoch of a few photographs. `eager(False)` ends it."""

    def choose(eagerly=True):
        compile_ = functools.partialmethod(keras.Model.compile, run_eagerly=eagerly)
        monkeypatch.setattr(keras.Model, "compile", compile_)

    choose()
    return choose


@pytest.fixture
def photograph():
    """Make an image: `photograph(height, width, seed)` -> uint8 (height, width, 3), smooth enough for JPEG."""

    def make(height=48, width=64, seed=0):
        coarse = np.random.default_rng(seed).uniform(0, 255, (1, 6, 8, 3)).astype(np.float32)
        return np.array(tf.image.resize(coarse, (height, width))[0]).astype(np.uint8)

    return make


@pytest.fixture
def tiny_dataset(tmp_path, photograph):
    """Write a dataset of `count` photographs with maps: `tiny_dataset("custom", 4)` -> its folder."""

    def make(name="custom", count=4, height=48, width=64, names=None):
        folder = tmp_path / "data" / name
        for i, stem in enumerate(names or [f"{i:04d}" for i in range(count)]):
            image = photograph(height, width, seed=i)
            fixations = np.zeros((height, width, 1), np.uint8)
            fixations[height // 3 + i % 5, width // 3 + i % 7] = 255
            write(folder / "stimuli" / f"{stem}.png", tf.io.encode_png(image))
            write(folder / "saliency" / f"{stem}.png", tf.io.encode_png(image[..., :1]))
            write(folder / "fixations" / f"{stem}.png", tf.io.encode_png(fixations))
        return folder

    return make


@pytest.fixture
def results(tmp_path):
    """The folder that a command writes into."""
    return tmp_path / "results"


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "BACK_OFF_SECONDS", 0)
    server = Loopback()
    yield server
    server.close()


@pytest.fixture
def tiny(server, monkeypatch):
    """Serve a dataset's archives, made small, in place of the real ones: `tiny("osie")` -> the archives' bytes.

    Args of the function: name; `change`, a function of the list of {member: contents}.
    """

    def make(name, change=lambda members: None):
        row, members = DATASETS[name], tiny_archives.MAKERS[name]()
        change(members)
        files = [zip_of(m) if isinstance(m, dict) else m for m in members]
        rows = tuple(
            replace(archive, urls=(server.serve(f"/{archive.file}", file),), md5=None, member_md5={})
            for archive, file in zip(row.archives, files, strict=True)
        )
        train, valid = (2, 2) if name in ("salicon", "cat2000") else (3, 1)
        parts = {"train": train, "valid": valid, "categories": 2 if name == "cat2000" else 1}
        monkeypatch.setitem(DATASETS, name, replace(row, archives=rows, input_size=(48, 64), **parts))
        return files

    return make


@pytest.fixture
def change_archives(monkeypatch):
    """Change fields of a dataset's archives: `change_archives("osie", md5="0")` -> the archives."""

    def change(name, **fields):
        rows = tuple(replace(archive, **fields) for archive in DATASETS[name].archives)
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], archives=rows))
        return rows

    return change


@pytest.fixture(scope="session")
def narrow_arrays():
    """The weights of a network with an eighth of the filters, for `network.from_arrays`."""
    from msinet import checkpoint, model

    return checkpoint.arrays_of(model.build_model(width=0.125, seed=5))


@pytest.fixture(scope="session")
def narrow_weights(narrow_arrays, tmp_path_factory):
    """A file with them."""
    path = tmp_path_factory.mktemp("narrow") / "narrow.npz"
    np.savez(path, **narrow_arrays)
    return path


def exif(orientation: int) -> Image.Exif:
    """Metadata of a photograph that is turned to be shown; 6 turns it by 90 degrees to the right."""
    metadata = Image.Exif()
    metadata[0x0112] = orientation
    return metadata


def write(path: Path, contents) -> Path:
    """Write bytes, or a string tensor, to a file in a folder that may not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents if isinstance(contents, bytes) else contents.numpy())
    return path


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes with a header of that size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Check the promise about maps, 0 to 1, of one photograph with different numbers of threads or on other CPUs."""
    assert np.abs(found - expected).max() <= 1e-5
    levels = np.abs(np.round(255 * found) - np.round(255 * expected))
    assert levels.max() <= 1 and (levels == 0).mean() >= 0.999


def run_python(*arguments, **variables) -> str:
    """Run Python in a process of its own, with more environment variables; returns what it prints."""
    command = [sys.executable, *map(str, arguments)]
    finished = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def run_as_program(file: str, *arguments, **variables):
    """Run a test file as a program; returns what it prints last, from JSON."""
    return json.loads(run_python(file, *arguments, **variables).splitlines()[-1])


def run_with_published_kernels(file: str):
    """`run_as_program` in a process that uses those kernels."""
    return run_as_program(file, **PUBLISHED_KERNELS)


def seeded_arrays(network) -> dict[str, np.ndarray]:
    """The weights that the frozen numbers were computed with, by published name.

    Array i in the published order is drawn from `default_rng(1000 + i)`: normal, times 0.05 for a bias and
    sqrt(2 / inputs) for a kernel.
    """
    from msinet.layers import published_name

    stages = ("conv1", "conv2", "conv3", "conv4", "conv5", "aspp", "decoder")

    def published_order(variable):
        layer, kind = variable.path.split("/")
        return stages.index(layer.split("_")[0]), layer, kind == "bias"

    arrays = {}
    for i, variable in enumerate(sorted(network.weights, key=published_order)):
        layer, kind = variable.path.split("/")
        shape = tuple(variable.shape)
        scale = 0.05 if kind == "bias" else np.sqrt(2 / np.prod(shape[:3]))
        values = np.random.default_rng(1000 + i).standard_normal(shape) * scale
        arrays[f"{published_name(layer)}/{kind}"] = values.astype(np.float32)
    return arrays


def set_arrays(network, arrays) -> None:
    """Put arrays by published name into a Keras network without batch normalization."""
    from msinet.layers import keras_name

    for name, values in arrays.items():
        layer, kind = name.rsplit("/", 1)
        getattr(network.get_layer(keras_name(layer)), kind).assign(values)
