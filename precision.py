"""Half precision: which convolutions are cast, and whether this machine gains from it. See docs/performance.md."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from .layers import CHANNELS_LAST, LAST, POLICIES, Convolution, tensor_convolutions
from .utils import UserError, processor_instructions

# Convolutions whose names begin like this compute in float32 in every precision. bfloat16 has eight significant bits:
# the input of the first one, pixels minus their means, would be off by up to half a gray level; the output of the last
# one becomes the map; and EfficientNet's encoder ("stem/", "mbconv") would move maps by up to 20 gray levels.
EXACT = ("conv1/conv1_1", "stem/", "mbconv", LAST)


def half_convolutions(
    arrays: Mapping[str, np.ndarray], layout: str = CHANNELS_LAST, precision: str = "bfloat16"
) -> Convolution:
    """Convolutions that compute in half precision, except those in `EXACT`.

    Args:
        arrays, layout: see `layers.tensor_convolutions`.
        precision: "bfloat16" or "float16".

    Returns:
        A `conv` for `model.msi_net`.
    """
    dtype = tf.as_dtype(precision)
    rounded = {name: array.astype(dtype.as_numpy_dtype) for name, array in arrays.items()}
    half, exact = tensor_convolutions(rounded, layout), tensor_convolutions(arrays, layout)

    def conv(x, name, *args, **kwargs):
        if name.startswith(EXACT):
            return exact(tf.cast(x, tf.float32), name, *args, **kwargs)
        return half(tf.cast(x, dtype), name, *args, **kwargs)

    return conv


def check_precision(precision: str) -> str:
    """Check that this machine supports a precision.

    Args:
        precision: "float32", "bfloat16" or "float16".

    Returns:
        A warning if the precision is not faster here, else "".

    Raises:
        UserError: the precision is unknown, or it is float16 and there is no GPU (CPUs compute it slower than float32).
    """
    if precision not in POLICIES:
        raise UserError(f"Received the precision {precision!r}, expected one of {', '.join(POLICIES)}.")
    if precision == "float32" or tf.config.list_physical_devices("GPU"):
        return ""
    if precision == "float16":
        raise UserError(
            "--precision float16 was requested, but TensorFlow sees no GPU here, and CPUs compute it slower than "
            "float32: use --precision bfloat16 or float32."
        )
    if processor_has_bfloat16() is False:
        return "This processor has no bfloat16 instructions: --precision bfloat16 is not faster here."
    return ""


def processor_has_bfloat16() -> bool | None:
    """Whether the processor has bfloat16 instructions; None if that is unknown."""
    words = processor_instructions()
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"}) if words else None
