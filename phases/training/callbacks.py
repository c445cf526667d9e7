"""What happens between the steps and epochs of a training."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import keras
import numpy as np
from tqdm import tqdm

from utils import UserError

if TYPE_CHECKING:
    from phases.training.run import Run


class EpochEnd(keras.callbacks.Callback):
    """Shows progress, stops when the loss is not a number, and saves the run after every epoch."""

    def __init__(self, run: "Run", steps: int):
        super().__init__()
        self.run, self.steps = run, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()
        self.bar = tqdm(total=self.steps, desc=f"Epoch {epoch + 1}/{self.run.epochs}", leave=False, disable=None)

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
        row = {
            "epoch": epoch + 1,
            "loss": float(logs["loss"]),
            "val_loss": float(logs["val_loss"]),
            **{key: float(value) for key, value in logs.items() if key not in ("loss", "val_loss")},
            "learning_rate": float(self.model.optimizer.learning_rate),
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
    """Lets the running average of the weights validate in their place."""

    def on_test_begin(self, logs=None):
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs=None):
        self.stack.close()


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """The model with the running average of its weights, where its optimizer keeps one.

    Keras' own `SwapEMAWeights` adds and subtracts to swap them, which leaves a rounding error in the weights.
    """
    weights = [np.array(variable) for variable in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, values in zip(model.trainable_variables, weights, strict=True):
            variable.assign(values)
