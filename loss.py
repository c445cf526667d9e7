"""The training loss: the Kullback-Leibler divergence of the predicted from the true distribution over pixels.

Two metrics of saliency maps can be added to it.
"""

from collections.abc import Callable

import tensorflow as tf

EPSILON = 1e-7


def kld(true: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Kullback-Leibler divergence of each image, the paper's training loss (equation 1).

    Both maps are divided by their sums first, padding included. This is not `keras.losses.KLDivergence`, which
    clips instead of adding epsilon and sums over the last axis only.

    Args:
        true: saliency maps made from fixations, float32, (B, H, W, 1), non-negative; any scale.
        predicted: the network's output, float32, (B, H, W, 1), 0 to 1.

    Returns:
        float32, (B,), in nats. The published loss is its mean.
    """
    true, predicted = _as_distribution(true), _as_distribution(predicted)
    divergence = true * tf.math.log(EPSILON + true / (EPSILON + predicted))  # (B, H, W, 1)
    return tf.reduce_sum(divergence, axis=(1, 2, 3))


def cc(true: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Pearson's correlation over the pixels of each image's two maps, padding included.

    Args:
        true, predicted: as in `kld`.

    Returns:
        float32, (B,), -1 to 1; 0 if a map is constant.
    """
    covariance = tf.reduce_mean(_centered(true) * _centered(predicted), axis=(1, 2, 3))
    return covariance / (EPSILON + _deviation(true) * _deviation(predicted))


def nss(true: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Normalized scanpath saliency with the true map in place of fixations.

    Args:
        true, predicted: as in `kld`.

    Returns:
        float32, (B,): the mean, weighted by the true map, of the predicted map minus its mean, divided by its standard
        deviation.
    """
    standardized = _centered(predicted) / (EPSILON + _deviation(predicted))[:, None, None, None]
    return tf.reduce_sum(_as_distribution(true) * standardized, axis=(1, 2, 3))


def combined(cc_weight: float, nss_weight: float) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The loss `kld` + `cc_weight` · (1 - `cc`) - `nss_weight` · `nss`, of the same arguments."""

    def loss(true: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
        correlation = cc_weight * (1 - cc(true, predicted))
        return kld(true, predicted) + correlation - nss_weight * nss(true, predicted)

    return loss


def _centered(maps: tf.Tensor) -> tf.Tensor:
    return maps - tf.reduce_mean(maps, axis=(1, 2, 3), keepdims=True)


def _deviation(maps: tf.Tensor) -> tf.Tensor:
    # With epsilon, because the root has no derivative at 0.
    return tf.sqrt(tf.math.reduce_variance(maps, axis=(1, 2, 3)) + EPSILON**2)  # (B,)


def _as_distribution(maps: tf.Tensor) -> tf.Tensor:
    return maps / (EPSILON + tf.reduce_sum(maps, axis=(1, 2, 3), keepdims=True))
