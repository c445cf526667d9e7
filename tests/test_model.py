"""The network gives the numbers of the published one."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_with_published_kernels, seeded_arrays, set_arrays

from msinet import layers, model
from msinet.config import VARIANTS
from msinet.utils import UserError

PARAMETERS = {"conv": 14_714_688, "aspp": 9_831_936, "decoder": 387_585}


@pytest.fixture(scope="module")
def network():
    network = model.build_model()
    set_arrays(network, seeded_arrays(network))
    return network


def published_cases(fixture):
    numbers = fixture("forward.npz")
    for case in ("fwd0", "fwd1", "fwd2"):
        batch, height, width, seed = numbers[f"{case}_spec"]
        images = np.random.default_rng(seed).uniform(0, 255, (batch, height, width, 3)).astype(np.float32)
        yield images, numbers[f"{case}_output"]


def largest_differences(predict, fixture) -> list[float]:
    return [float(np.abs(np.array(predict(images)) - output).max()) for images, output in published_cases(fixture)]


def test_forward_equals_the_published_network():
    differences = run_with_published_kernels(__file__)
    assert len(differences) == 3
    assert max(differences) <= 1e-6, differences


def test_forward_with_the_kernels_of_this_machine_differs_only_by_rounding(network, fixture):
    assert max(largest_differences(network, fixture)) <= 1e-5


def test_graph_with_constant_weights_equals_the_keras_network(network, fixture):
    conv = layers.tensor_convolutions(seeded_arrays(network))
    graph = tf.function(lambda x: model.msi_net(x, conv), [tf.TensorSpec((None, None, None, 3))])  # One for all sizes.
    assert max(largest_differences(graph, fixture)) <= 1e-5


def test_channels_first_equals_channels_last(network, fixture, channels_first):
    other = model.build_model(layers.CHANNELS_FIRST)
    set_arrays(other, seeded_arrays(network))
    images, output = next(published_cases(fixture))
    np.testing.assert_allclose(tf.function(other)(images), output, atol=1e-5)


def test_parameter_counts_are_the_published_ones(network):
    counts = dict.fromkeys(PARAMETERS, 0)
    for variable in network.weights:
        counts[next(part for part in counts if variable.path.startswith(part))] += int(np.prod(variable.shape))
    assert counts == PARAMETERS


@pytest.mark.parametrize(("context", "expected"), [("aspp", 1_559_889), ("plain", 1_887_569)])
def test_narrow_network_has_a_quarter_of_the_filters(context, expected):
    network = model.build_model(context=context, width=VARIANTS["narrow"]["width"])
    assert network.count_params() == expected


def test_plain_context_replaces_the_aspp_by_one_convolution():
    full, plain = (model.build_model(context=context, width=0.125) for context in ("aspp", "plain"))
    replaced = {layer.name for layer in full.layers if "aspp" in layer.name and "5" not in layer.name}
    assert {"aspp_conv1", "aspp_conv2"} == {layer.name for layer in plain.layers if "aspp" in layer.name}
    assert replaced - {"aspp_conv1"}
    assert plain.get_layer("aspp_conv1").kernel.shape == (3, 3, 160, 160)


def test_same_seed_gives_the_same_initial_weights():
    first, again, other = (model.build_model(width=0.125, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(first.weights[0].numpy() - other.weights[0].numpy()).max() > 0


def test_each_map_of_a_batch_is_scaled_to_its_own_range():
    maps = np.array(model.normalize(tf.constant([[[[2.0]], [[4.0]]], [[[-1.0]], [[9.0]]], [[[3.0]], [[3.0]]]])))
    np.testing.assert_allclose(maps[:, :, 0, 0], [[0, 1], [0, 1], [0, 0]], atol=1e-6)


def test_upsampling_is_the_legacy_one():
    row = tf.constant([0.0, 2.0, 6.0])[None, None, :, None]
    doubled = np.array(layers.LegacyUpsampling()(row))[0, 0, :, 0]
    np.testing.assert_array_equal(doubled, [0, 1, 2, 4, 6, 6])


@pytest.mark.parametrize(
    ("choice", "other"),
    [("dilated_gradient_exists", lambda dtype: False), ("products_are_faster", lambda: True)],
    ids=["without dilated kernels", "with matrix products"],
)
def test_gradient_is_the_same_with_other_operations(monkeypatch, choice, other):
    monkeypatch.setattr(layers, "products_are_faster", lambda: False)
    network = model.build_model(width=0.125, seed=3)
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (1, 48, 64, 3)), tf.float32)

    def gradients():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(network(images) ** 2)
        return tape.gradient(value, network.trainable_variables)

    native = gradients()
    monkeypatch.setattr(layers, choice, other)
    # The last is the bias of the map, which normalization removes again: its gradient is rounding noise.
    for a, b in list(zip(native, gradients(), strict=True))[:-1]:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(tf.reduce_max(tf.abs(b))))


@pytest.mark.parametrize(
    ("instructions", "limit", "onednn", "expected"),
    [
        ({"avx2"}, "", "1", True),
        ({"avx2", "avx512f"}, "", "1", False),
        ({"avx2", "avx512f"}, "AVX2", "1", True),
        ({"avx2"}, "", "0", False),
        (set(), "", "1", False),
    ],
)
def test_matrix_products_compute_gradients_on_processors_without_avx512(
    monkeypatch, instructions, limit, onednn, expected
):
    monkeypatch.setattr(layers, "processor_instructions", lambda: frozenset(instructions))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
    assert layers.products_are_faster() is expected
    taken = []
    monkeypatch.setattr(
        layers, "convolve_with_products", lambda x, kernel: taken.append(kernel.shape) or x @ kernel[1, 1]
    )
    model.build_model(width=0.25)(np.zeros((1, 32, 32, 3), np.float32))
    assert bool(taken) is expected


def test_missing_gpu_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert model.choose_layout("auto") == layers.CHANNELS_LAST
    assert model.describe_device(layers.CHANNELS_LAST) == "cpu (channels-last), TensorFlow sees no GPU"
    with pytest.raises(UserError, match="--device cpu"):
        model.choose_layout("gpu")


def test_auto_uses_an_available_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert model.choose_layout("auto") == layers.CHANNELS_FIRST
    assert model.choose_layout("cpu") == layers.CHANNELS_LAST
    assert model.describe_device(layers.CHANNELS_FIRST, 2) == "gpu (channels-first), 2 of them"
    assert model.describe_device(layers.CHANNELS_LAST) == "cpu (channels-last)"


# --- Precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_applies_to_all_convolutions_but_the_last_and_keeps_float32_variables(precision, request):
    if precision == "bfloat16":
        request.getfixturevalue("bfloat16")
    network = model.build_model(width=0.125, batch_norm=True, seed=1, precision=precision)
    assert {variable.dtype for variable in network.variables} == {"float32"}
    convolutions = {layer.name: layer.compute_dtype for layer in network.layers if hasattr(layer, "kernel")}
    assert convolutions.pop("decoder_conv4") == "float32"
    assert set(convolutions.values()) == {precision}
    images = np.random.default_rng(0).uniform(0, 255, (1, 48, 64, 3)).astype(np.float32)
    maps, seen = network(images), keras.Model(network.input, network.get_layer("conv3_conv3_3").output)(images)
    assert maps.dtype == tf.float32 and seen.dtype == tf.as_dtype(precision)
    exact = model.build_model(width=0.125, batch_norm=True, seed=1)
    exact.set_weights(network.get_weights())
    difference = np.abs(maps - exact(images)).max()
    assert 0 < difference < 0.1


if __name__ == "__main__":  # Run by `test_forward_equals_the_published_network`, with other kernels.
    here = Path(__file__).parent
    built = model.build_model()
    set_arrays(built, seeded_arrays(built))
    print(json.dumps(largest_differences(built, lambda name: np.load(here / "fixtures" / name))))
