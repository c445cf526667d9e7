"""The lite and the medium network: an EfficientNet-Lite encoder, and a decoder that joins features of four depths.

EfficientNet: Tan and Le, ICML 2019. "Lite" leaves out squeeze-and-excitation and uses ReLU6.
"""

from dataclasses import dataclass

import keras
import tensorflow as tf

from .layers import Convolution, ResizeLike, concatenate, spatial_axes


@dataclass(frozen=True)
class Size:
    """One size of the network.

    Attributes:
        stages: of the encoder: blocks, their kernel size, first stride, factor on a block's filters, output filters.
        decoder: filters of the decoder's three steps.
        both_sides: whether the network averages its scores of a photograph and of the mirror image, in twice the time.
    """

    stages: tuple[tuple[int, int, int, int, int], ...]
    decoder: tuple[int, int, int]
    both_sides: bool

    @property
    def blocks(self) -> int:
        return sum(stage[0] for stage in self.stages)


# By the encoder's name, which is the network's among the contexts of `model.msi_net`; the largest first.
SIZES = {
    "efficientnet-lite2": Size(
        (
            (1, 3, 1, 1, 16),
            (3, 3, 2, 6, 24),
            (3, 5, 2, 6, 48),
            (4, 3, 2, 6, 88),
            (4, 5, 1, 6, 120),
            (5, 5, 2, 6, 208),
            (1, 3, 1, 6, 352),
        ),
        decoder=(256, 128, 64),
        both_sides=True,
    ),
    "efficientnet-lite0": Size(
        (
            (1, 3, 1, 1, 16),
            (2, 3, 2, 6, 24),
            (2, 5, 2, 6, 40),
            (3, 3, 2, 6, 80),
            (3, 5, 1, 6, 112),
            (4, 5, 2, 6, 192),
            (1, 3, 1, 6, 320),
        ),
        decoder=(128, 64, 32),
        both_sides=False,
    ),
}

# The stages that end at 1/4, 1/8, 1/16 and 1/32 of the resolution. Sides that are not divisible are rounded up.
JOINED = (1, 2, 4, 6)


def encoder(x: tf.Tensor, conv: Convolution, size: Size) -> list[tf.Tensor]:
    """EfficientNet-Lite without its classifier, with batch normalization folded into the kernels.

    Args:
        x: images from -1 to 1, float32, (B, H, W, 3) or (B, 3, H, W).
        conv: see `layers.keras_convolutions`.
        size: one of `SIZES`.

    Returns:
        Features at 1/4, 1/8, 1/16 and 1/32 of the resolution, with the output filters of the stages `JOINED`.
    """
    filters, number, features = 32, 0, []
    x = keras.ops.relu6(conv(x, "stem/conv", filters, stride=2, relu=False))
    for blocks, side, first_stride, factor, outputs in size.stages:
        for stride in (first_stride, *[1] * (blocks - 1)):
            number, before = number + 1, x
            if factor > 1:
                x = keras.ops.relu6(conv(x, f"mbconv{number}/expand", factor * filters, size=1, relu=False))
            name = f"mbconv{number}/depthwise"
            x = conv(x, name, factor * filters, size=side, stride=stride, depthwise=True, relu=False)
            x = conv(keras.ops.relu6(x), f"mbconv{number}/project", outputs, size=1, relu=False)
            if stride == 1 and filters == outputs:
                x = x + before
            filters = outputs
        features.append(x)
    return [features[stage] for stage in JOINED]


def decoder(
    features: list[tf.Tensor], images: tf.Tensor, conv: Convolution, layout: str, filters: tuple[int, int, int]
) -> tf.Tensor:
    """From the deepest features up: enlarge, concatenate with the next features, and convolve twice.

    Args:
        features: from `encoder`.
        images: whose height and width the map gets.
        conv, layout: see `model.encoder`.
        filters: of the three steps.

    Returns:
        Unbounded saliency scores, (B, H, W, 1) or channels first.
    """

    def join(x, finer, name, filters):
        x = concatenate([ResizeLike(layout, dtype="float32")([x, finer]), finer], layout)
        return conv(conv(x, f"{name}_1", filters), f"{name}_2", filters)

    quarter, eighth, sixteenth, x = features
    mean = keras.ops.mean(x, axis=spatial_axes(layout), keepdims=True)
    x = join(x, sixteenth, "decoder/conv1", filters[0])
    x = x + conv(mean, "decoder/conv1_3", filters[0], size=1, relu=False)
    x = join(x, eighth, "decoder/conv2", filters[1])
    x = join(x, quarter, "decoder/conv3", filters[2])
    x = conv(x, "decoder/conv4", 1, relu=False)
    return ResizeLike(layout, dtype="float32")([x, images])


def normalized(images: tf.Tensor) -> tf.Tensor:
    """Images from 0 to 255 as EfficientNet-Lite expects them."""
    return (images - 127.0) / 128.0


def with_mirrored(images: tf.Tensor) -> tf.Tensor:
    """Images, (B, H, W, 3), followed by their mirror images: (2B, H, W, 3)."""
    return keras.ops.concatenate([images, keras.ops.flip(images, axis=2)], axis=0)


def joined(scores: tf.Tensor) -> tf.Tensor:
    """The mean of the scores of images and, mirrored back, of their mirror images: (2B, H, W, 1) to (B, H, W, 1)."""
    own, mirrored = keras.ops.split(scores, 2, axis=0)
    return (own + keras.ops.flip(mirrored, axis=2)) / 2.0
