"""The training loss: the Kullback-Leibler divergence of the predicted from the true distribution over pixels."""

import tensorflow as tf

EPSILON = 1e-7


def kld(true: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Kullback-Leibler divergence of each image, as the paper trains with (equation 1).

    Both maps are divided by their sums first, padding included. This is not `keras.losses.KLDivergence`, which
    clips instead of adding epsilon and sums over the last axis only.

    Args:
        true: saliency maps made from fixations, float32, (B, H, W, 1), not negative; any scale.
        predicted: the network's output, float32, (B, H, W, 1), 0 to 1.

    Returns:
        float32, (B,), in nats. The published loss is its mean.
    """
    true, predicted = _as_distribution(true), _as_distribution(predicted)
    divergence = true * tf.math.log(EPSILON + true / (EPSILON + predicted))  # (B, H, W, 1)
    return tf.reduce_sum(divergence, axis=(1, 2, 3))


def _as_distribution(maps: tf.Tensor) -> tf.Tensor:
    return maps / (EPSILON + tf.reduce_sum(maps, axis=(1, 2, 3), keepdims=True))
