"""Which devices share a training step."""

from collections.abc import Sequence

import tensorflow as tf

from model import find_gpus
from utils import UserError


def choose_devices(gpus: int, batch_size: int) -> list[str]:
    """Names of the GPUs that share each training step; empty for a processor.

    Args:
        gpus: how many, or 0 for all that TensorFlow sees, but no more than a batch has images.
        batch_size: images of one training step, all devices together.

    Raises:
        UserError: there are not so many, or a batch has fewer images.
    """
    found = find_gpus(gpus)
    if gpus > batch_size:
        raise UserError(
            f"--batch-size {batch_size} is shared by --gpus {gpus}, so that some would have no image: choose at least "
            f"--batch-size {gpus}, or fewer GPUs."
        )
    return found[:batch_size]


def strategy_for(devices: Sequence[str]) -> tf.distribute.Strategy:
    """What makes several devices train as one: each has the same weights, and their gradients are averaged."""
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()
