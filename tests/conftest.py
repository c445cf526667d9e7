"""What several rooms' tests share: seeded weights, tiny photographs, and tiny datasets."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

FIXTURES = Path(__file__).parent / "fixtures"

# What the published numbers were computed with: TensorFlow's plain kernels on a processor with AVX2. Rounding differs
# between kernels by several 1e-6 (the published numbers themselves are 1.3e-6 away from float64), so the bound of 1e-6
# holds only for the same kernels.
PUBLISHED_KERNELS = {"TF_ENABLE_ONEDNN_OPTS": "0", "ONEDNN_MAX_CPU_ISA": "AVX2", "TF_NUM_INTRAOP_THREADS": "2"}


LOOPBACK = ("127.0.0.1", "::1", "localhost")


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


@pytest.fixture(scope="session")
def fixture():
    """Load a file of frozen numbers by name."""
    return lambda name: np.load(FIXTURES / name)


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


def write(path: Path, contents) -> Path:
    """Write bytes, or a string tensor, to a file in a folder that may not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents if isinstance(contents, bytes) else contents.numpy())
    return path


def run_with_published_kernels(file: str):
    """Run a test file as a program in a process that uses those kernels; returns what it prints last, from JSON."""
    environment = {"PYTHONPATH": str(Path(file).parents[1]), "TF_CPP_MIN_LOG_LEVEL": "3", **PUBLISHED_KERNELS}
    finished = subprocess.run(
        [sys.executable, file], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def seeded_arrays(network) -> dict[str, np.ndarray]:
    """The weights that the frozen numbers were computed with, by published name.

    Array i in the published order is drawn from `default_rng(1000 + i)`: normal, times 0.05 for a bias and
    sqrt(2 / inputs) for a kernel.
    """
    from model import published_name

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
    """Put arrays by published name into a Keras network without batch normalisation."""
    from model import keras_name

    for name, values in arrays.items():
        layer, kind = name.rsplit("/", 1)
        getattr(network.get_layer(keras_name(layer)), kind).assign(values)
