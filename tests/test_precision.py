"""Prediction in half precision and on several devices: what may change, and what must not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import run_as_program

import msinet
from msinet import checkpoint, main, model
from msinet import precision as precision_module
from msinet.image_files import read_header
from msinet.images import IMAGE_PADDING, read_image, resize_and_pad
from msinet.photographs import sample_photograph
from msinet.utils import UserError


@pytest.fixture(scope="module")
def fitted():
    """The photograph that Matplotlib ships, as a batch of the network's input."""
    path = sample_photograph()
    return resize_and_pad(read_image(path, read_header(path)), (240, 320), IMAGE_PADDING)[None]


def test_bfloat16_moves_at_most_half_a_percent_of_the_pixels_of_a_trained_map_by_more_than_one_gray_level(
    fitted, bfloat16
):
    network = msinet.load("lite")
    exact, half = (np.round(255 * replace(network, precision=name)(fitted)) for name in ("float32", "bfloat16"))
    off = np.abs(exact - half)
    assert 0 < off.max() <= 3
    assert (off > 1).mean() <= 0.005


def nodes(network: msinet.Network) -> dict[str, tf.DType]:
    """The compute dtype of each convolution of a network's graph, by the name of its kernel."""
    graph = network.graph.get_concrete_function().graph
    convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
    return {op.inputs[1].op.name.removesuffix("/kernel"): op.outputs[0].dtype for op in convolutions}


@pytest.fixture(scope="module")
def narrow(narrow_arrays):
    return msinet.network.from_arrays(narrow_arrays, (48, 64))


def test_encoder_of_the_included_networks_stays_in_float32():
    found = nodes(msinet.load("lite", device="cpu", precision="bfloat16"))
    half = {name for name, dtype in found.items() if dtype == tf.bfloat16}
    decoder = {name for name in found if name.startswith("decoder/")}
    assert half == decoder - {"decoder/conv4"} and len(half) == 7


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_all_convolutions_but_the_first_and_the_last_are_cast(precision, narrow):
    network = replace(narrow, precision=precision)
    found, half = nodes(network), tf.as_dtype(precision)
    exact = [name for name in precision_module.EXACT if name in found]
    assert len(exact) == 2 and {found.pop(name) for name in exact} == {tf.float32}
    assert len(found) == 21 and set(found.values()) == {half}

    graph = network.graph.get_concrete_function()
    kernels = {op.get_attr("dtype") for op in graph.graph.get_operations() if op.name.endswith("conv1_2/kernel")}
    assert kernels == {half}  # Cast once, not in every call.
    assert graph.outputs[0].dtype == tf.float32


def test_float32_has_no_cast(narrow):
    graph = narrow.graph.get_concrete_function().graph
    assert set(nodes(narrow).values()) == {tf.float32}
    assert not [op for op in graph.get_operations() if op.type == "Cast"]


def test_run_records_name_the_precision(tiny_dataset, narrow_weights, tmp_path, capsys, bfloat16):
    folder = tiny_dataset(count=3)
    common = ["--weights", str(narrow_weights), "--input-size", "48", "64", "--results", str(tmp_path)]
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
    assert main.main(evaluation) == 2  # A run in float32 is a different one.
    assert "other settings" in capsys.readouterr().err


def test_unsupported_precision_is_an_error_and_a_slow_one_a_warning_on_the_command_line(
    narrow_weights, tmp_path, monkeypatch, capsys, bfloat16
):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    flags = ["test", "--weights", str(narrow_weights), "--input-size", "48", "64", "--results", str(tmp_path)]
    assert main.main([*flags, "--precision", "float16"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--precision float16 was requested, but TensorFlow sees no GPU" in error
    monkeypatch.setattr(precision_module, "processor_has_bfloat16", lambda: False)
    assert main.main([*flags, "--precision", "bfloat16"]) == 0
    assert capsys.readouterr().out.count("is not faster here") == 1
    with pytest.raises(UserError, match="Received the precision 'half', expected one of float32, bfloat16, float16"):
        msinet.load(narrow_weights, precision="half")


@pytest.mark.parametrize(("precision", "gpus"), [("float32", []), ("bfloat16", []), ("float16", ["GPU:0"])])
def test_supported_precision_causes_no_warning(monkeypatch, precision, gpus):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(precision_module, "processor_has_bfloat16", lambda: precision == "bfloat16")
    assert precision_module.check_precision(precision) == ""


# --- Several devices --------------------------------------------------------------------------------------------------


def test_more_gpus_than_available_is_a_clear_error(narrow_weights, tmp_path, monkeypatch, capsys):
    found = [tf.config.LogicalDevice(f"/device:GPU:{i}", "GPU") for i in range(2)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: found)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found)
    assert main.main(["test", "--weights", str(narrow_weights), "--gpus", "3", "--results", str(tmp_path)]) == 2
    assert "--gpus 3 was requested, but TensorFlow sees 2" in capsys.readouterr().err
    assert msinet.load(narrow_weights).gpus == ("/device:GPU:0", "/device:GPU:1")
    assert msinet.load(narrow_weights, gpus=1).gpus == ("/device:GPU:0",)
    assert msinet.load(narrow_weights, device="cpu").gpus == ()


def test_two_devices_give_the_same_maps_in_the_same_order_as_one(tmp_path):
    found = run_as_program(__file__)
    assert found["difference"] == 0 and found["different photographs"]
    # Seven photographs in batches of two; the batches alternate between the devices.
    assert found["devices"] == {"CPU:0": [2, 2], "CPU:1": [2, 1]}
    assert found["failures"] == [3]


def two_devices() -> dict:
    """Predict seven photographs on one device, and then with batches distributed across two."""
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    one = msinet.network.from_arrays(checkpoint.arrays_of(model.build_model(width=0.125, seed=5)), (48, 64))
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
