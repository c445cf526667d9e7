"""Training: the published numbers, resuming, and what a run leaves behind."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import FIXTURES, run_with_published_kernels, seeded_arrays, set_arrays

from msinet import checkpoint, data, loss, main, model
from msinet.config import PARAMS, SPEED, VERSION, defaults
from msinet.phases.training import batches, callbacks, fit, optimizer
from msinet.phases.training.run import Run
from msinet.utils import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tiny_dataset, results, eager):
    """`train` the narrow network from scratch for an epoch: the exit status. Four photographs train in two steps."""

    def command(results):
        flags = ["-d", "custom", "-p", train_some.folder, "--variant", "narrow", "--input-size", "48", "64"]
        flags += ["--init", "scratch", "--learning-rate", "1e-3", "--batch-size", "2", "--epochs", "1"]
        return list(map(str, ["train", *flags, "--results", results]))

    def train_some(*flags, results=results):
        return main.main([*command(results), *flags])

    train_some.command, train_some.folder = command, tiny_dataset(count=5)
    return train_some


def history(results: Path) -> list[dict]:
    with (results / "history" / "custom.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_losses_of_five_steps_are_the_published_ones(fixture):
    numbers = fixture("training.npz")
    found = run_with_published_kernels(__file__)
    np.testing.assert_allclose(found["losses"], numbers["losses"], rtol=0, atol=1e-5)
    assert len(found["changes"]) == len(numbers["delta_norms"]) == 46
    # The last is the bias of the map, which normalization removes again: its gradient is rounding noise.
    np.testing.assert_allclose(found["changes"][:-1], numbers["delta_norms"][:-1], rtol=1e-3)


def five_steps(numbers) -> dict:
    """Losses before each step and after the last, and how far each array has moved by then."""
    network = model.build_model()
    before = seeded_arrays(network)
    set_arrays(network, before)
    optimizer.compile_model(network, defaults(), steps=5)
    losses = [network.train_on_batch(numbers["input"], numbers["target"]) for _ in range(5)]
    losses.append(network.test_on_batch(numbers["input"], numbers["target"]))
    after = checkpoint.arrays_of(network)
    changes = [np.linalg.norm(after[name] - values) for name, values in before.items()]
    return {"losses": [float(loss) for loss in losses], "changes": [float(change) for change in changes]}


def test_run_leaves_checkpoints_history_curve_and_record(run, results, capsys):
    assert run("--epochs", "2") == 0
    rows = history(results)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(row["val_loss"])) for row in rows)
    assert (results / "history" / "custom.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((results / "history" / "custom.json").read_text(encoding="utf-8"))
    assert record["settings"]["train"] == [[4, 48, 64]] and record["settings"]["valid"] == [[1, 48, 64]]
    assert record["initial_weights"] == "random weights (He initialization)"  # Not the run's own last epoch.
    assert record["epochs_done"] == 2 and record["versions"]["tensorflow"]
    best = min(range(2), key=lambda i: float(rows[i]["val_loss"]))
    attributes = checkpoint.read_attributes(results / "ckpts" / "best" / "custom.weights.h5")
    assert len(attributes["history"]) == best + 1
    with h5py.File(results / "ckpts" / "best" / "custom.weights.h5") as file:
        assert "layers" in file and "optimizer" not in file
    assert not [file for file in results.rglob(".*") if file.is_file()]
    output = capsys.readouterr().out
    assert "Epoch 2/2: loss" in output and "validation loss" in output
    assert "Only 1 image to choose the best epoch" in output
    # A finished run says so, and another batch size must start over.
    assert run("--epochs", "2") == 0
    assert "This run is finished: 2 epochs of 2" in capsys.readouterr().out
    assert run("--epochs", "3", "--batch-size", "1") == 2
    assert "batch_size was 2, now 1" in capsys.readouterr().err
    assert run("--batch-size", "1", "--restart") == 0
    assert len(history(results)) == 1


def assert_same_losses(results: Path, others: Path) -> None:
    for row, other in zip(history(results), history(others), strict=True):
        for name in ("loss", "val_loss"):
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-5)


def test_continued_run_gives_the_losses_of_an_uninterrupted_one(run, results, tmp_path):
    flags = ("--mirror", "--color", "0.2", "--crop", "0.2", "--weight-decay", "0.01")
    flags += ("--weight-average", "0.9", "--cc-weight", "1", "--nss-weight", "0.1", "--warmup-steps", "1")
    assert run(*flags, "--epochs", "2", results=tmp_path / "straight") == 0
    assert run(*flags, "--epochs", "1") == run(*flags, "--epochs", "2") == 0
    assert_same_losses(tmp_path / "straight", results)


def test_killed_run_continues_from_its_last_complete_epoch(run, results, tmp_path, eager):
    eager(False)  # As the killed process; otherwise, losses differ in the fifth digit.
    command = [sys.executable, "main.py", *run.command(results), "--epochs", "200"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        assert any(line.startswith("Epoch 1/") for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    done = len(checkpoint.read_attributes(results / "ckpts" / "latest" / "custom.weights.h5")["history"])
    assert run("--epochs", str(done + 1)) == run("--epochs", str(done + 1), results=tmp_path / "straight") == 0
    assert_same_losses(tmp_path / "straight", results)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"seed": 1}, {"seed": 1, "sigma": None, "valid_fraction": 0.2}, None),
        ({"seed": 1}, {"seed": 2, "sigma": None}, "seed was 1, now 2"),
        ({"seed": 1}, {"seed": 1, "cc_weight": 0.0, "scales": [1.0]}, None),  # An earlier version had the defaults.
        ({"seed": 1}, {"seed": 1, "cc_weight": 1.0}, "cc_weight was 0.0, now 1.0"),
        ({}, {"custom_split": "by name"}, "custom_split was by shuffling, now by name"),
        ({"files": "a"}, {"files": "b"}, "photographs or saliency maps have changed"),
        ({"train": [[35, 12, 16]]}, {"train": [[9, 24, 32]]}, "train was 35 images at 12×16, now 9 images at 24×32"),
        ({"init": "scratch"}, {"init": None}, None),
        ({"init": "scratch"}, {"init": "/nonexistent"}, "init was scratch, now /nonexistent"),
    ],
)
def test_run_is_only_continued_with_the_same_settings(tmp_path, monkeypatch, before, now, message):
    attributes = {"settings": before, "history": [{"epoch": 1}], "start": "random weights", "epochs": 5}
    monkeypatch.setattr(checkpoint, "read_attributes", lambda path: attributes)
    continued = Run(tmp_path, "custom", now)
    if message:
        with pytest.raises(UserError, match=message):
            continued.read()
    else:
        continued.read()
        assert continued.history == [{"epoch": 1}] and continued.epochs_before == 5
        assert continued.beginning() == f"epoch 1 of {continued.latest_path}; first from random weights"
        assert continued.settings["init"] == before.get("init")


def test_run_of_an_earlier_version_that_calls_the_narrow_network_lite_is_resumed(results, monkeypatch):
    earlier = {
        "settings": {"variant": "lite", "context": "aspp"},
        "history": [{"val_loss": 1}],
        "start": "random weights",
    }
    monkeypatch.setattr(checkpoint, "read_attributes", lambda path: earlier)
    resumed = Run(results, "custom", {"variant": "narrow", "context": "aspp"})
    resumed.read()
    assert resumed.resumed_after == 1
    with pytest.raises(UserError, match="variant was narrow, now lite"):
        Run(results, "custom", {"variant": "lite", "context": "efficientnet-lite0"}).read()


def test_checkpoints_record_their_training(run, results):
    assert run() == 0
    for kind in ("latest", "best"):
        known = checkpoint.read_knowledge(results / "ckpts" / kind / "custom.weights.h5")
        train_names, valid_names = known.datasets["custom"].train, known.datasets["custom"].valid
        assert (known.input_size, known.context, known.variant) == ((48, 64), "aspp", "narrow")
        assert (known.valid_fraction, known.version, known.settings["seed"]) == (0.2, VERSION, 42)
        assert len(train_names) == 4 and {*train_names, *valid_names} == {f"{i:04d}" for i in range(5)}
        assert known.datasets["custom"].sha256 == data.names_hash(train_names, valid_names)
    # Neither of these commands names the input size.
    test = ["test", "-d", "custom", "-p", str(run.folder / "stimuli"), "--results", str(results)]
    assert main.main(test) == 0
    record = json.loads((results / "test.json").read_text(encoding="utf-8"))
    assert record["input_size"] == [48, 64] and record["knowledge"]["datasets"]["custom"]["train"] == 4


def test_run_is_not_continued_with_changed_photographs_or_maps(run, capsys):
    assert run() == 0
    for changed in (run.folder / "stimuli" / "0001.png", run.folder / "saliency" / "0002.png"):
        before = changed.read_bytes()
        shutil.copyfile(changed.with_name("0000.png"), changed)
        assert run("--epochs", "2") == 2
        error = capsys.readouterr().err
        assert "photographs or saliency maps have changed" in error and error.count("\n") == 1
        changed.write_bytes(before)
    for kind in ("stimuli", "saliency", "fixations"):
        (run.folder / kind / "0001.png").rename(run.folder / kind / "0009.png")
    assert run("--epochs", "2") == 2
    assert "the training or validation images are not the same" in capsys.readouterr().err


def test_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(run, results, monkeypatch, capsys):
    assert run() == 0
    before = (results / "ckpts" / "latest" / "custom.weights.h5").read_bytes()
    monkeypatch.setattr(optimizer, "kld", lambda true, predicted: predicted[:, 0, 0, 0] * float("nan"))
    assert run("--epochs", "2") == 2
    assert "loss became nan in epoch 2, step 1; the last good checkpoint is" in capsys.readouterr().err
    assert (results / "ckpts" / "latest" / "custom.weights.h5").read_bytes() == before


def compiled_model(**params):
    network = model.build_model(width=0.125, seed=1)
    optimizer.compile_model(network, {**defaults(), **params}, steps=1)
    return network


def row_of(epoch: int, val_loss: float = 1.0) -> dict:
    return {"epoch": epoch, "loss": 1.0, "val_loss": val_loss, "learning_rate": 1e-3, "seconds": 1.0}


NOT_A_NUMBER = "not a number; no epoch was completed. Try a smaller --learning-rate"


@pytest.mark.parametrize(
    ("fault", "val_loss", "words"),
    [
        ("loss", np.nan, NOT_A_NUMBER),
        ("weight", 1.0, NOT_A_NUMBER),
        ("optimizer", 1.0, NOT_A_NUMBER),
        ("map", 0.0, "epoch 1, the validation loss is exactly 0.* maps of the validation .* black"),
    ],
)
def test_nothing_with_an_impossible_loss_or_weights_that_are_not_numbers_is_saved(tmp_path, fault, val_loss, words):
    network, run = compiled_model(), Run(tmp_path, "custom", {})
    if fault == "weight":
        network.variables[-1].assign([np.inf])
    if fault == "optimizer":
        next(v for v in network.optimizer.variables if "velocity" in v.path and v.shape == (1,)).assign([np.nan])
    with pytest.raises(UserError, match=words):
        run.save(network, row_of(1, val_loss))
    assert run.history == [] and not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_run_without_a_best_epoch_says_so(tmp_path):
    run = Run(tmp_path, "custom", {"learning_rate": 7.0})
    run.history = [row_of(1, float("nan")), row_of(1, 0.0)]  # An earlier version saved such losses.
    with pytest.raises(UserError, match=r"no best checkpoint. Start over with --restart and a --learning-rate below 7"):
        run.best()
    run.history.append(row_of(2, 3.0))
    assert run.best() == 3.0


def test_running_average_of_the_weights_validates_and_is_the_best_checkpoint(run, results):
    assert run("--weight-average", "0.9", "--cc-weight", "0.5", "--nss-weight", "0.25") == 0
    best = checkpoint.read_arrays(results / "ckpts" / "best" / "custom.weights.h5")
    latest = checkpoint.read_arrays(results / "ckpts" / "latest" / "custom.weights.h5")
    assert any(np.abs(best[name] - latest[name]).max() > 1e-5 for name in best)
    network = model.build_model(width=0.25, batch_norm=True)
    checkpoint.assign(network, best)
    row = {key: float(value) for key, value in history(results)[0].items()}
    valid = data.load_groups("custom", run.folder, (48, 64))[1]
    images, truths = next(iter(batches.load_batches(batches.validation_plan([valid], 1))))
    maps = network(images, training=False)
    for name in ("kld", "cc", "nss"):
        assert row[f"val_{name}"] == pytest.approx(float(getattr(loss, name)(truths, maps)[0]), abs=1e-4)
    for part in ("", "val_"):
        total = row[f"{part}kld"] + 0.5 * (1 - row[f"{part}cc"]) - 0.25 * row[f"{part}nss"]
        assert row[f"{part}loss"] == pytest.approx(total, abs=1e-4)


def test_averaged_weights_are_swapped_in_and_out_exactly():
    network = compiled_model(weight_average=0.75)
    images = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    states = []
    for _ in range(3):
        network.train_on_batch(images, images[..., :1])
        states.append(checkpoint.arrays_of(network))
    with callbacks.averaged_weights(network):
        inside = checkpoint.arrays_of(network)
    for name, last in checkpoint.arrays_of(network).items():
        np.testing.assert_array_equal(last, states[-1][name])
        expected = 0.75 * (0.75 * states[0][name] + 0.25 * states[1][name]) + 0.25 * states[2][name]
        np.testing.assert_allclose(inside[name], expected, rtol=1e-4, atol=1e-7)


def test_float16_scales_the_loss_and_its_checkpoint_holds_float32(tmp_path):
    network = model.build_model(width=0.125, seed=1, precision="float16")
    optimizer.compile_model(network, {**defaults(), "precision": "float16", "weight_average": 0.9}, steps=1)
    assert isinstance(network.optimizer, keras.optimizers.LossScaleOptimizer)
    before, images = checkpoint.arrays_of(network), np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3))
    for _ in range(12):  # The scale is halved until the gradients fit into float16.
        assert np.isfinite(network.train_on_batch(images, images[..., :1]))
    after = checkpoint.arrays_of(network)
    assert any(np.abs(after[name] - before[name]).max() > 0 for name in before)
    run = Run(tmp_path, "custom", {})
    run.save(network, row_of(1))
    with h5py.File(run.latest_path) as file:
        kinds = {value.dtype for value in find_datasets(file["layers"])}
    assert kinds == {np.dtype("float32")}
    checkpoint.load_checkpoint(network, run.latest_path)


def find_datasets(group) -> list:
    found = []
    group.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def test_bfloat16_training_leaves_float32_weights_and_says_so_in_its_record(run, results, bfloat16):
    assert run("--precision", "bfloat16") == 0
    record = json.loads((results / "history" / "custom.json").read_text(encoding="utf-8"))
    assert record["settings"]["precision"] == "bfloat16"
    with h5py.File(results / "ckpts" / "latest" / "custom.weights.h5") as file:
        kinds = {value.dtype for key in ("layers", "optimizer") for value in find_datasets(file[key])}
    assert np.dtype("float32") in kinds and all(kind == np.float32 or kind.kind == "i" for kind in kinds)


def test_tensorboard_gets_losses_and_learning_rate(run, results):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    assert run("--tensorboard") == 0
    tags = set()
    for part in ("train", "validation"):
        for file in (results / "tensorboard" / "custom" / part).glob("events*"):
            for record in tf.data.TFRecordDataset(str(file)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                tags |= {f"{part}/{value.tag}" for value in event.summary.value}
    assert {"train/epoch_loss", "train/epoch_learning_rate", "validation/epoch_loss"} <= tags


def test_missing_tensorboard_prints_one_line(run, monkeypatch, capsys):
    monkeypatch.setattr(fit.importlib.util, "find_spec", lambda name: None)
    assert run("--tensorboard") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install tensorboard" in error


def test_second_training_of_a_run_is_rejected_and_names_the_first(run, results, capsys):
    with Run(results, "custom", {}).lock():
        assert run() == 2
    assert f"process {os.getpid()}, since 20" in capsys.readouterr().err
    with Run(results, "custom", {}).lock():
        pass


def test_warmup_works_without_cosine_decay_and_never_dominates_a_run():
    def rates(epochs, *steps, **params):
        rate = optimizer.learning_rate({**defaults(), "learning_rate": 1.0, "epochs": epochs, **params}, 10)
        return [pytest.approx(float(rate(step)), abs=1e-6) for step in steps]

    assert rates(10, 0, 5, 20, 90, warmup_steps=20) == [0, 0.25, 1, 1]
    assert rates(10, 0, 5, 20, 60, 100, warmup_steps=20, cosine_decay=True) == [0, 0.25, 1, 0.5, 0]
    assert rates(2, 0, 1, 2, 11, 20, warmup_steps=200, cosine_decay=True) == [0, 0.5, 1, 0.5, 0]
    assert optimizer.learning_rate(defaults(), 10) == PARAMS["learning_rate"].value


def test_shortened_warm_up_and_stretched_cosine_are_explained():
    params = {**defaults(), "learning_rate": 1.0, "epochs": 2, "cosine_decay": True}
    assert optimizer.explain_learning_rate(params, 10, 1, 2) == []
    params |= {"epochs": 4, "warmup_steps": 200}
    warmup, decay = optimizer.explain_learning_rate(params, 10, 1, 2)
    assert "rises over 4 steps instead of 200, which would be most of this training's 40" in warmup
    assert "started with --epochs 2 and now has 4: the learning rate continues with 0.9" in decay


@pytest.mark.parametrize(
    ("flags", "size", "pixels"), [(["auto"], (320, 240), 240 * 320), (["56", "72"], (56, 72), None)]
)
def test_input_size_auto_gives_each_photograph_the_size_of_its_shape(
    run, results, tiny_dataset, monkeypatch, flags, size, pixels
):
    tiny_dataset(count=5, height=64, width=48)
    plans = []

    def stop(strategy, plan, augmentation=None):
        plans.append(plan)
        raise UserError("enough")

    monkeypatch.setattr(fit, "feed", stop)
    assert run("--input-size", *flags) == 2
    assert {batch.size for batch in plans[0]} == {size}
    record = json.loads((results / "history" / "custom.json").read_text(encoding="utf-8"))
    assert record["settings"]["fit_pixels"] == pixels


@pytest.mark.parametrize("key", PARAMS)
def test_resumed_run_must_match_every_parameter_that_affects_more_than_speed(tiny_dataset, key):
    groups = {"custom": data.load_groups("custom", tiny_dataset(count=3), (48, 64))}
    settings = fit.settings_of(groups, defaults(), variant="narrow", context="aspp", init=None, fit_pixels=None)
    assert (key in settings) == (PARAMS[key].affects != SPEED and key != "epochs")


def test_out_of_memory_prints_one_line(run, monkeypatch, capsys):
    def exhaust(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "fit", exhaust)
    assert run() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--batch-size" in error


def test_checkpoint_that_does_not_fit_on_the_disk_is_not_started(tmp_path, monkeypatch):
    network = model.build_model(width=0.25)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7_000_000))
    with pytest.raises(UserError, match=r"The disk is full: .* needs 7 MB, and 7 MB are free"):
        checkpoint.save_checkpoint(network, tmp_path / "results" / "x.weights.h5", {})
    assert not list((tmp_path / "results").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=8_000_000))
    checkpoint.save_checkpoint(network, tmp_path / "results" / "x.weights.h5", {})


def test_dataset_without_validation_images_is_rejected(run, capsys):
    assert run("--valid-fraction", "0") == 2
    assert "--valid-fraction" in capsys.readouterr().err


def test_fine_tuning_starts_from_the_best_salicon_checkpoint(tiny_dataset, results, capsys, eager):
    salicon = model.build_model(width=0.25, batch_norm=True, seed=7)
    optimizer.compile_model(salicon, defaults(), steps=1)
    checkpoint.save_checkpoint(salicon, results / "ckpts" / "best" / "salicon.weights.h5", {})
    groups = {"custom": data.load_groups("custom", tiny_dataset(count=3), (48, 64))}
    fit.train(groups, {**defaults(), "epochs": 1, "results": str(results), "learning_rate": 1e-12}, variant="narrow")
    assert "salicon.weights.h5" in capsys.readouterr().out
    tuned = checkpoint.read_arrays(results / "ckpts" / "best" / "custom.weights.h5")
    for name, values in checkpoint.arrays_of(salicon).items():
        if "moving" not in name:
            np.testing.assert_allclose(tuned[name], values, atol=1e-6)


if __name__ == "__main__":  # Run by the first test, with other kernels.
    print(json.dumps(five_steps(np.load(FIXTURES / "training.npz"))))
