"""Callbacks between the steps and epochs of a training."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ...progress import ProgressBar
from ...utils import UserError
from .batches import Batch, load_batches

BOARD_IMAGES = 4  # validation images shown after each epoch


class EpochEnd(keras.callbacks.Callback):
    """Shows progress, stops when the loss is not a number, and saves the run after every epoch of so many steps."""

    def __init__(self, run, steps: int):
        super().__init__()
        self.run, self.steps = run, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()
        self.bar = ProgressBar(total=self.steps, desc=f"Epoch {epoch + 1}/{self.run.epochs}", unit="step")

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self.bar.close()
            raise UserError(
                f"The loss became {logs['loss']} in epoch {len(self.run.history) + 1}, step {batch + 1}; "
                f"{self.run.last_good()}. Try a smaller --learning-rate."
            )
        self.bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        seconds = time.monotonic() - self.started
        losses = {"loss": logs["loss"], "val_loss": logs["val_loss"], **logs}  # in this order
        row = {
            "epoch": epoch + 1,
            **{key: float(value) for key, value in losses.items()},
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            "seconds": round(seconds, 1),
        }
        self.run.save(self.model, row)
        best = "  (best so far)" if row["val_loss"] == self.run.best() else ""
        print(
            f"Epoch {row['epoch']}/{self.run.epochs}: loss {row['loss']:.4f}, "
            f"validation loss {row['val_loss']:.4f}, {seconds:.0f} s{best}",
            flush=True,
        )


class ValidateAverage(keras.callbacks.Callback):
    """Validates with the running average of the weights instead of the weights."""

    def on_test_begin(self, logs=None):
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs=None):
        self.stack.close()


class Board(keras.callbacks.TensorBoard):
    """Writes the speed and a few maps of the first validation batches, in addition to Keras' data for TensorBoard.

    An epoch trains with so many `images`.
    """

    def __init__(self, folder: Path, validation: Sequence[Batch], images: int):
        super().__init__(folder, write_graph=False)
        self.shown = [replace(batch, samples=batch.samples[:BOARD_IMAGES]) for batch in validation[:BOARD_IMAGES]]
        self.images = images

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.started, self.seconds = time.monotonic(), 0.0

    def on_test_begin(self, logs=None):
        super().on_test_begin(logs)
        self.seconds = time.monotonic() - self.started

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        with self._train_writer.as_default(epoch):
            tf.summary.scalar("images_per_second", self.images / self.seconds)
        pictures = []
        with averaged_weights(self.model):
            for photographs, truths in load_batches(self.shown):
                pictures += [
                    side_by_side(*row) for row in zip(photographs, self.model(photographs), truths, strict=True)
                ]
        with self._val_writer.as_default(epoch):
            for i, picture in enumerate(pictures[:BOARD_IMAGES]):
                tf.summary.image(f"photograph, map, truth/{i}", picture[None])


def side_by_side(photograph: tf.Tensor, saliency: tf.Tensor, truth: tf.Tensor) -> tf.Tensor:
    """A photograph, 0 to 255, its map, 0 to 1, and the true map, 0 to 255: float32 (H, 3 W, 3), 0 to 1."""
    maps = [tf.repeat(x, 3, axis=-1) for x in (saliency, truth / tf.maximum(tf.reduce_max(truth), 1e-7))]
    return tf.concat([photograph / 255, *maps], axis=1)


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Give the model the running average of its weights, if its optimizer keeps one, and then its weights again.

    `SwapEMAWeights` of Keras swaps them by adding and subtracting, which leaves a rounding error in the weights.
    """
    weights = [np.array(variable) for variable in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, values in zip(model.trainable_variables, weights, strict=True):
            variable.assign(values)
