"""Callbacks between the steps and epochs of a training."""

import contextlib
import math
import time
from collections.abc import Iterator

import keras
import numpy as np

from ...progress import ProgressBar
from ...utils import UserError


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
