"""The files of a training run. Only one process at a time writes them."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from ... import checkpoint
from ...checkpoint import Knowledge
from ...config import CONTEXTS, defaults
from ...utils import UserError, count, locked, name_some, onednn_enabled, whole_file, write_csv, write_record
from ..curves import draw_losses
from .callbacks import averaged_weights

# Messages for changed settings whose values are hashes.
CHANGED = {
    "split": "the training or validation images are not the same as before",
    "files": "photographs or saliency maps have changed",
}

# Settings that earlier versions did not record. They used today's defaults, but shuffled your own data.
EARLIER = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults().items()}
EARLIER |= {"custom_split": "by shuffling", "fit_pixels": None}


class Run:
    """The files of one training run below `results/`, and its history.

    The latest checkpoint contains everything that resuming needs: weights, optimizer, history and settings. The best
    checkpoint contains only the weights. The CSV file, the curve and the record are for people.
    """

    def __init__(self, results: Path, name: str, settings: dict, knowledge: Knowledge | None = None, epochs: int = 0):
        self.results, self.name = results, name
        self.latest_path = results / "ckpts" / "latest" / f"{name}.weights.h5"
        self.best_path = results / "ckpts" / "best" / f"{name}.weights.h5"
        self.history_path = results / "history" / f"{name}.csv"
        self.settings = settings
        self.knowledge = knowledge  # for those who predict with its checkpoints
        self.epochs = epochs
        self.epochs_before: int | None = None
        self.history: list[dict] = []
        self.start = ""
        self.resumed_after = 0  # epochs

    def lock(self) -> contextlib.AbstractContextManager:
        """Lock this run for this process; a `UserError` if another process is training it."""
        return locked(self.latest_path.with_name(f"{self.name}.lock"), f"is training {self.latest_path}")

    def exists(self) -> bool:
        return self.latest_path.exists()

    def best(self) -> float:
        """The lowest validation loss so far; a `UserError` if no loss is a number."""
        losses = [row["val_loss"] for row in self.history if np.isfinite(row["val_loss"]) and row["val_loss"] != 0]
        if not losses:
            raise UserError(
                f"No epoch of this run has a usable validation loss, so there is no best checkpoint. Start "
                f"over with --restart and a --learning-rate below {self.settings.get('learning_rate')}."
            )
        return min(losses)

    def beginning(self) -> str:
        """A phrase about what this process starts from."""
        if not self.resumed_after:
            return self.start
        return f"epoch {self.resumed_after} of {self.latest_path}; first from {self.start}"

    def read(self) -> None:
        """Read the history from the latest checkpoint; a `UserError` if it belongs to a run with other settings."""
        attributes = checkpoint.read_attributes(self.latest_path)
        with checkpoint.reading(
            self.latest_path, "is not a checkpoint of a training run", "Start over with --restart."
        ):
            before = dict(attributes["settings"])
            if before.get("variant") == "lite" and before.get("context") in CONTEXTS:
                before["variant"] = "narrow"  # Its name before version 2.
            self.history = [dict(row) for row in attributes["history"]]
            self.start = str(attributes["start"])
            self.epochs_before = attributes.get("epochs")
            self.resumed_after = len(self.history)
        if self.settings.get("init") is None:  # A resumed run keeps its initial weights.
            self.settings["init"] = before.get("init")
        known = EARLIER | before
        changed = [
            CHANGED.get(key) or f"{key} was {_in_words(key, known[key])}, now {_in_words(key, value)}"
            for key, value in self.settings.items()
            if key in known and known[key] != value
        ]
        if changed:
            raise UserError(
                f"{self.latest_path} belongs to a run with other settings: {'; '.join(changed)}. Use the same settings "
                f"to resume it, choose another --results folder, or start over with --restart."
            )

    def save(self, model: keras.Model, row: dict) -> None:
        """Add an epoch to the history and write all files.

        A run that is killed at any moment resumes from the latest checkpoint, and writes the other files again.

        Raises:
            UserError: the validation loss is 0, or it or a weight is not a number. Nothing is written in this case.
        """
        self._check_numbers(model, row)
        self.history.append(row)
        attributes = {
            **(self.knowledge.to_json() if self.knowledge else {}),
            "settings": self.settings,
            "history": self.history,
            "start": self.start,
            "epochs": self.epochs,
        }
        with whole_file(self.latest_path) as temporary:
            checkpoint.save_checkpoint(model, temporary, attributes)
            if row["val_loss"] == self.best():
                bare = keras.Model(model.inputs, model.outputs, name=model.name)  # the same layers without optimizer
                with averaged_weights(model), whole_file(self.best_path) as copy:
                    checkpoint.save_checkpoint(bare, copy, attributes)
            write_csv(self.history_path, self.history[0], self.history)
            draw_losses(self.history_path.with_suffix(".png"), {self.name: self.history})

    def last_good(self) -> str:
        """A phrase about the checkpoint that remains when an epoch fails."""
        return f"the last good checkpoint is {self.latest_path}" if self.history else "no epoch was completed"

    def record(self, params: Mapping, device: str) -> None:
        """Write the run record: everything needed to judge or repeat the run."""
        record = {
            "settings": self.settings,
            "parameters": dict(params),
            "initial_weights": self.beginning(),
            "device": device,
            "onednn": onednn_enabled(),
            "epochs_done": len(self.history),
            "seconds": round(sum(row["seconds"] for row in self.history), 1),
        }
        write_record(self.history_path.with_suffix(".json"), record)

    def _check_numbers(self, model: keras.Model, row: dict) -> None:
        wrong = [key for key in ("loss", "val_loss") if not np.isfinite(row[key])]
        wrong += [v.path for v in (*model.variables, *model.optimizer.variables) if not np.isfinite(v).all()]
        if row["val_loss"] == 0:
            raise UserError(
                f"At the end of epoch {row['epoch']}, the validation loss is exactly 0, which no prediction reaches: "
                f"the saliency maps of the validation images are black. Make them again, and repeat the command; "
                f"{self.last_good()}."
            )
        if wrong:
            raise UserError(
                f"At the end of epoch {row['epoch']}, {name_some(wrong)} {'is' if len(wrong) == 1 else 'are'} "
                f"not a number; {self.last_good()}. Try a smaller --learning-rate."
            )


def _in_words(key: str, value) -> str:
    """A setting; the images of each dataset, [number, height, width], as words."""
    if key in ("train", "valid"):
        return " and ".join(f"{count(images, 'image')} at {height}×{width}" for images, height, width in value)
    return str(value)
