"""Prediction in half precision: what is rounded, what keeps the map from noticing, and what this machine makes of it.

bfloat16 keeps eight bits of a number, so that rounding moves it by up to 0.2 %. Two things keep most of that from the
map: errors of neighbouring weights cancel (`rounded`), and where activations vary little around their means, as they do
with random weights, only how far they are from them is rounded (`centred_convolutions`). See docs/performance.md.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from model import CHANNELS_LAST, DATA_FORMATS, LAST, POLICIES, Convolution, msi_net, tensor_convolutions
from utils import UserError

FIRST, SECOND = "conv1/conv1_1", "conv1/conv1_2"

# What computes in float32 in every precision: the first convolution, as bfloat16 would round its input, pixels minus
# their means, by up to half a gray level; and the last one, as what follows decides about single gray levels.
EXACT = (FIRST, LAST)

BFLOAT16: type = tf.bfloat16.as_numpy_dtype

# The unit of a channel is its mean on a typical image, but no less than this part of the mean of all channels: one that
# is silent there may be loud elsewhere.
LEAST_UNIT = 0.3

# The stages at an eighth of the resolution, by how their convolutions' names begin. See `centred_convolutions`.
EIGHTH = ("conv4", "conv5", "aspp")

# The convolutions of few filters over all pixels, and how many filters a processor computes at once. See `together`.
NARROW = ("decoder/conv3", LAST)
LANES = 16


def half_convolutions(
    arrays: Mapping[str, np.ndarray], layout: str = CHANNELS_LAST, precision: str = "bfloat16", context: str = "aspp"
) -> Convolution:
    """Convolutions that compute in half precision, all but those of `EXACT`.

    Args:
        arrays, layout: see `model.tensor_convolutions`.
        precision: "bfloat16" or "float16".
        context: see `model.msi_net`.

    Returns:
        `conv(x, name, filters, size=3, dilation=1, relu=True)`, for `model.msi_net`.
    """
    if precision == "bfloat16":
        means, mostly_constant = typical_activations(arrays, context)
        if mostly_constant:
            return centred_convolutions(equalised(arrays, means, context), layout)
    return plain_convolutions(rounded(arrays, tf.as_dtype(precision).as_numpy_dtype), layout)


def rounded(arrays: Mapping[str, np.ndarray], dtype: type, exact: Collection[str] = EXACT) -> dict[str, np.ndarray]:
    """The weights of all convolutions in lower precision, but those of `exact`.

    Args:
        arrays: float32, by published name.
        dtype: NumPy's type of the lower precision.
        exact: names of convolutions.
    """
    half = {}
    for name, array in arrays.items():
        convolution, _, kind = name.rpartition("/")
        if convolution in exact:
            half[name] = array
        elif kind == "kernel":
            half[name] = rounded_kernel(array, dtype)
        else:
            half[name] = array.astype(dtype)
    return half


def rounded_kernel(kernel: np.ndarray, dtype: type) -> np.ndarray:
    """A kernel in lower precision, where each weight takes over what rounding its neighbour before it left out.

    The errors of the weights for one input then add up to nearly nothing, and neighbouring pixels are mostly alike.
    This takes a third of the error that rounding each weight to its nearest number would make from the map.

    Args:
        kernel: float32, (height, width, in, out).
        dtype: NumPy's type of the lower precision.

    Returns:
        The same shape, of that type.
    """
    half: np.ndarray = np.empty(kernel.shape, dtype)
    left = np.zeros(kernel.shape[2:], np.float32)
    for pixel in np.ndindex(kernel.shape[:2]):
        left += kernel[pixel]
        half[pixel] = left
        left -= half[pixel].astype(np.float32)
    return half


def plain_convolutions(arrays: Mapping[str, np.ndarray], layout: str = CHANNELS_LAST) -> Convolution:
    """Convolutions over given arrays, each in the precision of its own; see `rounded`.

    Args:
        arrays, layout: see `model.tensor_convolutions`.

    Returns:
        `conv(x, name, filters, size=3, dilation=1, relu=True)`, for `model.msi_net`.
    """

    def conv(x, name, filters, size=3, dilation=1, relu=True):
        kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
        return convolve(x, kernel, bias, name, layout, dilation, relu=relu)

    return conv


def convolve(
    x: tf.Tensor,
    kernel: np.ndarray,
    bias: np.ndarray,
    name: str,
    layout: str,
    dilation: int,
    padding: str = "SAME",
    relu: bool = False,
) -> tf.Tensor:
    """One convolution in the precision of its kernel: of some pixels of a row at once, where `together` says so.

    Args:
        x: activations, of any precision.
        kernel: (height, width, in, out).
        bias: (out,), rounded to the kernel's precision.
        name: of the convolution.
        layout: see `model.encoder`.
        dilation, padding: see `tf.nn.conv2d`.
        relu: whether a ReLU follows; TensorFlow computes it together with the convolution.
    """
    pixels = together(name, kernel.shape[3]) if layout == CHANNELS_LAST else 1
    wide = tf.constant(wide_kernel(kernel, pixels), name=f"{name}/kernel")
    biases = tf.constant(np.tile(bias, pixels), wide.dtype, name=f"{name}/bias")
    y = tf.nn.conv2d(tf.cast(x, wide.dtype), wide, (1, pixels), padding, DATA_FORMATS[layout], dilation)
    y = tf.nn.bias_add(y, biases, DATA_FORMATS[layout])
    y = tf.nn.relu(y) if relu else y
    if pixels == 1:
        return y
    batch, height, width, _ = tf.unstack(tf.shape(y))
    return tf.reshape(y, (batch, height, width * pixels, kernel.shape[3]))


def together(name: str, filters: int) -> int:
    """How many neighbouring pixels of a row to convolve at once, as if they were filters.

    A processor computes `LANES` filters in the time of one. The maps are as wide as the image where it is done, which
    is a multiple of 8.
    """
    pixels = 1
    while name in NARROW and pixels < 8 and 2 * pixels * filters <= LANES:
        pixels *= 2
    return pixels


def wide_kernel(kernel: np.ndarray, pixels: int) -> np.ndarray:
    """The kernel of some neighbouring pixels of a row at once: (height, width + pixels - 1, in, pixels * out)."""
    height, width, inputs, filters = kernel.shape
    wide = np.zeros((height, width + pixels - 1, inputs, pixels, filters), kernel.dtype)
    for pixel in range(pixels):
        wide[:, pixel : pixel + width, :, pixel] = kernel
    return wide.reshape(height, width + pixels - 1, inputs, pixels * filters)


# --- Activations around their means -----------------------------------------------------------------------------------


def typical_activations(arrays: Mapping[str, np.ndarray], context: str = "aspp") -> tuple[dict[str, np.ndarray], bool]:
    """What a network's activations are on an image of coarse random colours.

    Args:
        arrays, context: see `half_convolutions`.

    Returns:
        By the name of the hidden convolution, the mean of each of its channels, float32 (out,); and whether most
        convolutions' activations vary less than their means are large, so that rounding them as they are loses much of
        what they say.
    """
    means, constant = {}, []
    exact = tensor_convolutions(arrays)

    def conv(x, name, filters, size=3, dilation=1, relu=True):
        x = exact(x, name, filters, size, dilation, relu)
        if relu:
            mean, variance = tf.nn.moments(x, (0, 1, 2))
            means[name] = mean.numpy()
            constant.append(np.sum(mean**2) > np.sum(variance))
        return x

    colours = np.random.default_rng(0).uniform(0, 255, (1, 15, 20, 3))
    image = tf.clip_by_value(tf.image.resize(colours, (240, 320), tf.image.ResizeMethod.BICUBIC), 0, 255)
    msi_net(image, conv, context=context)
    return means, bool(np.mean(constant) > 0.5)


def equalised(
    arrays: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray], context: str = "aspp"
) -> dict[str, np.ndarray]:
    """The weights of the same network with other units inside: an activation of 1 is its channel's typical mean.

    A ReLU lets a factor pass, so what divides a convolution's output may multiply the next one's input.

    Args:
        arrays, context: see `half_convolutions`.
        means: see `typical_activations`.

    Returns:
        float32, by published name.
    """
    equal = {}

    def conv(x, name, filters, size=3, dilation=1, relu=True):
        # `x` holds the units of the input's channels at every pixel, which pooling, concatenating and doubling keep.
        units = np.ones(3, np.float32) if name == FIRST else x[0, 0, 0].numpy()
        kernel, bias = arrays[f"{name}/kernel"] * units[:, None], arrays[f"{name}/bias"]
        unit = np.ones_like(bias)
        if relu:
            unit = np.maximum(means[name], LEAST_UNIT * means[name].mean())
            unit[unit == 0] = 1
            if name != FIRST:
                # Nearby, so that the bias of `centred_convolutions`, what an input of ones brings minus one, is a
                # number that bfloat16 has.
                ones = bias + _ones(kernel, name).sum((0, 1, 2))
                target = 1 + (ones / unit - 1).astype(BFLOAT16).astype(np.float32)
                np.divide(ones, target, out=unit, where=ones * target > 0)
        equal[f"{name}/kernel"] = kernel / unit
        equal[f"{name}/bias"] = bias / unit
        return tf.broadcast_to(unit, (*x.shape[:3], len(unit)))

    msi_net(tf.zeros((1, 8, 8, 3)), conv, context=context)
    return equal


def centred_convolutions(
    arrays: Mapping[str, np.ndarray],
    layout: str = CHANNELS_LAST,
    dtype: type = BFLOAT16,
    exact: Collection[str] = EXACT,
) -> Convolution:
    """Convolutions whose activations are less by one than those of `arrays`: typical ones are zero, and round to it.

    What the ones would have brought the next convolution is in its bias, and minus ones are around its input. The
    image and what the first convolution makes of it stay as they are: on so many pixels it would take longer.

    Args:
        arrays: see `equalised`.
        layout: see `model.tensor_convolutions`.
        dtype: NumPy's type of the activations, and of what computes them.
        exact: names of the convolutions that compute in float32.

    Returns:
        `conv(x, name, filters, size=3, dilation=1, relu=True)`, for `model.msi_net`.
    """
    data_format = DATA_FORMATS[layout]
    half = rounded(arrays, dtype, exact)

    def conv(x, name, filters, size=3, dilation=1, relu=True):
        kernel = half[f"{name}/kernel"]
        if name == FIRST:
            return tf.cast(convolve(x, kernel, arrays[f"{name}/bias"], name, layout, dilation, relu=True), dtype)
        ones = _ones(arrays[f"{name}/kernel"], name)
        bias = arrays[f"{name}/bias"] + ones.sum((0, 1, 2)) - np.float32(relu)
        reach = dilation * (len(ones) // 2)
        around = [(reach, reach) if axis in "HW" else (0, 0) for axis in data_format]
        if name == SECOND or not reach:
            y = convolve(x, kernel, bias, name, layout, dilation)
        elif name.startswith(EIGHTH):
            # With zeros around its input, less what ones would have brought there. On small maps this is faster than to
            # pad them, and far-reaching kernels skip zeros.
            inside = tf.zeros_like(x[:1, ..., :1] if layout == CHANNELS_LAST else x[:1, :1], kernel.dtype)
            outside = tf.pad(inside, around, constant_values=tf.constant(1, inside.dtype))
            missing = tf.nn.conv2d(outside, rounded_kernel(ones, kernel.dtype), 1, "VALID", data_format, dilation)
            y = convolve(x, kernel, bias, name, layout, dilation) - missing
        else:
            padded = tf.pad(x, around, constant_values=tf.constant(-1, x.dtype))
            y = convolve(padded, kernel, bias, name, layout, dilation, "VALID")
        return tf.maximum(tf.cast(y, dtype), tf.constant(-1, dtype)) if relu else y

    return conv


def _ones(kernel: np.ndarray, name: str) -> np.ndarray:
    """What an input of ones adds, by the kernel's pixel, (height, width, 1, out); zeros where it is not centred."""
    return kernel.sum(2, keepdims=True) * np.float32(name != SECOND)


# --- This machine -----------------------------------------------------------------------------------------------------


def check_precision(precision: str) -> str:
    """A sentence where a precision will not make this machine any faster, else nothing.

    Args:
        precision: "float32", "bfloat16" or "float16".

    Raises:
        UserError: float16 without a GPU; processors compute it slower than float32. Or none of the three.
    """
    if precision not in POLICIES:
        raise UserError(f"Received the precision {precision!r}, expected one of {', '.join(POLICIES)}.")
    if precision == "float32" or tf.config.list_physical_devices("GPU"):
        return ""
    if precision == "float16":
        raise UserError(
            "--precision float16 was asked for, but TensorFlow sees no GPU here, and processors compute it slower than "
            "float32: use --precision bfloat16, or leave it out."
        )
    if processor_has_bfloat16() is False:
        return "This processor has no bfloat16 instructions: --precision bfloat16 will not be faster here."
    return ""


def processor_has_bfloat16() -> bool | None:
    """Whether the processor computes with bfloat16 itself; None where it does not say."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return None
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
