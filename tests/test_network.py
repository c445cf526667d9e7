"""The Python API: a network as an object, arrays in and arrays out."""

import contextlib
import copy
import dataclasses
import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, run_python, write
from PIL import Image

import msinet
from msinet import bundled, checkpoint, geometry, layers, main, model, utils
from msinet.photographs import sample_photograph
from msinet.utils import UserError

ROOT = Path(__file__).parents[1]

NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")


@pytest.fixture(scope="module")
def weights(narrow_weights):
    return narrow_weights


@pytest.fixture(scope="module")
def network(weights):
    return msinet.load(weights, input_size=(48, 64))


def test_map_of_an_array_equals_the_file_that_the_command_writes(tmp_path, weights, network, photograph):
    for name, image in {"a.png": photograph(61, 83), "b.png": photograph(90, 40), "c.png": photograph(9, 200)}.items():
        path = write(tmp_path / name, tf.io.encode_png(image))
        flags = ["--weights", str(weights), "--input-size", "48", "64", "--results", str(tmp_path), "--format", "npy"]
        assert main.main(["test", "-p", str(path), *flags]) == 0
        written = np.load(tmp_path / "images" / f"{path.stem}.npy")
        predicted = network.predict(image)
        assert predicted.dtype == np.float32 and predicted.shape == image.shape[:2]
        np.testing.assert_array_equal(predicted, written)
        np.testing.assert_array_equal(network.predict(path), written)
        np.testing.assert_array_equal(network.predict(str(path)), written)
        np.testing.assert_array_equal(network.predict(Image.open(path)), written)


@pytest.mark.parametrize(
    "module",
    ["main", "network", "loss", "scoring.fitted", pytest.param("phases.distributed.cluster", marks=NEEDS_RAY)],
)
def test_tensorflow_is_imported_with_our_settings(module, monkeypatch):
    script = f"""
import importlib.abc, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("tensorflow", "keras"):
            raise SystemExit(print(os.environ.get("TF_ENABLE_ONEDNN_OPTS")))

sys.meta_path.insert(0, Finder())
import msinet.{module}
print(os.environ.get("TF_ENABLE_ONEDNN_OPTS"))  # `main` imports TensorFlow later.
"""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    assert run_python("-c", script) == "1\n"
    assert run_python("-c", script, TF_ENABLE_ONEDNN_OPTS="0") == "0\n"


def test_run_record_says_whether_onednn_is_enabled(network):
    from tensorflow.python.util import _pywrap_util_port  # TensorFlow has no public name for it.

    assert network.record()["onednn"] == _pywrap_util_port.IsMklEnabled()


@pytest.fixture(scope="module")
def sample_map():
    return msinet.load("lite").predict(sample_photograph())


@pytest.mark.parametrize(
    ("settings", "identical"),
    [
        ({}, True),
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False),
        ({"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2", "TF_NUM_INTRAOP_THREADS": "1"}, False),
    ],
)
def test_maps_are_identical_with_equal_settings_and_close_across_threads_and_processors(
    tmp_path, sample_map, settings, identical
):
    """They print nothing either, from the import to the map."""
    path = tmp_path / "map.npy"
    script = (
        "import numpy, msinet; from msinet.photographs import sample_photograph; "
        f"numpy.save({str(path)!r}, msinet.load('lite').predict(sample_photograph()))"
    )
    command = [sys.executable, "-c", script]
    finished = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("", "")
    if identical:
        np.testing.assert_array_equal(np.load(path), sample_map)
    else:
        assert_close(np.load(path), sample_map)


def test_gray_and_transparent_arrays_are_treated_like_files(network, photograph):
    image = photograph()
    gray = image[..., 0]
    expected = network.predict(np.dstack([gray] * 3))
    np.testing.assert_array_equal(network.predict(gray), expected)
    np.testing.assert_array_equal(network.predict(gray[..., None]), expected)
    opaque = np.dstack([image, np.full(gray.shape, 255, np.uint8)])
    np.testing.assert_array_equal(network.predict(opaque), network.predict(image))
    transparent = np.dstack([image, np.zeros(gray.shape, np.uint8)])
    np.testing.assert_array_equal(network.predict(transparent), network.predict(np.full_like(image, 255)))
    np.testing.assert_array_equal(network.predict(image[:, ::-1][:, ::-1]), network.predict(image))
    palette = Image.fromarray(image).quantize(16)
    np.testing.assert_array_equal(network.predict(palette), network.predict(np.asarray(palette.convert("RGB"))))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 3), bool),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        [[1, 2], [3, 4]],
        None,
    ],
)
def test_other_arrays_are_a_clear_error(network, wrong):
    with pytest.raises(msinet.UserError, match=r"photograph 0: received an array of .* expected uint8, 0 to 255"):
        network.predict(wrong)


def test_photographs_of_mixed_sizes_keep_their_order_for_any_batch_size(network, photograph):
    images = [photograph(40 + 7 * (i % 3), 60 - 5 * (i % 2), seed=i) for i in range(7)]
    singles = [network.predict(image) for image in images]
    for batch_size in (1, 3, 8):
        for one, together in zip(singles, network.predict_many(iter(images), batch_size), strict=True):
            np.testing.assert_allclose(together, one, atol=1e-5)


def test_photographs_are_read_from_their_source_only_when_needed(network, photograph):
    drawn = []
    source = (drawn.append(i) or photograph(seed=i % 3) for i in range(500))
    maps = network.predict_many(source)
    next(maps)
    assert len(drawn) < 100
    maps.close()


@pytest.mark.skipif(utils.cores() < 2, reason="One core predicts one photograph at a time.")
def test_single_photographs_are_predicted_two_at_a_time(network, photograph, monkeypatch):
    meeting, predict = threading.Barrier(2), msinet.Network._predict

    def meet(self, batch, graph):
        meeting.wait(30)  # Raises unless two threads arrive.
        return predict(self, batch, graph)

    monkeypatch.setattr(msinet.Network, "_predict", meet)
    assert len(list(network.predict_many([photograph(seed=i) for i in range(6)]))) == 6


def test_unreadable_photograph_is_named_and_does_not_stop_the_others(network, photograph, tmp_path):
    bad = write(tmp_path / "bad.jpg", b"no image")
    maps = network.predict_many([photograph(), bad])
    next(maps)
    with pytest.raises(UserError, match=r"bad\.jpg: not a readable image"):
        next(maps)
    predictions = list(network.predictions([photograph(), bad, photograph()]))
    assert [bool(p.error) for p in predictions] == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"device": "cuda"}, "Received the device 'cuda', expected one of auto, cpu, gpu"),
        ({"input_size": (48.5, 64)}, "input height of 48.5, expected a multiple of 8 from 8 to 4096"),
        ({"input_size": 240}, "Received the input size 240, expected a height and a width"),
        ({"input_size": "large"}, "Received the input size 'large'"),
        ({"input_size": (48, 100)}, "input width of 100, expected a multiple of 8"),
        ({"input_size": (4096, 4096)}, "4096×4096, expected at most 2097152 pixels"),
        ({"max_pixels": 0}, "max_pixels 0, expected a whole number from 1"),
        ({"max_pixels": 10**12}, "max_pixels 1000000000000"),
        ({"gpus": -1}, "gpus -1, expected a whole number from 0 to 256"),
        ({"gpus": True}, "gpus True"),
        ({"data": "imagenet"}, "Received the dataset 'imagenet', expected one of salicon"),
    ],
)
def test_wrong_arguments_of_load_are_a_clear_error_before_weights_are_chosen(monkeypatch, arguments, complaint):
    monkeypatch.delattr(checkpoint, "choose_weights")  # It may download them.
    with pytest.raises(UserError) as error:
        msinet.load("published", **arguments)
    assert complaint in str(error.value)


def test_integers_of_numpy_are_accepted(weights, photograph):
    network = msinet.load(weights, input_size=tuple(np.array([48, 64], np.int32)), max_pixels=np.int64(10**6))
    assert network.input_size == (48, 64) and json.dumps(network.record())
    assert len(list(network.predict_many([photograph()] * 3, np.uint8(2)))) == 3


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "2", None, True])
def test_impossible_batch_size_is_a_clear_error(network, photograph, batch_size):
    with pytest.raises(UserError, match=r"batch_size .*, expected a whole number from 1"):
        network.predict_many([photograph()], batch_size)


@pytest.mark.parametrize(
    "one",
    [np.zeros((9, 8, 3), np.uint8), np.zeros((9, 8), np.uint8), "a.jpg", Path("a.jpg"), Image.new("RGB", (8, 9)), 3],
)
def test_one_photograph_instead_of_several_is_a_clear_error(network, one):
    with pytest.raises(UserError, match=r"Received one .*, expected several photographs: use predict, or pass a list"):
        network.predict_many(one)


def test_arrays_of_photographs_and_of_paths_are_several(network, photograph, tmp_path):
    images = np.stack([photograph(seed=1), photograph(seed=2)])
    paths = [str(write(tmp_path / f"{i}.png", tf.io.encode_png(image))) for i, image in enumerate(images)]
    for found, again in zip(network.predict_many(images), network.predict_many(np.array(paths)), strict=True):
        np.testing.assert_array_equal(found, again)


def test_too_large_arrays_are_rejected_like_files(weights, photograph):
    network = msinet.load(weights, input_size=(48, 64), max_pixels=48 * 64)
    assert network.predict(photograph(48, 64)).shape == (48, 64)
    for large in (photograph(48, 65), photograph(48, 65)[..., 0], Image.new("RGB", (65, 48))):
        with pytest.raises(UserError, match="65×48 pixels, expected at most 3072"):
            network.predict(large)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_maps_before_an_error_of_the_source_are_yielded(network, photograph, batch_size):
    def source():
        for i in range(7):
            yield photograph(seed=i)
        raise ZeroDivisionError("the camera is gone")

    found = []
    with pytest.raises(ZeroDivisionError, match="the camera is gone"):
        for saliency in network.predict_many(source(), batch_size):
            found.append(saliency)
    assert len(found) == 7
    np.testing.assert_allclose(found[6], network.predict(photograph(seed=6)), atol=1e-5)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda network: pickle.loads(pickle.dumps(network))])
def test_used_network_can_be_copied_and_pickled(network, photograph, duplicate):
    expected = network.predict(photograph())
    np.testing.assert_array_equal(duplicate(network).predict(photograph()), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system does not fork.")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_process_gets_an_error_and_a_spawned_one_the_map(tmp_path, weights):
    script = """
import multiprocessing, sys
import numpy as np
import msinet

def predict(network):
    try:
        return network.predict(np.zeros((48, 64, 3), np.uint8)).shape
    except msinet.utils.UserError as error:
        return str(error)

def reload(weights):
    try:
        return repr(msinet.load(weights))
    except msinet.utils.UserError as error:
        return str(error)

if __name__ == "__main__":
    network = msinet.load(sys.argv[1], input_size=(48, 64))
    predict(network)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.apply(predict, (network,)), pool.apply(reload, (sys.argv[1],)))
"""
    file = write(tmp_path / "script.py", script.encode())
    forked, spawned = run_python("-W", "ignore", file, weights).splitlines()
    assert forked.count("get_context('spawn')") == 2
    assert spawned.startswith("(48, 64) <MSI-Net")


def test_calling_the_network_gives_maps_of_fitted_images(network, photograph):
    images = np.stack([photograph(seed=1), photograph(seed=2)]).astype(np.float32)
    maps = network(images)
    assert maps.shape == (2, 48, 64, 1) and maps.dtype == tf.float32
    expected = model.msi_net(images, layers.tensor_convolutions(network.arrays))
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert float(tf.reduce_min(maps)) == 0 and float(tf.reduce_max(maps)) == pytest.approx(1, abs=1e-5)


def test_network_describes_itself(weights, network):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert network.sha256 == digest and network.input_size == (48, 64) and network.layout == "channels_last"
    assert network.architecture.variant == "width 0.125" and network.architecture.context == "aspp"
    line = repr(network)
    assert line == "<MSI-Net width 0.125, input 48×64, float32, narrow.npz>" and len(line) < 80
    assert network.summary().splitlines()[0] == "Network: narrow.npz (named by --weights), input 48×64."
    assert network.record()["sha256"] == digest


def test_input_size_comes_from_the_dataset_unless_given(weights):
    assert msinet.load(weights, data="osie").input_size == (240, 320)
    assert msinet.load(weights, data="mit1003").input_size == (360, 360)


def test_encoder_alone_is_a_clear_error(narrow_arrays, tmp_path):
    path = tmp_path / "encoder.npz"
    np.savez(path, **{name: values for name, values in narrow_arrays.items() if name.startswith("conv")})
    with pytest.raises(UserError, match="an encoder alone"):
        msinet.load(path)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((768, 1024), (240, 320)),
        ((1024, 768), (320, 240)),
        ((500, 500), (280, 280)),
        ((400, 600), (224, 336)),
        ((600, 400), (336, 224)),
        ((1080, 1920), (208, 368)),
        ((1920, 1080), (368, 208)),
        ((1, 9000), (208, 368)),
    ],
)
def test_input_size_is_fitted_to_the_shape(shape, size):
    assert geometry.fitted_size(shape, 240 * 320) == size


def test_mirrored_average_of_a_mirror_image_is_the_mirrored_average(weights, photograph):
    network = msinet.load(weights, input_size=(48, 64), mirrored=True)
    image = photograph()
    np.testing.assert_allclose(network.predict(image)[:, ::-1], network.predict(image[:, ::-1]), atol=1e-5)


@pytest.mark.parametrize("name", bundled.BUNDLED)
def test_bundled_network_loads_by_name(name, photograph):
    network = msinet.load(name, input_size=(48, 64))
    assert Path(network.weights.path) == bundled.BUNDLED[name] and network.architecture.variant == name
    assert network.predict(photograph(100, 150)).shape == (100, 150)


def test_network_trained_with_fitted_sizes_predicts_with_them_unless_a_size_is_given(weights, tmp_path):
    weights = shutil.copy(weights, tmp_path / "fitted.npz")
    checkpoint.write_knowledge(weights, checkpoint.Knowledge((48, 64), "aspp", "width 0.125", fit_shape=True))
    network = msinet.load(weights)
    assert network.fit_shape and network.size_for((90, 60)) == geometry.fitted_size((90, 60), 48 * 64) != (48, 64)
    assert not msinet.load(weights, input_size=(48, 64)).fit_shape
    assert "in each photograph's shape" in network.summary()


def test_weights_are_not_optimized_twice_at_once(network, photograph):
    network, held = dataclasses.replace(network), []
    graph = network.graph

    def watched(images):
        held.append(isinstance(network._first_call, contextlib.nullcontext))
        return graph(images)

    network.__dict__["graph"] = watched
    for _ in range(2):
        list(network.predict_many([photograph()]))
    assert held == [False, True]


@pytest.mark.parametrize(("precision", "skips"), [("float32", True), ("bfloat16", False)])
def test_command_skips_the_graph_optimizer_where_it_gains_nothing(network, monkeypatch, precision, skips):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")

    def skipped():
        return tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]

    with dataclasses.replace(network, precision=precision).alone():
        assert skipped() == skips
    assert not skipped()
