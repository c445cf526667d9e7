"""Weights: every published format reads back as written, faults are named, and the right file is chosen."""

import hashlib
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf

import checkpoint
import model
import msinet
import weight_files
from utils import UserError

WIDTH = 0.125  # Narrow networks, so that many can be written and read.


@pytest.fixture(scope="module")
def arrays():
    return checkpoint.arrays_of(model.build_model(width=WIDTH, seed=1))


@pytest.fixture
def weights_folder(tmp_path, monkeypatch):
    """An empty `weights/`, apart from the lite network."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", folder)
    monkeypatch.setattr(checkpoint, "LITE_PATH", folder / "msinet_lite.npz")
    checkpoint.save_arrays(checkpoint.LITE_PATH, checkpoint.arrays_of(model.build_model(width=0.25, seed=2)))
    return folder


# --- Formats ----------------------------------------------------------------------------------------------------------


def write_frozen_graph(path, arrays, layout):
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3), "input")
        tf.identity(model.msi_net(images, model.tensor_convolutions(arrays, layout), layout), "output")
    path.write_bytes(graph.as_graph_def().SerializeToString())


def write_saved_model(folder, arrays, prefix):
    module = tf.Module()

    @tf.function
    def inner(images):
        with tf.name_scope(prefix) if prefix else tf.name_scope(""):
            return model.msi_net(images, model.tensor_convolutions(arrays))

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


def encoder_of(arrays):
    return {name: values for name, values in arrays.items() if name.startswith("conv")}


def assert_equal(read, written):
    assert read.keys() == written.keys()
    for name, values in written.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], values, err_msg=name)


@pytest.mark.parametrize("layout", [model.CHANNELS_LAST, model.CHANNELS_FIRST])
def test_frozen_graph_reads_back(tmp_path, arrays, layout):
    write_frozen_graph(tmp_path / "model.pb", arrays, layout)
    assert_equal(checkpoint.read_arrays(tmp_path / "model.pb"), arrays)


@pytest.mark.parametrize("prefix", ["", "msi_net/inner"])
def test_saved_model_reads_back_as_a_folder_and_as_a_bare_file(tmp_path, arrays, prefix):
    folder = tmp_path / "export" / "saved_model"
    write_saved_model(folder, arrays, prefix)
    assert_equal(checkpoint.read_arrays(folder), arrays)
    assert_equal(checkpoint.read_arrays(folder.parent), arrays)
    shutil.move(folder / "saved_model.pb", tmp_path / "saved_model.pb")
    assert_equal(checkpoint.read_arrays(tmp_path / "saved_model.pb"), arrays)


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
    assert checkpoint.describe(read) == checkpoint.Architecture(WIDTH, context, batch_norm)


def test_imagenet_file_reads_back_with_red_and_blue_swapped(tmp_path, arrays):
    path = tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    write_imagenet(path, encoder_of(arrays))
    read = checkpoint.read_arrays(path)
    assert_equal(read, {**encoder_of(arrays), "conv1/conv1_1/kernel": arrays["conv1/conv1_1/kernel"][:, :, ::-1]})


def test_half_precision_file_reads_back_as_float32(tmp_path, arrays):
    checkpoint.save_arrays(tmp_path / "half.npz", arrays)
    assert_equal(
        checkpoint.read_arrays(tmp_path / "half.npz"),
        {name: values.astype(np.float16).astype(np.float32) for name, values in arrays.items()},
    )


def test_read_arrays_give_the_maps_of_the_network_that_was_written(tmp_path):
    network = model.build_model(width=WIDTH, seed=4)
    network.save_weights(tmp_path / "a.weights.h5")
    other = model.build_model(width=WIDTH, seed=5)
    checkpoint.assign(other, checkpoint.read_arrays(tmp_path / "a.weights.h5"))
    images = np.random.default_rng(0).uniform(0, 255, (1, 48, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(other(images), network(images))


# --- Faults -----------------------------------------------------------------------------------------------------------


def test_missing_surplus_and_wrongly_shaped_arrays_are_listed(tmp_path, arrays):
    broken = {**arrays, "decoder/conv9/kernel": np.zeros((3, 3, 4, 4)), "conv2/conv2_1/bias": np.zeros(5)}
    del broken["aspp/conv2/kernel"]
    np.savez(tmp_path / "broken.npz", **broken)
    with pytest.raises(UserError) as caught:
        checkpoint.read_arrays(tmp_path / "broken.npz")
    for complaint in (
        "aspp/conv2/kernel is missing",
        "decoder/conv9/kernel is surplus",
        "conv2/conv2_1/bias has shape (5,), expected (16,)",
    ):
        assert complaint in str(caught.value)


def test_values_that_are_not_numbers_are_named(tmp_path, arrays):
    np.savez(tmp_path / "nan.npz", **{**arrays, "aspp/conv2/bias": arrays["aspp/conv2/bias"] * np.nan})
    with pytest.raises(UserError, match="aspp/conv2/bias holds values that are not numbers"):
        checkpoint.read_arrays(tmp_path / "nan.npz")


@pytest.mark.parametrize("contents", [b"", b"no weights at all, but longer than a header"])
@pytest.mark.parametrize("suffix", [".pb", ".weights.h5", ".keras", ".h5", ".npz", ".ckpt.index", ".txt"])
def test_damaged_file_is_named(tmp_path, suffix, contents):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(contents)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_arrays(path)


def test_truncated_checkpoint_is_named(tmp_path, arrays):
    network = model.build_model(width=WIDTH)
    path = tmp_path / "run.weights.h5"
    checkpoint.save_checkpoint(network, path, {})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (checkpoint.read_arrays, checkpoint.read_attributes):
        with pytest.raises(UserError, match=r"run\.weights\.h5 is damaged"):
            read(path)


def test_missing_file_is_named_with_the_formats_that_are_read(tmp_path):
    with pytest.raises(UserError, match=r"No weights at .*nowhere\.pb: expected a \.pb"):
        checkpoint.read_arrays(tmp_path / "nowhere.pb")


def test_code_in_a_file_is_never_executed(tmp_path, arrays):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the file's code was executed",))

    np.savez(tmp_path / "pickled.npz", **{"conv1/conv1_1/kernel": np.array(Bomb(), object)})
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_arrays(tmp_path / "pickled.npz")

    network = model.build_model(width=WIDTH)
    network.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as source, zipfile.ZipFile(tmp_path / "evil.keras", "w") as target:
        target.writestr("config.json", '{"module": "os", "class_name": "abort"}')
        target.writestr("model.weights.h5", source.read("model.weights.h5"))
    assert_equal(checkpoint.read_arrays(tmp_path / "evil.keras"), checkpoint.arrays_of(network))


def test_assigning_another_networks_weights_is_refused(arrays):
    with pytest.raises(UserError, match="another network"):
        checkpoint.assign(model.build_model(width=0.25), arrays)


# --- Batch normalisation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [model.CHANNELS_LAST, model.CHANNELS_FIRST])
def test_folded_batch_norm_gives_the_same_maps(layout, request):
    if layout == model.CHANNELS_FIRST:
        request.getfixturevalue("channels_first")
    network = model.build_model(width=0.25, batch_norm=True, seed=6)
    random = np.random.default_rng(7)
    unfolded = checkpoint.arrays_of(network)
    for name, values in unfolded.items():
        if not name.endswith("kernel"):
            unfolded[name] = random.uniform(0.5, 1.5, values.shape).astype(np.float32)
    checkpoint.assign(network, unfolded)
    folded = checkpoint.fold_batch_norm(unfolded)
    assert folded.keys() == checkpoint.expected_shapes(checkpoint.Architecture(0.25, "aspp", False)).keys()
    images = random.uniform(0, 255, (2, 48, 64, 3)).astype(np.float32)
    plain = tf.function(lambda x: model.msi_net(x, model.tensor_convolutions(folded, layout), layout))
    np.testing.assert_allclose(plain(images), network(images, training=False), atol=1e-4)


def test_folding_leaves_a_network_without_batch_norm_as_it_is(arrays):
    assert_equal(checkpoint.fold_batch_norm(arrays), arrays)


# --- Which weights ----------------------------------------------------------------------------------------------------


def test_weights_are_chosen_in_the_documented_order(weights_folder, tmp_path, arrays):
    results = tmp_path / "results"
    lite = checkpoint.choose_weights("salicon", results=results)
    assert lite.path == weights_folder / "msinet_lite.npz"
    assert "published one cannot be had: huggingface.co and drive.google.com cannot be reached" in lite.reason

    write_frozen_graph(weights_folder / "model_salicon_gpu.pb", arrays, model.CHANNELS_FIRST)
    assert checkpoint.choose_weights("salicon", results=results).path.name == "model_salicon_gpu.pb"
    assert checkpoint.choose_weights("custom", results=results).path.name == "model_salicon_gpu.pb"
    assert checkpoint.choose_weights("osie", results=results).path.name == "msinet_lite.npz"

    best = checkpoint.best_checkpoint(results, "salicon")
    checkpoint.save_checkpoint(model.build_model(width=WIDTH), best, {})
    assert checkpoint.choose_weights("salicon", results=results).path == best
    assert checkpoint.choose_weights("salicon", "published", results).path.name == "model_salicon_gpu.pb"
    assert checkpoint.choose_weights("salicon", "lite", results).path.name == "msinet_lite.npz"
    assert checkpoint.choose_weights("salicon", str(weights_folder / "model_salicon_gpu.pb"), results).reason


def test_published_weights_that_are_not_there_are_an_error_when_forced(weights_folder, tmp_path):
    with pytest.raises(UserError, match="model_osie_cpu"):
        checkpoint.choose_weights("osie", "published", tmp_path)


def test_salicon_starts_from_vgg16(weights_folder, tmp_path, arrays):
    with pytest.raises(UserError, match=r"vgg16_hybrid.*--init scratch"):
        checkpoint.initial_weights("salicon", None, results=tmp_path)
    full = {
        name: np.zeros(shape, np.float32)
        for name, shape in checkpoint.expected_shapes(checkpoint.Architecture(1.0, None, False)).items()
    }
    write_checkpoint(weights_folder / "vgg16_hybrid.ckpt", full)
    read, reason = checkpoint.initial_weights("salicon", None, results=tmp_path)
    assert len(read) == 26 and "VGG16" in reason


def test_fine_tuning_without_salicon_weights_names_the_commands(weights_folder, tmp_path):
    with pytest.raises(UserError, match=r"main\.py train -d salicon.*--init"):
        checkpoint.initial_weights("osie", None, results=tmp_path)


def test_lite_network_is_a_start_and_mixing_it_up_with_the_full_one_is_an_error(weights_folder, tmp_path):
    read, reason = checkpoint.initial_weights("custom", "lite", results=tmp_path, variant="lite")
    assert checkpoint.describe(read).variant == "lite" and "lite" in reason
    with pytest.raises(UserError, match=r"holds the lite network, .* add --variant lite"):
        checkpoint.initial_weights("custom", "lite", results=tmp_path, variant="full")
    with pytest.raises(UserError, match="--context aspp"):
        checkpoint.initial_weights("custom", "lite", results=tmp_path, variant="lite", context="plain")


# --- The lite network that comes with the program ---------------------------------------------------------------------


def test_bundled_network_is_the_one_of_its_model_card():
    card = (checkpoint.WEIGHTS_FOLDER / "README.md").read_text(encoding="utf-8")
    contents = checkpoint.LITE_PATH.read_bytes()
    assert hashlib.sha256(contents).hexdigest() in card
    assert len(contents) <= 4_000_000
    arrays = checkpoint.read_arrays(checkpoint.LITE_PATH)
    assert checkpoint.describe(arrays) == checkpoint.Architecture(0.25, "aspp", batch_norm=False)
    assert checkpoint.describe(arrays).variant == "lite"


# --- What weights know about themselves -------------------------------------------------------------------------------

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
def test_knowledge_reads_back_from_every_file_of_ours(tmp_path, arrays, kind):
    path = tmp_path / kind
    if kind == "half.npz":
        checkpoint.save_arrays(path, arrays, KNOWN)
    elif kind == "folder":
        write_saved_model(path, arrays, "")
        checkpoint.write_knowledge(path, KNOWN)
    else:
        network = model.build_model(width=WIDTH, seed=1)
        if kind == "run.weights.h5":
            checkpoint.save_checkpoint(network, path, {**KNOWN.to_json(), "history": [], "start": "anew"})
        else:
            (network.save if kind == "model.keras" else network.save_weights)(path)
            checkpoint.write_knowledge(path, KNOWN)
        again = model.build_model(width=WIDTH, seed=2)
        again.load_weights(path)
        np.testing.assert_array_equal(again.weights[0], network.weights[0])
    assert checkpoint.read_knowledge(path) == KNOWN
    assert checkpoint.read_arrays(path).keys() == arrays.keys()


def test_files_without_knowledge_say_that_nothing_is_known(tmp_path, arrays):
    checkpoint.save_arrays(tmp_path / "old.npz", arrays)
    write_frozen_graph(tmp_path / "model.pb", arrays, model.CHANNELS_LAST)
    checkpoint.save_checkpoint(model.build_model(width=WIDTH), tmp_path / "old.weights.h5", {"settings": {"seed": 1}})
    for name in ("old.npz", "model.pb", "old.weights.h5"):
        assert checkpoint.read_knowledge(tmp_path / name) is None
        network = msinet.load(tmp_path / name, data="osie", device="cpu")
        assert network.knowledge is None and network.input_size == (240, 320)
        assert "training: not known" in repr(network) and "does not say how it was trained" in network.summary()
        assert network.record()["knowledge"] is None


@pytest.mark.parametrize(
    "change",
    [{"input_size": [48, 60]}, {"input_size": 48}, {"datasets": []}, {"datasets": {"osie": {}}}, {"settings": 1}],
)
def test_knowledge_that_cannot_be_is_one_line(tmp_path, arrays, change):
    checkpoint.save_arrays(tmp_path / "x.npz", arrays)
    weight_files.write_note(tmp_path / "x.npz", {**KNOWN.to_json(), **change})
    with pytest.raises(UserError, match=r"x\.npz says of itself what cannot be"):
        checkpoint.read_knowledge(tmp_path / "x.npz")


def test_network_predicts_at_the_size_that_its_weights_were_trained_with(tmp_path, arrays):
    path = tmp_path / "known.npz"
    checkpoint.save_arrays(path, arrays, KNOWN)
    for data, size in (("osie", (48, 64)), ("cat2000", (24, 32)), ("mit1003", (48, 64))):
        network = msinet.load(path, data=data, device="cpu")
        assert network.input_size == size and network.knowledge == KNOWN
    assert "input 48×64, trained on osie (3 images, 1 validating) and cat2000 (1 images, 0" in repr(network)
    assert network.record()["knowledge"]["datasets"]["osie"] == {"train": 3, "valid": 1, "sha256": "1234"}
    other = msinet.load(path, data="osie", input_size=(16, 16), device="cpu")
    assert other.input_size == (16, 16)
    exported = checkpoint.knowledge_of(other)
    assert exported.input_size == (16, 16) and exported.datasets == KNOWN.datasets
    unknown = checkpoint.knowledge_of(msinet.from_arrays(arrays, (24, 32)))
    assert (unknown.input_size, unknown.context, unknown.datasets) == ((24, 32), "aspp", {})


def test_images_that_trained_are_known_by_name_and_dataset():
    assert KNOWN.trained_on("osie", ["c", "b", "x", "a"]) == ["b", "a"]
    assert KNOWN.trained_on("salicon", ["a"]) == [] and KNOWN.valid_names("salicon") == ()
    assert KNOWN.valid_names("osie") == ("c",)
