"""Exports: each format in its own runtime, its text, and what happens when it cannot be made."""

import dataclasses
import errno
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write

import checkpoint
import images
import main
import model
import msinet
from config import DEMO_SIZES, EXPORTS
from phases import export
from phases.formats import FORMATS, base, card, hub, keras, node, tfjs
from phases.formats.examples import run_example
from photographs import sample_photograph
from utils import UserError, check_writable

ROOT = Path(__file__).parents[1]
EVERY = [(name, bits) for name, offered in EXPORTS.items() for bits in offered]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A narrow network with seeded weights, in a file."""
    path = tmp_path_factory.mktemp("weights") / "narrow.npz"
    np.savez(path, **seeded_network(0.125))
    return path


def seeded_network(width: float, context: str = "aspp") -> dict:
    network = model.build_model(width=width, context=context, seed=3)
    arrays = checkpoint.arrays_of(network)
    random = np.random.default_rng(3)
    for name in arrays:
        if name.endswith("bias"):
            arrays[name] = random.normal(0, 0.05, arrays[name].shape).astype(np.float32)
    return arrays


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    """Export with the command, once: `exported("onnx", 32)` -> the folder."""
    folder = tmp_path_factory.mktemp("exports")

    def run(name, bits):
        skip_without_runtime(name)
        output = folder / f"{name}{bits}"
        if not output.exists():
            arguments = ["--format", name, "--bits", str(bits), "--output", str(output)]
            assert main.main(["export", "--weights", str(weights), "--input-size", "72", "96", *arguments]) == 0
        return output

    return run


def skip_without_runtime(name):
    for part in FORMATS[name]:
        for package in part.packages:
            pytest.importorskip(package)
    if name == "tfjs" and not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node or npm is not installed")


def replace_part(monkeypatch, name, **changes):
    """Change a format of one part, such as how it is written."""
    (part,) = FORMATS[name]
    monkeypatch.setitem(FORMATS, name, (dataclasses.replace(part, **changes),))
    return part


@pytest.fixture(scope="module")
def network(weights):
    return msinet.load(weights, input_size=(72, 96), device="cpu")


def test_table_of_formats_is_that_of_the_command_line():
    assert FORMATS.keys() == EXPORTS.keys()
    assert {bits for offered in EXPORTS.values() for bits in offered} == export.BOUNDS.keys()


# --- Every format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bits"), EVERY)
def test_export_agrees_with_the_network_in_its_own_runtime(exported, network, photograph, name, bits):
    folder = exported(name, bits)
    record = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    assert record["format"] == name and record["bits"] == bits and record["variant"] == "width 0.125"
    for row in record["proof"]:
        assert 0 <= max(row["difference"], row["example_difference"]) <= record["bound"] == export.BOUNDS[bits]
    # The record is not taken on trust; nor is the size or the number of images that it was made with.
    batch = np.stack([photograph(80, 104, seed) for seed in range(3)]).astype(np.float32)
    expected = network(batch).numpy()
    for part in FORMATS[name]:
        maps = part.predict(folder, batch)
        assert maps.shape == (3, 80, 104, 1)
        assert np.abs(maps - expected).max() <= export.BOUNDS[bits]


@pytest.mark.parametrize("name", [name for name in EXPORTS if name != "hub"])  # It holds two of the others.
def test_example_in_the_text_makes_the_programs_map_of_another_photograph(exported, network, photograph, name):
    """`export` has run it on the sample photograph. This one is narrower, and smaller than the network."""
    folder = exported(name, 32)
    (part,) = FORMATS[name]
    assert base.fill(part.example, height=72, width=96) in (folder / "MODEL.md").read_text(encoding="utf-8")
    image = photograph(50, 31, seed=4)
    saliency = run_example(part, folder, image, (72, 96))
    assert saliency.shape == (50, 31) and saliency.dtype == np.float32
    np.testing.assert_allclose(saliency, network.predict(image), atol=1e-4)


def test_example_runs_without_this_program_on_its_path(exported, monkeypatch):
    folder = exported("keras", 32)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    part = dataclasses.replace(keras.FORMAT, example="import msinet")
    with pytest.raises(UserError, match="No module named 'msinet'"):
        run_example(part, folder, np.zeros((8, 8, 3), np.uint8), (72, 96))


def test_difference_of_the_example_is_measured_and_bound(run, tmp_path, monkeypatch, capsys):
    part = FORMATS["weights"][0]
    replace_part(monkeypatch, "weights", example=part.example.replace(" = network.predict", " = 0.9 * network.predict"))
    assert run("--format", "weights") == 2
    assert "differ from the program's by 1.0e-01" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "bits"), EVERY)
def test_export_names_no_folder_of_this_computer(exported, weights, name, bits):
    folder = exported(name, bits)
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".md", ".js", ".py"):
            assert str(weights.parent) not in file.read_text(encoding="utf-8")
    record = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    assert record["weights"] == weights.name and record["reason"] == "named by --weights"


def test_geometry_goes_with_every_export(exported):
    for name in EXPORTS:
        if name == "weights":  # They are used through the program.
            continue
        skip_without_runtime(name)
        file = "geometry.js" if name == "tfjs" else "geometry.py"
        source = (node.DEMO_FOLDER if name == "tfjs" else ROOT) / file
        assert (exported(name, 32) / file).read_bytes() == source.read_bytes()


# --- What the texts say -----------------------------------------------------------------------------------------------


def test_text_says_what_the_lite_network_was_trained_on_and_its_licence():
    origin = card.provenance(msinet.load("lite", device="cpu"))
    assert "OSIE" in origin.training and "never seen SALICON" in origin.training
    assert origin.licence.startswith("MIT") and origin.spdx == "mit"
    assert origin.scores.keys() == {"AUC", "sAUC", "NSS", "CC", "SIM", "KLD", "IG"}
    assert origin.scores["NSS"] > 3 and "OSIE's 200 validation images" in origin.scored_on


def test_text_says_what_a_published_network_was_trained_on(network):
    def named(file):
        weights = checkpoint.Choice(Path("weights") / file, "the published network")
        return card.provenance(dataclasses.replace(network, weights=weights))

    assert "SALICON" in named("model_salicon_cpu.pb").training
    assert "SALICON and MIT1003" in named("model_mit1003_gpu.pb").training
    assert "does not name" in named("mine.npz").training and named("mine.npz").spdx == "other"


def test_text_says_what_ones_own_network_was_trained_on(network):
    images = checkpoint.TrainedOn((72, 96), ("a", "b", "c"), ("d",), sha256="0")
    knowledge = checkpoint.Knowledge((72, 96), "aspp", "lite", {"osie": images})
    assert card.provenance(dataclasses.replace(network, knowledge=knowledge)).training == "osie (3 images)."


def test_hub_folder_is_a_repository_with_front_matter_and_sizes(exported):
    folder = exported("hub", 32)
    assert {file.name for file in folder.iterdir()} == {
        ".gitattributes", "README.md", "check.json", "config.json", "geometry.py", "msinet.keras", "msinet.onnx"
    }  # fmt: skip
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(base.fill(part.example, height=72, width=96) in text for part in FORMATS["hub"])
    assert re.match(r"---\nlicense: other\n(.+\n)+---\n\n# MSI-Net", text)
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["input_size"] == [72, 96]
    assert "*.onnx filter=lfs" in (folder / ".gitattributes").read_text(encoding="utf-8")


def test_front_matter_of_the_lite_network_has_its_metrics_and_their_images(tmp_path):
    network = msinet.load("lite", device="cpu")
    hub.write_repository(network, tmp_path, "# MSI-Net\n")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    front = text.split("---\n")[1]
    assert "license: mit\n" in front and 'name: "OSIE\'s 200 validation images"' in front
    assert re.search(r"- type: nss\n +name: NSS\n +value: 3\.\d+\n", front)
    assert "\n## Model card: the lite MSI-Net\n" in text and "\n### Limits\n" in text
    assert (tmp_path / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


# --- TensorFlow.js ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "sizes"), [(0.25, DEMO_SIZES), (1.0, DEMO_SIZES[:3])])  # The rest takes long.
@pytest.mark.parametrize(("bits", "bound"), [(32, 1e-4), (16, 1e-3)])
def test_tensorflow_js_agrees_at_the_demos_sizes(tmp_path, width, sizes, bits, bound):
    skip_without_runtime("tfjs")
    node.install_node_packages()
    network = msinet.from_arrays(seeded_network(width), (240, 320))
    tfjs.write_tfjs(network, tmp_path, bits)
    keras_model = base.keras_model(network)
    photograph = images.decode_image(tf.io.read_file(str(sample_photograph())), 3)
    batches = [images.resize_and_pad(photograph, size, images.IMAGE_PADDING).numpy()[None] for size in sizes]
    maps, _ = node.run_in_node(tmp_path, batches)
    for fitted, received in zip(batches, maps, strict=True):
        assert np.abs(received - keras_model(fitted).numpy()).max() <= bound, fitted.shape


def test_tensorflow_js_gets_fused_convolutions_with_flat_biases(weights, tmp_path):
    tfjs.write_tfjs(msinet.from_arrays(checkpoint.read_arrays(weights), (72, 96)), tmp_path, 32)
    description = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    operations = [node["op"] for node in description["modelTopology"]["node"]]
    assert operations.count("_FusedConv2D") == 23
    assert not {"Conv2D", "BiasAdd", "Relu", "SpaceToBatchND"} & set(operations)
    manifest = {row["name"]: row for row in description["weightsManifest"][0]["weights"]}
    assert len(manifest["decoder/conv4/bias"]["shape"]) == 1
    assert manifest["conv5/conv5_1/kernel"]["shape"] == [3, 3, 64, 64]


def test_shards_have_at_most_4_mebibytes_and_all_the_bytes(tmp_path):
    tfjs.write_tfjs(msinet.from_arrays(seeded_network(0.25), (240, 320)), tmp_path, 32)
    description = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    sizes = [(tmp_path / path).stat().st_size for path in description["weightsManifest"][0]["paths"]]
    assert len(sizes) == 2 and max(sizes) == 4 * 2**20
    weights = description["weightsManifest"][0]["weights"]
    assert sum(sizes) == sum(4 * int(np.prod(row["shape"])) for row in weights)


# --- Keras and TensorFlow ---------------------------------------------------------------------------------------------


def test_keras_export_has_no_setting_that_keras_3_4_refuses(exported):
    """Tried with Keras 3.4.0 itself; these are what it complained about."""
    with zipfile.ZipFile(exported("keras", 32) / "msinet.keras") as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
    settings = {layer["class_name"]: layer["config"] for layer in layers}
    assert "input_axes" not in json.dumps(layers) and settings["Conv2D"]["kernel_initializer"]["class_name"] == "Zeros"
    operations = [layer for layer in layers if layer["module"].startswith("keras.src.ops")]
    assert len(operations) > 20 and not any("name" in layer["config"] for layer in operations)
    assert not {"ragged", "optional"} & settings["InputLayer"].keys() and "dtype" not in settings["ZerosLike"]


def test_savedmodel_takes_photographs_of_any_size_and_predicts_like_the_program(exported, network, photograph):
    predict = tf.saved_model.load(str(exported("savedmodel", 32) / "saved_model")).signatures["photograph"]
    for height, width in ((150, 200), (31, 20), (1, 90)):
        image = photograph(height, width, seed=height)
        saliency = predict(photograph=tf.constant(image))["saliency"].numpy()
        assert saliency.dtype == np.float32
        np.testing.assert_allclose(saliency, network.predict(image), atol=1e-6)


def test_savedmodel_runs_from_the_command_line_as_its_text_says(exported, network, photograph, tmp_path):
    folder = exported("savedmodel", 32)
    text = (folder / "MODEL.md").read_text(encoding="utf-8").replace("\\\n", " ")  # One line, as for a shell.
    command = re.findall(r"```bash\n(saved_model_cli run .+?)```", text, re.DOTALL)[0]
    image = photograph(90, 70)
    np.save(tmp_path / "photograph.npy", image)
    shutil.copytree(folder / "saved_model", tmp_path / "saved_model")
    program, *arguments = shlex.split(command)
    assert program == "saved_model_cli"
    module = "tensorflow.python.tools.saved_model_cli"
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "maps" / "saliency.npy"), network.predict(image), atol=1e-6)


def test_savedmodel_holds_the_weights_once(exported, network):
    size = (exported("savedmodel", 32) / "saved_model" / "saved_model.pb").stat().st_size
    assert size < 1.2 * sum(values.nbytes for values in network.arrays.values())


def test_onnx_names_its_axes_and_halves_its_kernels(exported, network):
    onnx = pytest.importorskip("onnx")
    files = {bits: onnx.load(exported("onnx", bits) / "msinet.onnx") for bits in (32, 16)}
    for file in files.values():
        for value, channels in ((file.graph.input[0], 3), (file.graph.output[0], 1)):
            axes = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            assert axes == ["batch", "height", "width", channels]
        assert file.opset_import[0].version == 17
    assert files[16].ByteSize() < 0.6 * files[32].ByteSize()


def test_portable_upsampling_is_the_published_one_borders_included():
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    legacy = model.LegacyUpsampling()(x).numpy()
    np.testing.assert_allclose(keras._portable_upsampling("up")(x).numpy(), legacy, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "file"), [("keras", "msinet.keras"), ("weights", "msinet.weights.h5"), ("savedmodel", "saved_model")]
)
def test_weights_can_be_read_back_from_what_was_exported(exported, weights, name, file):
    original, read = checkpoint.read_arrays(weights), checkpoint.read_arrays(exported(name, 32) / file)
    assert original.keys() == read.keys()
    for key in original:
        np.testing.assert_array_equal(original[key], read[key])
    assert msinet.load(exported(name, 32) / file).input_size == (72, 96)  # What it was exported for.


def test_paper_ablation_can_be_exported_too(tmp_path):
    np.savez(tmp_path / "plain.npz", **seeded_network(0.125, "plain"))
    arguments = [
        "--weights",
        str(tmp_path / "plain.npz"),
        "--output",
        str(tmp_path / "out"),
        "--input-size",
        "48",
        "64",
    ]
    assert main.main(["export", "--format", "savedmodel", *arguments]) == 0


# --- Failures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(weights, tmp_path):
    """`export` of a narrow network at a small size into `tmp_path / "out"`."""
    fixed = ["--weights", str(weights), "--input-size", "48", "64", "--output", str(tmp_path / "out")]
    return lambda *arguments: main.main(["export", *fixed, *arguments])


def test_export_beyond_its_bound_fails_and_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(export.BOUNDS, 32, -1.0)
    assert run("--format", "weights") == 2
    assert "differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_earlier_export_as_it_was(run, tmp_path, monkeypatch):
    assert run("--format", "weights") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setitem(export.BOUNDS, 32, -1.0)
    assert run("--format", "weights") == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_missing_package_is_named(run, tmp_path, monkeypatch, capsys):
    find_spec = export.importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find_spec(name))
    pytest.importorskip("onnx")
    assert run("--format", "onnx") == 2
    error = capsys.readouterr().err
    assert "tf2onnx" in error and "requirements-export.txt" in error
    assert list(tmp_path.iterdir()) == []


def test_missing_node_is_named(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(node, "DEMO_FOLDER", tmp_path / "demo")
    monkeypatch.setattr(node.shutil, "which", lambda name: None)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "package-lock.json").write_text("{}")
    assert run("--format", "tfjs") == 2
    assert "needs node" in capsys.readouterr().err


def test_folder_of_something_else_is_never_replaced(run, tmp_path, capsys):
    kept = write(tmp_path / "out" / "thesis.txt", b"years of work")
    assert run("--format", "weights") == 2
    assert "did not write" in capsys.readouterr().err
    assert kept.read_bytes() == b"years of work"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "onnx", "--bits", "8"), ["onnx", "32", "8"]),
        (("--format", "tflite", "--bits", "8", "--calibration", "nowhere"), ["nowhere", "--calibration"]),
    ],
)
def test_mistakes_are_one_line(run, capsys, arguments, words):
    if "tflite" in arguments:
        skip_without_runtime("tflite")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words)


def test_eight_bits_are_calibrated_on_the_folder_that_is_named(run, tmp_path, photograph, monkeypatch):
    skip_without_runtime("tflite")
    for i in range(3):
        write(tmp_path / "photographs" / f"{i}.png", tf.io.encode_png(photograph(seed=i)))
    seen = []
    original = FORMATS["tflite"][0].write

    def noting(network, folder, bits, calibration):
        seen.extend(calibration)
        original(network, folder, bits, calibration)

    monkeypatch.setitem(export.BOUNDS, 8, 1.0)  # Noise calibrates badly.
    replace_part(monkeypatch, "tflite", write=noting)
    assert run("--format", "tflite", "--bits", "8", "--calibration", str(tmp_path / "photographs")) == 0
    assert [images.shape for images in seen] == [(1, 48, 64, 3)] * 3


def test_full_disk_is_noticed_before_anything_is_written(run, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=500_000))
    replace_part(monkeypatch, "weights", write=lambda *arguments: pytest.fail("HDF5 would have died here"))
    assert run("--format", "weights") == 2
    assert "disk is full" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
    ],
)
def test_disk_that_fills_up_later_is_one_line(run, tmp_path, monkeypatch, capsys, failure):
    def fail(*arguments):
        raise failure

    replace_part(monkeypatch, "savedmodel", write=fail)
    assert run("--format", "savedmodel") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device" in error and "nothing was kept" in error
    assert list(tmp_path.iterdir()) == []


def test_unwritable_results_are_noticed_before_the_network_is_loaded(weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "results").write_text("a file, and no folder")
    monkeypatch.setattr(msinet, "load", lambda *arguments, **options: pytest.fail("it was loaded"))
    arguments = ["--weights", str(weights), "--results", str(tmp_path / "results")]
    assert main.main(["export", "--format", "weights", *arguments]) == 2
    assert "Nothing can be written into" in capsys.readouterr().err


def test_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
