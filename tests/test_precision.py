"""Prediction in lower precision, and by several devices: what it may change, and what it must not."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import checkpoint
import main
import model
import msinet
from data import read_header
from images import IMAGE_PADDING, read_image, resize_and_pad
from utils import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fitted():
    """The photograph that Matplotlib ships, as a batch of the network's input."""
    path = main.sample_photograph()
    return resize_and_pad(read_image(path, read_header(path)), (240, 320), IMAGE_PADDING)[None]


def test_bfloat16_moves_hardly_a_pixel_of_the_trained_networks_map_by_more_than_one_gray_level(fitted):
    network = msinet.load("lite")
    exact, low = (
        np.round(255 * replace(network, precision=precision)(fitted).numpy()) for precision in ("float32", "bfloat16")
    )
    off = np.abs(exact - low)
    assert 0 < off.max() <= 3
    assert (off > 1).mean() <= 0.005


def nodes(network: msinet.Network) -> dict[str, tf.DType]:
    """What each convolution of a network's graph computes in, by the name of its kernel."""
    graph = network.graph.get_concrete_function().graph
    convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
    return {op.inputs[1].op.name.rpartition("/")[0]: op.outputs[0].dtype for op in convolutions}


@pytest.fixture(scope="module")
def narrow():
    return msinet.from_arrays(checkpoint.arrays_of(model.build_model(width=0.125, seed=5)), (48, 64))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_all_convolutions_but_the_first_and_the_last_two_are_converted_with_what_lies_between_them(precision, narrow):
    network = replace(narrow, precision=precision)
    found = nodes(network)
    exact = ("conv1/conv1_1", "decoder/conv3", "decoder/conv4")
    assert len(found) == 23 and {found.pop(name) for name in exact} == {tf.float32}
    assert set(found.values()) == {tf.as_dtype(precision)}
    graph = network.graph.get_concrete_function().graph
    between = [op for op in graph.get_operations() if op.type in ("Relu", "BiasAdd", "MaxPool", "ConcatV2")]
    inputs = {(op.type, op.inputs[0].dtype) for op in between}
    assert inputs == {("BiasAdd", tf.float32), ("Relu", tf.float32)} | {
        (kind, tf.as_dtype(precision)) for kind in ("Relu", "BiasAdd", "MaxPool", "ConcatV2")
    }
    kernels = {op.get_attr("dtype") for op in graph.get_operations() if op.name.endswith("conv1_2/kernel")}
    assert kernels == {tf.as_dtype(precision)}  # Cast once, not in every call.
    assert graph.outputs[0].dtype == tf.float32


def test_rounding_errors_of_a_kernel_cancel():
    kernel = np.random.default_rng(0).normal(0, 0.02, (3, 3, 64, 8)).astype(np.float32)
    rounded = model.rounded_kernel(kernel, tf.bfloat16.as_numpy_dtype)
    assert rounded.dtype == tf.bfloat16 and rounded.shape == kernel.shape
    errors = rounded.astype(np.float32) - kernel
    step = 2.0**-12  # Between neighbouring numbers of bfloat16 below 0.0625, which is more than three deviations.
    assert np.abs(errors).max() <= 2 * step
    # The sum over a filter, and over the nine weights of each of its inputs.
    assert np.abs(errors.sum((0, 1, 2))).max() <= step
    assert np.abs(errors.sum((0, 1))).max() <= 2 * step
    nearest = kernel.astype(tf.bfloat16.as_numpy_dtype).astype(np.float32) - kernel
    assert np.abs(nearest.sum((0, 1, 2))).max() > 3 * step  # What it is for.


def test_float32_has_no_cast(narrow):
    graph = narrow.graph.get_concrete_function().graph
    assert set(nodes(narrow).values()) == {tf.float32}
    assert not [op for op in graph.get_operations() if op.type == "Cast"]


def test_run_records_name_the_precision(tiny_dataset, narrow, tmp_path, capsys):
    folder, weights = tiny_dataset(count=3), tmp_path / "narrow.npz"
    np.savez(weights, **narrow.arrays)
    common = ["--weights", str(weights), "--input-size", "48", "64", "--results", str(tmp_path)]
    for precision in ("float32", "bfloat16"):
        flags = [*common, "--precision", precision]
        assert main.main(["test", "-p", str(folder / "stimuli"), *flags, "--format", "npy"]) == 0
        assert f", {precision}." in capsys.readouterr().out
        assert json.loads((tmp_path / "test.json").read_text())["precision"] == precision
        (tmp_path / "images").rename(tmp_path / precision)
    exact, low = (np.load(tmp_path / precision / "0000.npy") for precision in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - low).max() < 0.05

    evaluation = ["evaluate", "-d", "custom", "-p", str(folder), "--split", "all", *common, "--name", "run"]
    assert main.main([*evaluation, "--precision", "bfloat16"]) == 0
    summary = json.loads((tmp_path / "evaluation" / "run" / "summary.json").read_text())
    assert summary["models"]["narrow"]["precision"] == "bfloat16"
    assert summary["contenders"]["narrow"]["precision"] == "bfloat16"
    assert main.main(evaluation) == 2  # In float32 it is another run.
    assert "other settings" in capsys.readouterr().err


def test_precision_that_this_machine_cannot_use_is_refused_or_said(narrow, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    weights = tmp_path / "narrow.npz"
    np.savez(weights, **narrow.arrays)
    flags = ["test", "--weights", str(weights), "--input-size", "48", "64", "--results", str(tmp_path)]
    assert main.main([*flags, "--precision", "float16"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--precision float16 was asked for, but TensorFlow sees no GPU" in error
    monkeypatch.setattr(model, "processor_has_bfloat16", lambda: False)
    assert main.main([*flags, "--precision", "bfloat16"]) == 0
    assert capsys.readouterr().out.count("will not be faster here") == 1
    with pytest.raises(UserError, match="Received the precision 'half', expected one of float32, bfloat16, float16"):
        msinet.load(weights, precision="half")


# --- Several devices --------------------------------------------------------------------------------------------------


def test_more_gpus_than_there_are_is_one_clear_line(narrow, tmp_path, monkeypatch, capsys):
    weights = tmp_path / "narrow.npz"
    np.savez(weights, **narrow.arrays)
    found = [tf.config.LogicalDevice(f"/device:GPU:{i}", "GPU") for i in range(2)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: found)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found)
    assert main.main(["test", "--weights", str(weights), "--gpus", "3", "--results", str(tmp_path)]) == 2
    assert "--gpus 3 was asked for, but TensorFlow sees 2" in capsys.readouterr().err
    assert msinet.load(weights).gpus == ("/device:GPU:0", "/device:GPU:1")
    assert msinet.load(weights, gpus=1).gpus == ("/device:GPU:0",)
    assert msinet.load(weights, device="cpu").gpus == ()


def test_maps_of_two_devices_are_those_of_one_in_the_same_order(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    finished = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["difference"] == 0 and found["different photographs"]
    # Seven photographs, two at a time: the batches go to the devices in turn.
    assert found["devices"] == {"CPU:0": [2, 2], "CPU:1": [2, 1]}
    assert found["failures"] == [3]


def two_devices() -> dict:
    """Predict seven photographs on one device, and then with batches dealt out to two."""
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    one = msinet.from_arrays(checkpoint.arrays_of(model.build_model(width=0.125, seed=5)), (48, 64))
    two = replace(one, gpus=("CPU:0", "CPU:1"))
    random = np.random.default_rng(0)
    photographs = [random.integers(0, 255, (40 + i, 60, 3), np.uint8) for i in range(7)]
    used: dict[str, list[int]] = {"CPU:0": [], "CPU:1": []}
    graph_on = msinet.Network._graph_on

    def watched(self, device):
        graph = graph_on(self, device)

        def maps(images):
            placed = {op.device for op in graph.get_concrete_function().graph.get_operations() if op.type == "Conv2D"}
            used[placed.pop().rpartition("device:")[2]].append(len(images))
            return graph(images)

        return maps

    expected = list(one.predict_many(photographs, 2))
    msinet.Network._graph_on = watched
    found = list(two.predict_many(photographs, 2))
    devices = {name: list(batches) for name, batches in used.items()}
    damaged = [*photographs[:3], Path("missing.jpg"), *photographs[3:]]
    failures = [i for i, row in enumerate(replace(one, gpus=two.gpus).predictions(damaged)) if row.error]
    return {
        "difference": max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True)),
        "different photographs": float(np.abs(expected[0][:40] - expected[1][:40]).max()) > 0.01,
        "devices": devices,
        "failures": failures,
    }


if __name__ == "__main__":  # Run by the last test.
    print(json.dumps(two_devices()))
