"""The lite and the medium network: the same maps in PyTorch, as Keras layers and in every export; weights; training."""

import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from conftest import FIXTURES
from test_export import skip_without_runtime

import msinet
from msinet import checkpoint, layers, main, model
from msinet.bundled import BUNDLED
from msinet.phases.formats import FORMATS, base
from msinet.utils import UserError

# Sides that are odd at 1/8, 1/16 or 1/32 of the resolution, where the decoder does not double the size.
SIZES = [(72, 104), (96, 64)]


@pytest.fixture(scope="module", params=BUNDLED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    return msinet.load(name, device="cpu")


def images_of(size, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (1, *size, 3)).astype(np.float32)


@pytest.mark.parametrize(("seed", "size"), list(enumerate(SIZES)))
def test_maps_equal_those_of_pytorch(network, name, seed, size):
    # Computed with benchmarks/distillation/effnet.py from the weights that ship; medium's are the mean for both sides.
    expected = np.load(FIXTURES / f"{name}.npz")["x".join(map(str, size))]
    np.testing.assert_allclose(network(images_of(size, seed))[0, :, :, 0], expected, atol=1e-5)


def test_mediums_map_of_a_mirror_image_is_the_mirrored_map():
    network, images = msinet.load("medium", device="cpu"), images_of((72, 104))
    np.testing.assert_array_equal(network(images[:, :, ::-1]), network(images)[:, :, ::-1])
    photograph = images[0].astype(np.uint8)
    mirrored = msinet.load("medium", device="cpu", mirrored=True)  # Changes nothing, and takes no more time.
    np.testing.assert_array_equal(mirrored.predict(photograph), network.predict(photograph))


@pytest.mark.parametrize("form", ["keras", "weights", "savedmodel", "onnx", "tflite", "tfjs"])
def test_exports_give_the_same_maps_at_every_size(network, form, tmp_path):
    skip_without_runtime(form)
    (form,) = FORMATS[form]
    form.write(network, tmp_path, 32, ())
    for size in SIZES:
        images = np.concatenate([images_of(size), images_of(size, seed=1)])
        np.testing.assert_allclose(form.predict(tmp_path, images), network(images), atol=1e-5)


def test_keras_export_has_no_initializer_that_keras_3_4_rejects(network, tmp_path):
    FORMATS["keras"][0].write(network, tmp_path, 32, ())
    with zipfile.ZipFile(tmp_path / "msinet.keras") as archive:
        assert b"input_axes" not in archive.read("config.json")


def test_graph_has_one_end(network):
    # TensorFlow.js takes every operation whose result is not used for an output.
    operations = network.graph.get_concrete_function().graph.get_operations()
    assert [op.type for op in operations if not any(tensor.consumers() for tensor in op.outputs)] == ["Identity"]


def test_resizing_is_the_same_in_both_layouts():
    small, large = (np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32) for size in ((4, 3), (7, 6)))
    first, last = (layers.ResizeLike(layout) for layout in (layers.CHANNELS_FIRST, layers.CHANNELS_LAST))
    expected = tf.image.resize(small, (7, 6))
    np.testing.assert_allclose(last([small, large]), expected, atol=1e-6)
    transposed = first([small.transpose(0, 3, 1, 2), large.transpose(0, 3, 1, 2)])
    np.testing.assert_allclose(np.transpose(transposed, (0, 2, 3, 1)), expected, atol=1e-6)


# EfficientNet-Lite0 has 4.65 million parameters and Lite2 6.1, of which 1.7 and 1.8 are the head (1280 features).
@pytest.mark.parametrize(("context", "millions"), [("efficientnet-lite0", 2.95), ("efficientnet-lite2", 4.3)])
def test_network_has_the_encoder_of_the_paper(context, millions):
    built = base.build_model(context=context)
    encoder = [layer for layer in built.layers if layer.name.startswith(("stem", "mbconv"))]
    assert sum(layer.count_params() for layer in encoder) == pytest.approx(1e6 * millions, rel=0.02)


def test_encoder_alone_has_the_size_of_its_network():
    for name in BUNDLED:
        arrays = checkpoint.read_arrays(BUNDLED[name])
        encoder = {key: values for key, values in arrays.items() if not key.startswith("decoder/")}
        assert checkpoint.describe(encoder).variant == name


# --- Weights of 8 bits ------------------------------------------------------------------------------------------------


def test_weights_of_8_bits_are_off_by_half_a_step_at_most(tmp_path):
    arrays = checkpoint.arrays_of(model.build_model(width=0.125, seed=3))
    checkpoint.save_arrays(tmp_path / "8.npz", arrays, bits=8)
    checkpoint.save_arrays(tmp_path / "16.npz", arrays)
    read = checkpoint.read_arrays(tmp_path / "8.npz")
    for name, values in arrays.items():
        greatest = np.abs(values).max((0, 1, 2)) if name.endswith("kernel") else 0
        assert np.all(np.abs(read[name] - values) <= np.maximum(greatest / 254 * 1.001, 1e-3 * np.abs(values)))
    assert (tmp_path / "8.npz").stat().st_size < 0.6 * (tmp_path / "16.npz").stat().st_size


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"decoder/conv1/scale": np.ones(3, np.float32)}, "decoder/conv1/kernel has dtype int8"),
        ({"decoder/conv1/scale": np.ones(16, np.float64)}, "decoder/conv1/scale is unexpected"),
        ({"decoder/conv1/scale": None}, "decoder/conv1/kernel has dtype int8, expected float32"),
        ({"decoder/conv1/scale": np.full(16, np.nan, np.float32)}, "kernel has values that are not finite"),
        ({"decoder/conv1/scale": np.full(16, np.inf, np.float32)}, "kernel has values that are not finite"),
    ],
)
def test_scale_must_fit_its_kernel(tmp_path, changes, complaint):
    checkpoint.save_arrays(tmp_path / "good.npz", checkpoint.arrays_of(model.build_model(width=0.125, seed=3)), bits=8)
    with np.load(tmp_path / "good.npz") as good:
        stored = {name: values for name, values in {**good, **changes}.items() if values is not None}
    np.savez(tmp_path / "bad.npz", **stored)
    with pytest.raises(UserError, match=complaint):
        checkpoint.read_arrays(tmp_path / "bad.npz")


# --- Training ---------------------------------------------------------------------------------------------------------


def test_training_continues_from_an_included_network(name, tiny_dataset, tmp_path, eager):
    fixed = ["-d", "custom", "-p", tiny_dataset(count=5), "--input-size", "48", "64", "--results", tmp_path]
    fixed += ["--init", name, "--learning-rate", "1e-4", "--epochs", "1", "--batch-size", "4"]
    assert main.main(["train", *map(str, fixed)]) == 0
    best = checkpoint.best_checkpoint(tmp_path, "custom")
    before, after = checkpoint.read_arrays(BUNDLED[name]), checkpoint.read_arrays(best)
    changed = [name for name in before if np.any(before[name] != after[name])]
    assert before.keys() == after.keys() and {"stem/conv/kernel", "mbconv16/depthwise/kernel"} <= set(changed)
    assert json.loads((tmp_path / "history" / "custom.json").read_text())["settings"]["variant"] == name
    assert msinet.load(best).architecture.variant == name


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("medium", "--context", "plain"), "The medium network has no --context plain: add --variant full or narrow."),
        (("lite", "--init", "scratch"), "The lite network cannot start from --init scratch: use --init lite, or"),
        (("lite", "--init", "vgg16"), "The lite network cannot start from --init vgg16: use --init lite, or"),
    ],
)
@pytest.mark.parametrize("phase", [("train",), ("reproduce", "--train")])
def test_network_without_a_context_or_a_start_is_a_clear_error(phase, flags, complaint, capsys):
    init = () if "--init" in flags else ("--init", flags[0])
    assert main.main([*phase, "-d", "osie", "--variant", *flags, *init]) == 2
    assert complaint in capsys.readouterr().err
