"""Training: the published numbers, resuming, and what a run leaves behind."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import FIXTURES, run_with_published_kernels, seeded_arrays, set_arrays

import checkpoint
import data
import main
import model
from config import PARAMS, VERSION
from phases import train
from utils import UserError

ROOT = Path(__file__).parents[1]


def run(folder: Path, *flags: str) -> int:
    """`train` on a custom dataset with the narrow network, from scratch."""
    fixed = ("-d", "custom", "-p", str(folder), "--variant", "lite", "--input-size", "48", "64", "--init", "scratch")
    return main.main(["train", *fixed, "--learning-rate", "1e-3", *flags])


def history(results: Path) -> list[dict]:
    with (results / "history" / "custom.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_losses_of_five_steps_are_the_published_ones(fixture):
    numbers = fixture("training.npz")
    found = run_with_published_kernels(__file__)
    np.testing.assert_allclose(found["losses"], numbers["losses"], rtol=0, atol=1e-5)
    assert len(found["changes"]) == len(numbers["delta_norms"]) == 46
    # The last is the bias of the map, which the normalisation takes away again: its gradient is rounding noise.
    np.testing.assert_allclose(found["changes"][:-1], numbers["delta_norms"][:-1], rtol=1e-3)


def five_steps(numbers) -> dict:
    """Losses before each step and after the last, and how far each array has moved by then."""
    network = model.build_model()
    before = seeded_arrays(network)
    set_arrays(network, before)
    train.compile_model(network, PARAMS, steps=5)
    losses = [network.train_on_batch(numbers["input"], numbers["target"]) for _ in range(5)]
    losses.append(network.test_on_batch(numbers["input"], numbers["target"]))
    after = checkpoint.arrays_of(network)
    changes = [np.linalg.norm(after[name] - values) for name, values in before.items()]
    return {"losses": [float(loss) for loss in losses], "changes": [float(change) for change in changes]}


def test_run_leaves_checkpoints_history_curve_and_record(tiny_dataset, tmp_path, capsys):
    results = tmp_path / "results"
    assert run(tiny_dataset(count=5), "--epochs", "2", "--results", str(results)) == 0
    rows = history(results)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(row["val_loss"])) for row in rows)
    assert (results / "history" / "custom.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((results / "history" / "custom.json").read_text(encoding="utf-8"))
    assert record["settings"]["train"] == [[4, 48, 64]] and record["settings"]["valid"] == [[1, 48, 64]]
    assert record["epochs_done"] == 2 and record["initial_weights"] and record["versions"]["tensorflow"]
    best = min(range(2), key=lambda i: float(rows[i]["val_loss"]))
    attributes = checkpoint.read_attributes(results / "ckpts" / "best" / "custom.weights.h5")
    assert len(attributes["history"]) == best + 1
    assert not [file for file in results.rglob(".*") if file.is_file()]
    output = capsys.readouterr().out
    assert "Epoch 2/2: loss" in output and "validation loss" in output


def test_continued_run_gives_the_losses_of_an_uninterrupted_one(tiny_dataset, tmp_path):
    folder = tiny_dataset(count=5)
    flags = ("--mirror", "--color", "0.2", "--crop", "0.2", "--weight-decay", "0.01", "--batch-size", "2")
    assert run(folder, *flags, "--epochs", "4", "--results", str(tmp_path / "straight")) == 0
    assert run(folder, *flags, "--epochs", "2", "--results", str(tmp_path / "stopped")) == 0
    assert run(folder, *flags, "--epochs", "4", "--results", str(tmp_path / "stopped")) == 0
    for straight, resumed in zip(history(tmp_path / "straight"), history(tmp_path / "stopped"), strict=True):
        assert float(resumed["loss"]) == pytest.approx(float(straight["loss"]), abs=1e-5)
        assert float(resumed["val_loss"]) == pytest.approx(float(straight["val_loss"]), abs=1e-5)


def test_killed_run_continues_from_its_last_complete_epoch(tiny_dataset, tmp_path):
    folder, results = tiny_dataset(count=5), tmp_path / "killed"
    command = [sys.executable, "main.py", "train", "-d", "custom", "-p", str(folder), "--variant", "lite", "--init"]
    command += ["scratch", "--learning-rate", "1e-3", "--input-size", "48", "64", "--results", str(results)]
    latest = results / "ckpts" / "latest" / "custom.weights.h5"
    process = subprocess.Popen([*command, "--epochs", "200"], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not latest.exists() and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(checkpoint.read_attributes(latest)["history"])
    assert run(folder, "--epochs", str(done + 1), "--results", str(results)) == 0
    assert run(folder, "--epochs", str(done + 1), "--results", str(tmp_path / "straight")) == 0
    for straight, resumed in zip(history(tmp_path / "straight"), history(results), strict=True):
        assert float(resumed["loss"]) == pytest.approx(float(straight["loss"]), abs=1e-5)


def test_finished_run_says_so_and_names_the_flag(tiny_dataset, tmp_path, capsys):
    folder, results = tiny_dataset(count=3), str(tmp_path / "results")
    assert run(folder, "--epochs", "1", "--results", results) == 0
    assert run(folder, "--epochs", "1", "--results", results) == 0
    output = capsys.readouterr().out
    assert "This run is finished: 1 epoch of 1" in output and "--epochs" in output


def test_continuing_with_other_settings_is_refused_and_restart_begins_anew(tiny_dataset, tmp_path, capsys):
    folder, results = tiny_dataset(count=3), tmp_path / "results"
    assert run(folder, "--epochs", "1", "--results", str(results)) == 0
    assert run(folder, "--epochs", "2", "--results", str(results), "--batch-size", "2") == 2
    assert "batch_size was 1, now 2" in capsys.readouterr().err
    assert run(folder, "--epochs", "1", "--results", str(results), "--batch-size", "2", "--restart") == 0
    assert len(history(results)) == 1


def test_setting_that_an_earlier_version_did_not_record_does_not_stop_a_run(tmp_path, monkeypatch):
    attributes = {"settings": {"seed": 1}, "history": [{"epoch": 1}], "start": "random weights"}
    monkeypatch.setattr(checkpoint, "read_attributes", lambda path: attributes)
    continued = train.Run(tmp_path, "custom", {"seed": 1, "sigma": None, "valid_fraction": 0.2})
    continued.read()
    assert continued.history == [{"epoch": 1}]
    with pytest.raises(UserError, match="seed was 1, now 2"):
        train.Run(tmp_path, "custom", {"seed": 2, "sigma": None}).read()


def test_checkpoints_know_what_trained_them(tiny_dataset, tmp_path):
    folder, results = tiny_dataset(count=5), tmp_path / "results"
    assert run(folder, "--epochs", "1", "--results", str(results)) == 0
    for kind in ("latest", "best"):
        known = checkpoint.read_knowledge(results / "ckpts" / kind / "custom.weights.h5")
        train_names, valid_names = known.datasets["custom"].train, known.datasets["custom"].valid
        assert (known.input_size, known.context, known.variant) == ((48, 64), "aspp", "lite")
        assert (known.valid_fraction, known.version, known.settings["seed"]) == (0.2, VERSION, 42)
        assert len(train_names) == 4 and {*train_names, *valid_names} == {f"{i:04d}" for i in range(5)}
        assert known.datasets["custom"].sha256 == data.names_hash(train_names, valid_names)
    # Neither of these commands names the input size.
    test = ["test", "-d", "custom", "-p", str(folder / "stimuli"), "--results", str(results)]
    assert main.main(test) == 0
    record = json.loads((results / "test.json").read_text(encoding="utf-8"))
    assert record["input_size"] == [48, 64] and record["knowledge"]["datasets"]["custom"]["train"] == 4


def test_run_is_not_continued_with_changed_photographs_or_maps(tiny_dataset, tmp_path, capsys):
    folder, results = tiny_dataset(count=3), tmp_path / "results"
    assert run(folder, "--epochs", "1", "--results", str(results)) == 0
    for changed in (folder / "stimuli" / "0001.png", folder / "saliency" / "0002.png"):
        before = changed.read_bytes()
        shutil.copyfile(changed.with_name("0000.png"), changed)
        assert run(folder, "--epochs", "2", "--results", str(results)) == 2
        error = capsys.readouterr().err
        assert "photographs or saliency maps have changed" in error and error.count("\n") == 1
        changed.write_bytes(before)
    for kind in ("stimuli", "saliency", "fixations"):
        (folder / kind / "0001.png").rename(folder / kind / "0009.png")
    assert run(folder, "--epochs", "2", "--results", str(results)) == 2
    assert "other images train or validate" in capsys.readouterr().err


def test_run_that_was_split_by_an_earlier_version_is_not_continued(tiny_dataset, tmp_path, monkeypatch, capsys):
    folder, results = tiny_dataset(count=3), tmp_path / "results"
    assert run(folder, "--epochs", "1", "--results", str(results)) == 0
    attributes = checkpoint.read_attributes(results / "ckpts" / "latest" / "custom.weights.h5")
    for key in ("split", "files", "custom_split"):
        del attributes["settings"][key]
    monkeypatch.setattr(checkpoint, "read_attributes", lambda path: attributes)
    assert run(folder, "--epochs", "2", "--results", str(results)) == 2
    assert "custom_split was by shuffling, now by name" in capsys.readouterr().err


def test_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(tiny_dataset, tmp_path, monkeypatch):
    folder, results = tiny_dataset(count=3), tmp_path / "results"
    assert run(folder, "--epochs", "1", "--results", str(results)) == 0
    before = (results / "ckpts" / "latest" / "custom.weights.h5").read_bytes()
    monkeypatch.setattr(train, "kld", lambda true, predicted: predicted[:, 0, 0, 0] * float("nan"))
    groups = [data.load_groups("custom", folder, (48, 64))]
    params = {**PARAMS, "learning_rate": 1e-3, "epochs": 2, "results": str(results)}
    with pytest.raises(UserError, match=r"loss became nan in epoch 2, step 1; the last good checkpoint is"):
        train.train("custom", groups, params, variant="lite", init="scratch")
    assert (results / "ckpts" / "latest" / "custom.weights.h5").read_bytes() == before


def test_memory_that_is_too_small_is_one_clear_line(tiny_dataset, tmp_path, monkeypatch, capsys):
    def exhaust(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(train.keras.Model, "fit", exhaust)
    assert run(tiny_dataset(count=3), "--results", str(tmp_path / "results")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--batch-size" in error


def test_checkpoint_that_does_not_fit_on_the_disk_is_not_begun(tmp_path, monkeypatch):
    network = model.build_model(width=0.25)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7_000_000))
    with pytest.raises(UserError, match=r"The disk is full: 7 MB are to be written into .*, and 7 MB are free"):
        checkpoint.save_checkpoint(network, tmp_path / "results" / "x.weights.h5", {})
    assert not list((tmp_path / "results").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=8_000_000))
    checkpoint.save_checkpoint(network, tmp_path / "results" / "x.weights.h5", {})


def test_dataset_without_validation_images_is_refused(tiny_dataset, tmp_path, capsys):
    flags = ("--valid-fraction", "0", "--results", str(tmp_path))
    assert run(tiny_dataset(count=3), *flags) == 2
    assert "--valid-fraction" in capsys.readouterr().err


def test_fine_tuning_starts_from_the_best_salicon_checkpoint(tiny_dataset, tmp_path, capsys):
    results = tmp_path / "results"
    salicon = model.build_model(width=0.25, batch_norm=True, seed=7)
    train.compile_model(salicon, PARAMS, steps=1)
    checkpoint.save_checkpoint(salicon, results / "ckpts" / "best" / "salicon.weights.h5", {})
    groups = [data.load_groups("custom", tiny_dataset(count=3), (48, 64))]
    params = {**PARAMS, "epochs": 1, "results": str(results), "learning_rate": 1e-12}
    train.train("custom", groups, params, variant="lite")
    assert "salicon.weights.h5" in capsys.readouterr().out
    tuned = checkpoint.read_arrays(results / "ckpts" / "best" / "custom.weights.h5")
    for name, values in checkpoint.arrays_of(salicon).items():
        if "moving" not in name:
            np.testing.assert_allclose(tuned[name], values, atol=1e-6)


if __name__ == "__main__":  # Run by the first test, with other kernels.
    print(json.dumps(five_steps(np.load(FIXTURES / "training.npz"))))
