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
from conftest import seeded_arrays

import checkpoint
import main
import model
import msinet
import precision as precision_module
from data import read_header
from images import IMAGE_PADDING, read_image, resize_and_pad
from photographs import sample_photograph
from utils import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fitted():
    """The photograph that Matplotlib ships, as a batch of the network's input."""
    path = sample_photograph()
    return resize_and_pad(read_image(path, read_header(path)), (240, 320), IMAGE_PADDING)[None]


def differences(network: msinet.Network, *batches) -> np.ndarray:
    """By how many gray levels of 255 bfloat16 moves each pixel of the maps."""
    low = replace(network, precision="bfloat16")
    return np.abs([np.round(255 * network(batch)) - np.round(255 * low(batch)) for batch in batches])


def test_bfloat16_moves_hardly_a_pixel_of_the_trained_networks_map_by_more_than_one_gray_level(fitted):
    off = differences(msinet.load("lite"), fitted)
    assert 0 < off.max() <= 3
    assert (off > 1).mean() <= 0.005


def test_bfloat16_moves_few_pixels_of_a_random_full_networks_maps_by_more_than_one_gray_level():
    """Without `centred_convolutions` it would be up to 5 gray levels, and a tenth of the pixels."""
    path = sample_photograph()
    whole = read_image(path, read_header(path))
    parts = [whole, whole[::-1], whole[:300], whole[300:], whole[:400, :300], whole[:, 200:]]
    network = msinet.from_arrays(seeded_arrays(model.build_model()), (240, 320))
    off = differences(network, *(resize_and_pad(part, (240, 320), IMAGE_PADDING)[None] for part in parts))
    assert 0 < off.max() <= 3
    assert (off > 1).mean() <= 0.02


def nodes(network: msinet.Network) -> dict[str, tf.DType]:
    """What each convolution of a network's graph computes in, by the name of its kernel."""
    graph = network.graph.get_concrete_function().graph
    convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
    return {op.inputs[1].op.name.removesuffix("/kernel"): op.outputs[0].dtype for op in convolutions}


@pytest.fixture(scope="module")
def narrow():
    return msinet.from_arrays(checkpoint.arrays_of(model.build_model(width=0.125, seed=5)), (48, 64))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_all_convolutions_but_the_first_and_the_last_are_converted_with_what_lies_between_them(precision, narrow):
    network = replace(narrow, precision=precision)
    found, half = nodes(network), tf.as_dtype(precision)
    assert {found.pop(name) for name in precision_module.EXACT} == {tf.float32}
    # The others, and those that find what ones around their input would bring, at an eighth of the resolution.
    assert len(found) == (21 + 9 if precision == "bfloat16" else 21)
    assert set(found.values()) == {half}

    operations = network.graph.get_concrete_function().graph.get_operations()
    clip = "Maximum" if precision == "bfloat16" else "Relu"
    between = {(op.type, op.inputs[0].dtype) for op in operations if op.type in (clip, "PadV2", "MaxPool", "ConcatV2")}
    assert {kind for kind, dtype in between if dtype == half} >= {clip, "MaxPool", "ConcatV2"}
    # What follows the first and comes before the last.
    assert {kind for kind, dtype in between if dtype == tf.float32} <= {"Relu", "PadV2"}
    doubled = {op.outputs[0].dtype for op in operations if op.type in ("ResizeBilinear", "AvgPool")}
    assert doubled == {half if precision == "bfloat16" else tf.float32}
    kernels = {op.get_attr("dtype") for op in operations if op.name.endswith("conv1_2/kernel")}
    assert kernels == {half}  # Cast once, not in every call.
    assert network.graph.get_concrete_function().outputs[0].dtype == tf.float32


@pytest.mark.parametrize(("name", "filters", "pixels"), [(model.LAST, 1, 8), ("decoder/conv3", 8, 2)])
def test_neighbouring_pixels_convolved_at_once_are_those_convolved_one_by_one(name, filters, pixels):
    assert precision_module.together(name, filters) == pixels
    assert precision_module.together("decoder/conv2", 8) == precision_module.together(name, 32) == 1
    random = np.random.default_rng(0)
    x, kernel = (random.standard_normal(shape).astype(np.float32) for shape in ((2, 9, 24, 5), (3, 3, 5, filters)))
    bias = np.arange(filters, dtype=np.float32)
    for padding in ("SAME", "VALID"):
        padded = x if padding == "SAME" else np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1)
        found = precision_module.convolve(padded, kernel, bias, name, "channels_last", 1, padding, relu=True)
        expected = tf.nn.relu(tf.nn.conv2d(padded, kernel, 1, padding) + bias)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rounding_errors_of_neighbouring_weights_cancel():
    kernel = np.random.default_rng(0).normal(0, 0.02, (3, 3, 64, 8)).astype(np.float32)
    half = precision_module.rounded_kernel(kernel, tf.bfloat16.as_numpy_dtype)
    assert half.dtype == tf.bfloat16 and half.shape == kernel.shape
    errors = half.astype(np.float32) - kernel
    step = 2.0**-12  # Between neighbouring numbers of bfloat16 below 0.0625, which is more than three deviations.
    assert np.abs(errors).max() <= step
    assert np.abs(errors.sum((0, 1))).max() <= step / 2
    nearest = kernel.astype(tf.bfloat16.as_numpy_dtype).astype(np.float32) - kernel
    assert np.std(nearest.sum((0, 1))) > 2 * np.std(errors.sum((0, 1)))  # What it is for.


# --- Activations around their means -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def equal(narrow):
    return precision_module.equalised(narrow.arrays, precision_module.typical_activations(narrow.arrays)[0])


def test_activations_of_random_weights_vary_little_and_those_of_the_trained_network_do_not(narrow):
    assert precision_module.typical_activations(narrow.arrays)[1]
    assert not precision_module.typical_activations(msinet.load("lite").arrays)[1]


def test_equalised_weights_make_the_same_map_of_activations_around_one(narrow, equal, fitted):
    expected = narrow(fitted)
    assert np.abs(msinet.from_arrays(equal, (240, 320))(fitted) - expected).max() < 1e-5
    means, _ = precision_module.typical_activations(equal)
    assert len(means) == 22
    for name, mean in means.items():
        assert mean.max() < 1.5, name
        assert np.abs(mean - 1).min() < 0.01, name


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
def test_centred_convolutions_are_those_of_the_same_network(layout, narrow, equal, photograph):
    batch = tf.constant(photograph(48, 64)[None], tf.float32)  # All of the ASPP's input is near its border.
    conv = precision_module.centred_convolutions(equal, layout, np.float32)
    centred = tf.function(lambda images: model.msi_net(images, conv, layout))(batch)
    assert np.abs(centred - narrow(batch)).max() < 1e-5


def test_ablation_is_centred_too(fitted):
    arrays = checkpoint.arrays_of(model.build_model(width=0.125, seed=5, context="plain"))
    off = differences(msinet.from_arrays(arrays, (240, 320)), fitted)
    assert 0 < off.max() <= 4


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
    monkeypatch.setattr(precision_module, "processor_has_bfloat16", lambda: False)
    assert main.main([*flags, "--precision", "bfloat16"]) == 0
    assert capsys.readouterr().out.count("will not be faster here") == 1
    with pytest.raises(UserError, match="Received the precision 'half', expected one of float32, bfloat16, float16"):
        msinet.load(weights, precision="half")


def test_precision_that_brings_nothing_here_is_said_or_refused(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(precision_module, "processor_has_bfloat16", lambda: False)
    assert precision_module.check_precision("float32") == ""
    assert "will not be faster" in precision_module.check_precision("bfloat16")
    with pytest.raises(UserError, match=r"float16 was asked for, but TensorFlow sees no GPU .* --precision bfloat16"):
        precision_module.check_precision("float16")
    monkeypatch.setattr(precision_module, "processor_has_bfloat16", lambda: True)
    assert precision_module.check_precision("bfloat16") == ""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    assert precision_module.check_precision("float16") == ""


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
