"""The files of a training run, and that only one process at a time writes them."""

import contextlib
import csv
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
from filelock import FileLock, Timeout

import checkpoint
import utils
from checkpoint import Knowledge
from config import PARAMS
from phases.training.callbacks import averaged_weights
from utils import UserError, whole_file

# What an interrupted run complains of, where hashes would say little.
CHANGED = {
    "split": "other images train or validate than before",
    "files": "photographs or saliency maps have changed since",
}

# Settings that an earlier version did not record: it did what is now the default, and shuffled one's own data.
EARLIER = {key: list(value) if isinstance(value, tuple) else value for key, value in PARAMS.items()}
EARLIER |= {"custom_split": "by shuffling", "fit_pixels": None}


class Run:
    """The files of one training run below `results/`, and its history.

    The latest checkpoint holds all that is needed to continue: weights, optimizer, history and settings, in one file.
    The best one holds the weights alone. The CSV, the curve and the record are for people to read.
    """

    def __init__(self, results: Path, name: str, settings: dict, knowledge: Knowledge | None = None, epochs: int = 0):
        self.results = results
        self.latest_path = results / "ckpts" / "latest" / f"{name}.weights.h5"
        self.best_path = results / "ckpts" / "best" / f"{name}.weights.h5"
        self.history_path = results / "history" / f"{name}.csv"
        self.cache_path = results / "cache" / name
        self.settings = settings
        self.knowledge = knowledge  # What its checkpoints tell whoever predicts with them.
        self.epochs = epochs
        self.epochs_before: int | None = None
        self.history: list[dict] = []
        self.start = ""

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from this run.

        Raises:
            UserError: another process trains it; it says which, and since when.
        """
        file = self.latest_path.with_name(f"{self.latest_path.name.removesuffix('.weights.h5')}.lock")
        file.parent.mkdir(parents=True, exist_ok=True)
        owner, lock = file.with_suffix(".lock.json"), FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"Another training writes {self.latest_path}{_describe(owner)}. Wait until it ends, stop it, or name "
                f"another --results folder."
            ) from error
        try:
            utils.write_json(owner, {"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def exists(self) -> bool:
        return self.latest_path.exists()

    def best(self) -> float:
        """The lowest validation loss so far.

        Raises:
            UserError: none is a number.
        """
        losses = [row["val_loss"] for row in self.history if np.isfinite(row["val_loss"])]
        if not losses:
            raise UserError(
                f"No epoch of this run has a validation loss that is a number, so there is no best checkpoint. Begin "
                f"anew with --restart and a --learning-rate below {self.settings.get('learning_rate')}."
            )
        return min(losses)

    def beginning(self) -> str:
        """What this process starts from, in words."""
        if not self.history:
            return self.start
        return f"epoch {len(self.history)} of {self.latest_path}; first from {self.start}"

    def read(self) -> None:
        """Take the history from the latest checkpoint.

        Raises:
            UserError: it belongs to a run with other settings.
        """
        attributes = checkpoint.read_attributes(self.latest_path)
        with checkpoint.reading(self.latest_path, "is no checkpoint of a training run", "Begin anew with --restart."):
            before = dict(attributes["settings"])
            self.history = [dict(row) for row in attributes["history"]]
            self.start = str(attributes["start"]).rpartition("; first from ")[2]  # Earlier versions repeated it.
            self.epochs_before = attributes.get("epochs")
        if self.settings.get("init") is None:  # What a run started from need not be said again.
            self.settings["init"] = before.get("init")
        known = EARLIER | before
        changed = [
            CHANGED.get(key) or f"{key} was {known[key]}, now {value}"
            for key, value in self.settings.items()
            if key in known and known[key] != value
        ]
        if changed:
            raise UserError(
                f"{self.latest_path} belongs to a run with other settings: {'; '.join(changed)}. Repeat them to "
                f"continue it, name another --results folder, or begin anew with --restart."
            )
        if self.settings["init"] and "init" not in before:
            print(f"--init {self.settings['init']} has no effect: this run goes on, and began from {self.start}.")

    def save(self, model: keras.Model, row: dict) -> None:
        """Add an epoch to the history and write every file, the latest checkpoint last.

        Killed at any moment, the run continues from the latest checkpoint, and writes the others again.

        Raises:
            UserError: the validation loss or a weight is not a number; then nothing is written.
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
                bare = keras.Model(model.inputs, model.outputs, name=model.name)  # The same layers, no optimizer.
                with averaged_weights(model), whole_file(self.best_path) as copy:
                    checkpoint.save_checkpoint(bare, copy, attributes)
            self._write_history()

    def last_good(self) -> str:
        """What is there when an epoch fails, in words."""
        return f"the last good checkpoint is {self.latest_path}" if self.history else "no epoch was complete"

    def record(self, params: Mapping, device: str) -> None:
        """Write the run record: all that someone needs to judge or repeat the run."""
        record = {
            "settings": self.settings,
            "parameters": dict(params),
            "initial_weights": self.beginning(),
            "device": device,
            "onednn": utils.onednn_enabled(),
            "epochs_done": len(self.history),
            "seconds": round(sum(row["seconds"] for row in self.history), 1),
        }
        utils.write_record(self.history_path.with_suffix(".json"), record)

    def _check_numbers(self, model: keras.Model, row: dict) -> None:
        wrong = [key for key in ("loss", "val_loss") if not np.isfinite(row[key])]
        wrong += [v.path for v in (*model.variables, *model.optimizer.variables) if not np.isfinite(v).all()]
        if wrong:
            raise UserError(
                f"At the end of epoch {row['epoch']}, {utils.name_some(wrong)} {'is' if len(wrong) == 1 else 'are'} "
                f"not a number; {self.last_good()}. Try a smaller --learning-rate."
            )

    def _write_history(self) -> None:
        with whole_file(self.history_path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.history[0])
            writer.writeheader()
            writer.writerows(self.history)
        utils.plot_history(self.history_path.with_suffix(".png"), self.history)


def _describe(owner: Path) -> str:
    """Who holds a lock, from what the holder wrote beside it."""
    try:
        holder = json.loads(owner.read_text(encoding="utf-8"))
        return f": process {holder['process']}, since {holder['since']}"
    except (OSError, ValueError, KeyError):  # It has only just begun.
        return ""
