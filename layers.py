"""The parts that networks are made of: convolutions, trainable or constant, and resizing.

A network takes a function `conv` that creates its convolutions, so the same code describes the trainable Keras network
(`keras_convolutions`) and the plain inference graph with constant weights (`tensor_convolutions`).
"""

import functools
import os
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from .utils import onednn_enabled, processor_instructions

CHANNELS_LAST, CHANNELS_FIRST = "channels_last", "channels_first"

# TensorFlow's name for each layout.
DATA_FORMATS = {CHANNELS_LAST: "NHWC", CHANNELS_FIRST: "NCHW"}

# Added to the variance in batch normalization; `checkpoint.fold_batch_norm` uses it too.
NORM_EPSILON = 1e-3

# Of the running statistics. With 0.9 they follow the last ten batches, whose sizes vary, and the validation loss jumps.
NORM_MOMENTUM = 0.97

# Keras' name for each precision in training: float32 variables, cast to a lower precision for each computation.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}

# The last convolution computes in float32 in every precision, because its output is scaled to gray levels.
LAST = "decoder/conv4"

# Weights of the largest kernel whose gradient matrix products compute faster; see `products_are_faster`.
PRODUCTS_UP_TO = 9 * 256 * 256

Convolution = Callable[..., tf.Tensor]


def keras_convolutions(
    layout: str, width: float, batch_norm: bool, seed: int | None, precision: str = "float32"
) -> Convolution:
    """Convolutions as Keras layers with trainable variables, named as in the published network.

    Returns:
        `conv(x, name, filters, size=3, dilation=1, relu=True, stride=1, depthwise=False)`: a "same" convolution with
        a bias, optional batch normalization and an optional ReLU. A depthwise one has as many filters as inputs.
    """
    seeds = np.random.SeedSequence(seed)

    def conv(x, name, filters, size=3, dilation=1, relu=True, stride=1, depthwise=False):
        policy = POLICIES["float32" if name == LAST else precision]
        initializer = keras.initializers.HeNormal(int(seeds.spawn(1)[0].generate_state(1)[0]))
        common = {"padding": "same", "data_format": layout, "dtype": policy, "name": keras_name(name)}
        if depthwise:
            x = keras.layers.DepthwiseConv2D(size, stride, depthwise_initializer=initializer, **common)(x)
        else:
            filters = scaled_filters(filters, width)
            x = DilatedConv2D(filters, size, stride, dilation_rate=dilation, kernel_initializer=initializer, **common)(
                x
            )
        if batch_norm and relu:
            axis = 1 if layout == CHANNELS_FIRST else -1
            x = keras.layers.BatchNormalization(
                axis,
                momentum=NORM_MOMENTUM,
                epsilon=NORM_EPSILON,
                # Over the whole batch when several devices share it.
                synchronized=tf.distribute.get_strategy().num_replicas_in_sync > 1,
                dtype=policy,
                name=keras_name(name) + "_norm",
            )(x)
        return keras.ops.relu(x) if relu else x

    return conv


def tensor_convolutions(arrays: Mapping[str, np.ndarray], layout: str = CHANNELS_LAST) -> Convolution:
    """Convolutions with constant weights as plain TensorFlow operations: the fastest graph and the easiest to export.

    Args:
        arrays: by published name: "conv1/conv1_1/kernel" (height, width, in, out), "conv1/conv1_1/bias"
            (out,) and so on. Inputs must have their dtype. Batch normalization must have been folded in.
        layout: "channels_last" or "channels_first".

    Returns:
        As `keras_convolutions`; the arrays determine `filters` and `size`.
    """
    data_format = DATA_FORMATS[layout]

    def conv(x, name, filters, size=3, dilation=1, relu=True, stride=1, depthwise=False):
        # Named so `checkpoint.read_arrays` finds them in an exported graph.
        kernel, bias = (tf.constant(arrays[f"{name}/{kind}"], name=f"{name}/{kind}") for kind in ("kernel", "bias"))
        if depthwise:
            strides = [1, 1, stride, stride] if layout == CHANNELS_FIRST else [1, stride, stride, 1]
            # Not `tf.nn.depthwise_conv2d`, which leaves unused constants that TensorFlow.js takes for outputs.
            x = tf.raw_ops.DepthwiseConv2dNative(
                input=x, filter=kernel, strides=strides, padding="SAME", data_format=data_format
            )
        else:
            x = tf.nn.conv2d(x, kernel, stride, "SAME", data_format, dilation)
        x = tf.nn.bias_add(x, bias, data_format)
        return tf.nn.relu(x) if relu else x

    return conv


def scaled_filters(filters: int, width: float) -> int:
    """A published filter count times the width, as a multiple of 8; the single output map stays one."""
    return filters if filters == 1 else max(8, round(filters * width / 8) * 8)


def keras_name(published: str) -> str:
    """ "conv1/conv1_1" -> "conv1_conv1_1": Keras allows no slash in a layer name."""
    return published.replace("/", "_")


def published_name(layer: str) -> str:
    """ "conv1_conv1_1" -> "conv1/conv1_1": the inverse of `keras_name`."""
    return layer.replace("_", "/", 1)


@keras.saving.register_keras_serializable("msinet")
class DilatedConv2D(keras.layers.Conv2D):
    """A convolution that uses TensorFlow's dilated kernel.

    Keras moves space into the batch and back around a dilated convolution, which takes up to four times as long on a
    CPU.
    """

    def convolution_op(self, inputs, kernel):
        if self._has_slow_gradient(kernel):
            return convolve_with_products(inputs, tf.convert_to_tensor(kernel))
        if max(self.dilation_rate) == 1 or not dilated_gradient_exists(self.compute_dtype):
            return super().convolution_op(inputs, kernel)
        return tf.nn.conv2d(inputs, kernel, self.strides, "SAME", DATA_FORMATS[self.data_format], self.dilation_rate)

    def _has_slow_gradient(self, kernel) -> bool:
        if kernel.shape[:2] != (3, 3) or np.prod(kernel.shape) > PRODUCTS_UP_TO or not products_are_faster():
            return False
        plain = max(self.strides) == max(self.dilation_rate) == 1
        return plain and self.data_format == CHANNELS_LAST and self.compute_dtype == "float32"


def products_are_faster() -> bool:
    """Whether matrix products are faster than oneDNN's gradient of a kernel, which is slow without AVX-512."""
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").startswith("AVX2")
    return onednn_enabled() and (limited or {"avx2"} == processor_instructions() & {"avx2", "avx512f"})


@tf.custom_gradient
def convolve_with_products(x: tf.Tensor, kernel: tf.Tensor):
    """A "same" convolution of stride 1, channels last; the gradient of its kernel is a matrix product for each tap."""
    height, width, inputs, filters = kernel.shape

    def gradient(upstream):
        of_x = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, strides=[1, 1, 1, 1], padding="SAME"
        )
        rows, columns = tf.shape(x)[1], tf.shape(x)[2]
        top, left = height // 2, width // 2
        padded = tf.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
        flat, taps = tf.reshape(upstream, (-1, filters)), []
        for i, j in np.ndindex(height, width):
            with tf.control_dependencies(taps[-1:]):  # One after another, since each copies the images.
                shifted = tf.reshape(padded[:, i : i + rows, j : j + columns], (-1, inputs))
                taps.append(tf.matmul(shifted, flat, transpose_a=True))
        return of_x, tf.reshape(tf.stack(taps), kernel.shape)

    return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient


@functools.cache
def dilated_gradient_exists(dtype: str = "float32") -> bool:
    """Whether TensorFlow can differentiate a dilated `conv2d` here; its CPU kernels without oneDNN cannot."""
    with tf.init_scope():  # Records no gradients, so the operation itself is called.
        image, kernel = tf.zeros((1, 4, 4, 1), dtype), tf.zeros((3, 3, 1, 1), dtype)
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=image.shape,
                filter=kernel,
                out_backprop=image,
                strides=[1, 1, 1, 1],
                padding="SAME",
                dilations=[1, 2, 2, 1],
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


class _Resizing(keras.layers.Layer):
    """Bilinear resizing in either layout."""

    def __init__(self, layout: str = CHANNELS_LAST, **kwargs):
        super().__init__(**kwargs)
        self.layout = layout

    def _size(self, x):
        """Height and width of a tensor, when it runs."""
        first, last = spatial_axes(self.layout)
        return tf.shape(x)[first : last + 1]

    def _resize(self, x, size, half_pixel_centers: bool):
        # The operation supports channels-last tensors only.
        x = tf.transpose(x, (0, 2, 3, 1)) if self.layout == CHANNELS_FIRST else x
        x = tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=False, half_pixel_centers=half_pixel_centers)
        return tf.transpose(x, (0, 3, 1, 2)) if self.layout == CHANNELS_FIRST else x

    def get_config(self):
        return {**super().get_config(), "layout": self.layout}


@keras.saving.register_keras_serializable("msinet")
class LegacyUpsampling(_Resizing):
    """TensorFlow 1's `resize_bilinear` to twice the size: no half-pixel centers, unlike `UpSampling2D`.

    Pinned by test_model.py::test_forward_equals_the_published_network.
    """

    def call(self, x):
        return self._resize(x, self._size(x) * 2, half_pixel_centers=False)

    def compute_output_shape(self, input_shape):
        spatial = spatial_axes(self.layout)
        return tuple(side * 2 if axis in spatial and side else side for axis, side in enumerate(input_shape))


@keras.saving.register_keras_serializable("msinet")
class ResizeLike(_Resizing):
    """Resizing with half-pixel centers to the height and width of another tensor."""

    def call(self, tensors):
        x, like = tensors
        return self._resize(x, self._size(like), half_pixel_centers=True)

    def compute_output_shape(self, input_shapes):
        x, like = input_shapes
        spatial = spatial_axes(self.layout)
        return tuple(like[axis] if axis in spatial else side for axis, side in enumerate(x))


def spatial_axes(layout: str) -> tuple[int, int]:
    return (2, 3) if layout == CHANNELS_FIRST else (1, 2)


def concatenate(tensors: list, layout: str):
    return keras.ops.concatenate(tensors, axis=1 if layout == CHANNELS_FIRST else -1)
