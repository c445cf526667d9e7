"""The training phase: from photographs and fixations to checkpoints, a history and a run record."""

import csv
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf
from tqdm import tqdm

import checkpoint
import utils
from config import VARIANTS
from data import Group, training_plan, validation_plan
from images import find_damaged, load_batches
from loss import kld
from model import build_model, choose_layout
from utils import UserError, whole_file

# The paper's value, and that of TensorFlow 1; Keras' own default is 1e-7.
ADAM_EPSILON = 1e-8


def train(
    name: str,
    groups: Sequence[tuple[Group, Group]],
    params: Mapping,
    *,
    variant: str = "full",
    context: str = "aspp",
    init: str | None = None,
    restart: bool = False,
) -> None:
    """Train, or continue an interrupted run of the same settings.

    Args:
        name: of the dataset or datasets; the run's files are called after it.
        groups: for each dataset, the samples that train and those that validate.
        params: `config.PARAMS` with a recipe's changes and the user's flags.
        variant: a key of `config.VARIANTS`.
        context: "aspp", or "plain" for the paper's ablation.
        init: what to start from; see `checkpoint.initial_weights`.
        restart: begin anew where a run of this name exists.

    Raises:
        UserError: an existing run has other settings, initial weights cannot be had, an image cannot be read, the
            memory is too small, or the loss is not a number.
    """
    results = Path(params["results"])
    train_groups, valid_groups = ([group for group in column if group.samples] for column in zip(*groups, strict=True))
    if not train_groups or not valid_groups:
        raise UserError(
            f"Training needs images that train and images that validate, received {_count(train_groups)} and "
            f"{_count(valid_groups)}: add images, or choose another --valid-fraction."
        )
    layout, device = choose_layout(params["device"])
    run = Run(results, name, _settings(name, params, variant, context, train_groups, valid_groups))
    resuming = run.exists() and not restart
    if resuming:
        run.read()
        arrays = checkpoint.read_arrays(run.latest_path)
    else:
        arrays, run.start = checkpoint.initial_weights(name, init, results=results, context=context, variant=variant)

    model = build_model(layout, context, VARIANTS[variant]["width"], needs_batch_norm(arrays, variant), params["seed"])
    steps = len(training_plan(train_groups, params["batch_size"], params["seed"], 0))
    compile_model(model, params, steps)
    if resuming:
        checkpoint.load_checkpoint(model, run.latest_path)
    elif arrays:
        checkpoint.assign(model, arrays)
    print(f"Training {name}: {_count(train_groups)} images, validating with {_count(valid_groups)}, on {device}.")
    print(f"Starting from {run.start}.")
    first = len(run.history)
    if first >= params["epochs"]:
        print(
            f"This run is finished: {utils.count(first, 'epoch')} of {params['epochs']}, best validation loss "
            f"{run.best():.4f}. Train on with --epochs {first + params['epochs']}, or begin anew with --restart."
        )
        return

    run.record(params, device)
    plan = [
        batch
        for epoch in range(first, params["epochs"])
        for batch in training_plan(train_groups, params["batch_size"], params["seed"], epoch, params["scales"])
    ]
    augmentation = {key: params[key] for key in ("mirror", "color", "crop") if params[key]}
    try:
        model.fit(
            load_batches(plan, augmentation),
            validation_data=load_batches(validation_plan(valid_groups, params["batch_size"])),
            initial_epoch=first,
            epochs=params["epochs"],
            steps_per_epoch=steps,
            callbacks=[EpochEnd(run, params["epochs"], steps)],
            shuffle=False,
            verbose=0,
        )
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(
            "The memory is too small for this training: try a smaller --batch-size, --variant lite, or on your own "
            "data a smaller --input-size."
        ) from error
    except tf.errors.OpError as error:
        damaged = find_damaged([sample for group in (*train_groups, *valid_groups) for sample in group.samples])
        if not damaged:
            raise
        raise UserError(
            f"Training stopped at an image that cannot be read: {utils.name_some(damaged, '; ')}. Replace it, or "
            f"remove it and what belongs to it, and repeat the command."
        ) from error
    run.record(params, device)
    print(f"Done. The best checkpoint has validation loss {run.best():.4f}: {run.best_path}")


def needs_batch_norm(arrays: Mapping, variant: str) -> bool:
    """Whether to train with batch normalisation: as complete initial weights were, else as the variant needs it.

    Weights whose normalisation is folded in go on without: to normalise again would undo what they learned.
    """
    found = checkpoint.describe(arrays)
    return found.batch_norm if found.context else bool(VARIANTS[variant]["batch_norm"])


def compile_model(model: keras.Model, params: Mapping, steps: int) -> None:
    """Give a model the loss and the optimizer.

    Args:
        model: the network.
        params: see `config.PARAMS`; those of the optimizer are used.
        steps: training steps of one epoch, which the decay of the learning rate is stretched over.
    """
    rate = params["learning_rate"]
    if params["cosine_decay"]:
        warmup = params["warmup_steps"]
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, params["epochs"] * steps - warmup), warmup_target=rate, warmup_steps=warmup
        )
    optimizer = keras.optimizers.Adam(rate, epsilon=ADAM_EPSILON, weight_decay=params["weight_decay"] or None)
    if params["weight_decay"]:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    # Compiling with XLA would compile anew for each size of the input.
    model.compile(optimizer, kld, jit_compile=False)


class Run:
    """The files of one training run below `results/`, and its history.

    The latest checkpoint holds all that is needed to continue: weights, optimizer, history and settings, in one file.
    The CSV, the curve and the record are written from it for people to read.
    """

    def __init__(self, results: Path, name: str, settings: dict):
        self.latest_path = results / "ckpts" / "latest" / f"{name}.weights.h5"
        self.best_path = results / "ckpts" / "best" / f"{name}.weights.h5"
        self.history_path = results / "history" / f"{name}.csv"
        self.settings = settings
        self.history: list[dict] = []
        self.start = ""

    def exists(self) -> bool:
        return self.latest_path.exists()

    def best(self) -> float:
        """The lowest validation loss so far."""
        return min(row["val_loss"] for row in self.history)

    def read(self) -> None:
        """Take the history from the latest checkpoint.

        Raises:
            UserError: it belongs to a run with other settings.
        """
        attributes = checkpoint.read_attributes(self.latest_path)
        before = attributes.get("settings", {})
        changed = [
            f"{key} was {before[key]}, now {self.settings[key]}"
            for key in self.settings
            if key in before and before[key] != self.settings[key]  # An earlier version may not have known the setting.
        ]
        if changed:
            raise UserError(
                f"{self.latest_path} belongs to a run with other settings: {'; '.join(changed)}. Repeat them to "
                f"continue it, name another --results folder, or begin anew with --restart."
            )
        self.history = attributes["history"]
        self.start = f"epoch {len(self.history)} of {self.latest_path}; first from {attributes['start']}"

    def save(self, model: keras.Model, row: dict) -> None:
        """Add an epoch to the history and write every file, the latest checkpoint last.

        Killed at any moment, the run continues from the latest checkpoint, and writes the others again.
        """
        self.history.append(row)
        attributes = {"settings": self.settings, "history": self.history, "start": self.start}
        with whole_file(self.latest_path) as temporary:
            checkpoint.save_checkpoint(model, temporary, attributes)
            if row["val_loss"] == self.best():
                with whole_file(self.best_path) as copy:
                    shutil.copyfile(temporary, copy)
            self._write_history()

    def record(self, params: Mapping, device: str) -> None:
        """Write the run record: all that someone needs to judge or repeat the run."""
        record = {
            "settings": self.settings,
            "parameters": dict(params),
            "initial_weights": self.start,
            "device": device,
            "epochs_done": len(self.history),
            "seconds": round(sum(row["seconds"] for row in self.history), 1),
        }
        utils.write_record(self.history_path.with_suffix(".json"), record)

    def _write_history(self) -> None:
        with whole_file(self.history_path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.history[0])
            writer.writeheader()
            writer.writerows(self.history)
        utils.plot_history(self.history_path.with_suffix(".png"), self.history)


class EpochEnd(keras.callbacks.Callback):
    """Shows progress, stops when the loss is not a number, and saves the run after every epoch."""

    def __init__(self, run: Run, epochs: int, steps: int):
        super().__init__()
        self.run, self.epochs, self.steps = run, epochs, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()
        self.bar = tqdm(total=self.steps, desc=f"Epoch {epoch + 1}/{self.epochs}", leave=False, disable=None)

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self.bar.close()
            kept = (
                f"the last good checkpoint is {self.run.latest_path}" if self.run.history else "no epoch was complete"
            )
            raise UserError(
                f"The loss became {logs['loss']} in epoch {len(self.run.history) + 1}, step {batch + 1}; {kept}. "
                f"Try a smaller --learning-rate."
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
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(seconds, 1),
        }
        self.run.save(self.model, row)
        best = "  (best so far)" if row["val_loss"] == self.run.best() else ""
        print(
            f"Epoch {row['epoch']}/{self.epochs}: loss {row['loss']:.4f}, "
            f"validation loss {row['val_loss']:.4f}, {seconds:.0f} s{best}",
            flush=True,
        )


def _settings(name, params, variant, context, train_groups, valid_groups) -> dict:
    """What must not change while a run is continued. The device, the folder and the number of epochs may."""
    free = ("device", "results", "epochs")
    return {
        "dataset": name,
        "variant": variant,
        "context": context,
        "train": [[len(group.samples), *group.size] for group in train_groups],
        "valid": [[len(group.samples), *group.size] for group in valid_groups],
        **{key: list(value) if isinstance(value, tuple) else value for key, value in params.items() if key not in free},
    }


def _count(groups: Sequence[Group]) -> int:
    return sum(len(group.samples) for group in groups)
