"""MSI-Net as functions of tensors: encoder -> ASPP -> decoder -> normalize (paper, section 3.1).

Every stage takes a function `conv` that creates its convolutions; see `layers`.
"""

import keras
import tensorflow as tf

from . import efficientnet
from .layers import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Convolution,
    LegacyUpsampling,
    concatenate,
    keras_convolutions,
    spatial_axes,
)
from .utils import UserError, quiet_stderr

# Subtracted from R, G, B in this order. VGG16 used them for B, G, R, but the published weights were trained with
# the order below and expect it (pinned by test_model.py::test_forward_equals_the_published_network).
CHANNEL_MEANS = (103.939, 116.779, 123.68)


def encoder(x: tf.Tensor, conv: Convolution, layout: str) -> tf.Tensor:
    """VGG16 without its last two strides: features of three depths at 1/8 of the resolution.

    Args:
        x: images minus `CHANNEL_MEANS`, float32, (B, H, W, 3) or (B, 3, H, W) as `layout` says.
        conv: see `layers.keras_convolutions`.
        layout: "channels_last" or "channels_first".

    Returns:
        Concatenated outputs of the third, fourth and fifth block, (B, H/8, W/8, 1280 * width) or channels first.
    """

    def pool(x, strides):
        # In the dtype of its input.
        dtype = keras.backend.standardize_dtype(x.dtype)
        return keras.layers.MaxPooling2D(2, strides, padding="same", data_format=layout, dtype=dtype)(x)

    x = conv(x, "conv1/conv1_1", 64)
    x = conv(x, "conv1/conv1_2", 64)
    x = pool(x, 2)  # (B, H/2, W/2, 64)
    x = conv(x, "conv2/conv2_1", 128)
    x = conv(x, "conv2/conv2_2", 128)
    x = pool(x, 2)  # (B, H/4, W/4, 128)
    x = conv(x, "conv3/conv3_1", 256)
    x = conv(x, "conv3/conv3_2", 256)
    x = conv(x, "conv3/conv3_3", 256)
    block3 = pool(x, 2)  # (B, H/8, W/8, 256)
    x = conv(block3, "conv4/conv4_1", 512)
    x = conv(x, "conv4/conv4_2", 512)
    x = conv(x, "conv4/conv4_3", 512)
    block4 = pool(x, 1)  # (B, H/8, W/8, 512)
    x = conv(block4, "conv5/conv5_1", 512, dilation=2)
    x = conv(x, "conv5/conv5_2", 512, dilation=2)
    x = conv(x, "conv5/conv5_3", 512, dilation=2)
    block5 = pool(x, 1)  # (B, H/8, W/8, 512)
    return concatenate([block3, block4, block5], layout)  # (B, H/8, W/8, 1280)


def aspp(x: tf.Tensor, conv: Convolution, layout: str) -> tf.Tensor:
    """Atrous spatial pyramid pooling: context at several scales and of the whole image.

    Args:
        x: the encoder's features, (B, H/8, W/8, 1280 * width) or channels first.
        conv, layout: as in `encoder`.

    Returns:
        (B, H/8, W/8, 256 * width) or channels first.
    """
    branches = [
        conv(x, "aspp/conv1_1", 256, size=1),
        conv(x, "aspp/conv1_2", 256, dilation=4),
        conv(x, "aspp/conv1_3", 256, dilation=8),
        conv(x, "aspp/conv1_4", 256, dilation=12),
    ]
    mean = keras.ops.mean(x, axis=spatial_axes(layout), keepdims=True)  # (B, 1, 1, 1280)
    mean = conv(mean, "aspp/conv1_5", 256, size=1)  # (B, 1, 1, 256)
    branches.append(mean + keras.ops.zeros_like(branches[0]))  # (B, H/8, W/8, 256)
    return conv(concatenate(branches, layout), "aspp/conv2", 256, size=1)


def plain_context(x: tf.Tensor, conv: Convolution, layout: str) -> tf.Tensor:
    """The paper's ablation of `aspp`: one ordinary convolution replaces the five branches. Same shapes."""
    del layout  # Unused; the signature is that of `aspp`.
    x = conv(x, "aspp/conv1", 1280)
    return conv(x, "aspp/conv2", 256, size=1)


def decoder(x: tf.Tensor, conv: Convolution, layout: str) -> tf.Tensor:
    """Three times: double the resolution, then convolve. Then one linear convolution to a single map.

    Args:
        x: context features, (B, H/8, W/8, 256 * width) or channels first.
        conv, layout: as in `encoder`.

    Returns:
        Unbounded saliency scores, (B, H, W, 1) or channels first.
    """
    for name, filters in (("decoder/conv1", 128), ("decoder/conv2", 64), ("decoder/conv3", 32)):
        x = LegacyUpsampling(layout, dtype="float32")(x)  # (B, H/4, ...), (B, H/2, ...), (B, H, ...)
        x = conv(x, name, filters)
    return conv(x, "decoder/conv4", 1, relu=False)


def normalize(x: tf.Tensor) -> tf.Tensor:
    """Scale each map of a batch to [0, 1]: minus its minimum, then divided by 1e-7 + its maximum."""
    x = x - keras.ops.min(x, axis=(1, 2, 3), keepdims=True)
    return x / (1e-7 + keras.ops.max(x, axis=(1, 2, 3), keepdims=True))


CONTEXTS = {"aspp": aspp, "plain": plain_context}


def msi_net(images: tf.Tensor, conv: Convolution, layout: str = CHANNELS_LAST, context: str = "aspp") -> tf.Tensor:
    """The whole network.

    Args:
        images: RGB, float32, (B, H, W, 3), 0 to 255; H and W divisible by 8. Channels are last in both layouts.
        conv: see `layers.keras_convolutions` and `layers.tensor_convolutions`.
        layout: memory layout of the convolutions; "channels_first" suits GPUs.
        context: "aspp"; "plain" for the paper's ablation; or a key of `efficientnet.SIZES` for another network.

    Returns:
        Saliency maps, float32, (B, H, W, 1), each from 0 to 1.
    """
    size = efficientnet.SIZES.get(context)
    if size:
        x = efficientnet.normalized(efficientnet.with_mirrored(images) if size.both_sides else images)
    else:
        x = images - keras.ops.convert_to_tensor(CHANNEL_MEANS, dtype="float32")
    if layout == CHANNELS_FIRST:
        x = keras.ops.transpose(x, (0, 3, 1, 2))
    if size:
        x = efficientnet.decoder(efficientnet.encoder(x, conv, size), x, conv, layout, size.decoder)
    else:
        x = encoder(x, conv, layout)
        x = CONTEXTS[context](x, conv, layout)
        x = decoder(x, conv, layout)
    if layout == CHANNELS_FIRST:
        x = keras.ops.transpose(x, (0, 2, 3, 1))
    if size and size.both_sides:
        x = efficientnet.joined(x)
    return normalize(x)


def build_model(
    layout: str = CHANNELS_LAST,
    context: str = "aspp",
    width: float = 1.0,
    batch_norm: bool = False,
    seed: int | None = None,
    precision: str = "float32",
) -> keras.Model:
    """The trainable network, for images of any size divisible by 8.

    Args:
        layout, context: as in `msi_net`.
        width: factor on every filter count but the last; counts are rounded to multiples of 8.
        batch_norm: normalize each hidden convolution's output over the batch while training. Fold it into the
            kernels for inference (`checkpoint.fold_batch_norm`).
        seed: of the He-initialized kernels.
        precision: a key of `layers.POLICIES`; compute dtype of all convolutions except the last. Variables are float32.

    Returns:
        A Keras model from (B, H, W, 3) float32 RGB, 0 to 255, to (B, H, W, 1) float32, 0 to 1.
    """
    images = keras.Input((None, None, 3), name="input")
    conv = keras_convolutions(layout, width, batch_norm, seed, precision)
    maps = msi_net(images, conv, layout, context)
    return keras.Model(images, maps, name="msinet")


def choose_layout(device: str) -> str:
    """The layout for a device.

    Args:
        device: "cpu", "gpu", or "auto" for a GPU if TensorFlow sees one.

    Raises:
        UserError: "gpu" was requested and TensorFlow sees none.
    """
    found = _sees_gpu()
    if device == "gpu" and not found:
        raise UserError(
            "--device gpu was requested, but TensorFlow sees no GPU here: install its CUDA build with "
            "'pip install tensorflow[and-cuda]', or use --device cpu."
        )
    return CHANNELS_LAST if device == "cpu" or not found else CHANNELS_FIRST


def describe_device(layout: str, gpus: int = 1) -> str:
    """The device that a layout is for, in words.

    Args:
        layout: from `choose_layout`.
        gpus: how many GPUs share the work.
    """
    if layout == CHANNELS_FIRST:
        return "gpu (channels-first)" + (f", {gpus} of them" if gpus > 1 else "")
    return "cpu (channels-last)" + ("" if _sees_gpu() else ", TensorFlow sees no GPU")


def _sees_gpu() -> bool:
    with quiet_stderr():  # The CUDA library complains when there is no GPU, which is not an error here.
        return bool(tf.config.list_physical_devices("GPU"))


def find_gpus(gpus: int) -> list[str]:
    """Names of GPUs that TensorFlow sees; empty if there are none.

    Args:
        gpus: how many, or 0 for all.

    Raises:
        UserError: there are fewer.
    """
    found = [device.name for device in tf.config.list_logical_devices("GPU")]
    if gpus > len(found):
        raise UserError(
            f"--gpus {gpus} was requested, but TensorFlow sees {len(found)} here: install its CUDA build with 'pip "
            f"install tensorflow[and-cuda]', or omit --gpus."
        )
    return found[: gpus or None]
