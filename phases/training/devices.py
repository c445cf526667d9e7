"""The devices that a training step is distributed across."""

from collections.abc import Sequence

import tensorflow as tf

from ...model import find_gpus
from ...utils import UserError


def choose_devices(gpus: int, batch_size: int) -> list[str]:
    """Names of the GPUs that each training step is distributed across; empty for a processor.

    Args:
        gpus: number of GPUs, or 0 for all that TensorFlow finds, but no more than images in a batch.
        batch_size: images of one training step on all devices together.

    Raises:
        UserError: there are fewer GPUs, or fewer images in a batch.
    """
    found = find_gpus(gpus)
    if gpus > batch_size:
        raise UserError(
            f"--batch-size {batch_size} is shared by --gpus {gpus}, so some GPUs would get no image: choose at least "
            f"--batch-size {gpus}, or fewer GPUs."
        )
    return found[:batch_size]


def strategy_for(devices: Sequence[str]) -> tf.distribute.Strategy:
    """The strategy for several devices: each has the same weights, and their gradients are averaged."""
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()
