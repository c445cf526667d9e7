"""Exports: each format in its own runtime, its text, and failures."""

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
from conftest import assert_close, exif, write
from PIL import Image, ImageOps

import msinet
from msinet import bundled, checkpoint, images, main, model
from msinet.config import DEMO_SIZES, EXPORTS
from msinet.phases import export
from msinet.phases.formats import FORMATS, base, card, hub, node, tfjs
from msinet.phases.formats.examples import run_example
from msinet.photographs import sample_photograph

ROOT = Path(__file__).parents[1]
EVERY = [(name, bits) for name, offered in EXPORTS.items() for bits in offered]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a narrow network with seeded weights, whose input takes each photograph's shape."""
    path = tmp_path_factory.mktemp("weights") / "narrow.npz"
    np.savez(path, **seeded_network(0.125))
    checkpoint.write_knowledge(path, checkpoint.Knowledge((72, 96), "aspp", "width 0.125", fit_shape=True))
    return path


def seeded_network(width: float) -> dict:
    arrays = checkpoint.arrays_of(model.build_model(width=width, seed=3))
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
            assert main.main(["export", "--weights", str(weights), *arguments]) == 0
        return output

    return run


def skip_without_runtime(name):
    for part in FORMATS[name]:
        for package in part.packages:
            pytest.importorskip(package)
    if name == "tfjs" and not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node or npm is not installed")


def replace_part(monkeypatch, name, **changes):
    """Change a format, for example how it is written."""
    (part,) = FORMATS[name]
    monkeypatch.setitem(FORMATS, name, (dataclasses.replace(part, **changes),))
    return part


@pytest.fixture(scope="module")
def network(weights):
    return msinet.load(weights, device="cpu")


@pytest.fixture
def run(weights, tmp_path):
    """`export` of a narrow network with one small input size into `tmp_path / "out"`."""
    fixed = ["--weights", str(weights), "--input-size", "48", "64", "--output", str(tmp_path / "out")]
    return lambda *arguments: main.main(["export", *fixed, *arguments])


def test_formats_and_bits_match_the_command_line():
    assert FORMATS.keys() == EXPORTS.keys()
    assert {bits for offered in EXPORTS.values() for bits in offered} == export.BOUNDS.keys()


# --- Every format -----------------------------------------------------------------------------------------------------


def test_export_of_a_file_is_named_after_it(weights, tmp_path):
    fixed = ["export", "--format", "weights", "--results", str(tmp_path), "--input-size", "48", "64"]
    assert main.main([*fixed, "--weights", str(weights)]) == main.main([*fixed, "--weights", "lite"]) == 0
    names = {folder.name for folder in (tmp_path / "exports").iterdir()}
    assert names == {"narrow_width0.125_weights_32", "salicon_lite_weights_32"}


@pytest.mark.parametrize(("name", "bits"), EVERY)
def test_export_agrees_with_the_network_in_its_own_runtime(exported, network, photograph, name, bits):
    folder = exported(name, bits)
    record = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    assert record["format"] == name and record["bits"] == bits and record["variant"] == "width 0.125"
    for row in record["proof"]:
        assert 0 <= max(row["difference"], row["example_difference"]) <= record["bound"] == export.BOUNDS[bits]
        sizes = {name: found["input_size"] for name, found in row["photographs"].items()}
        assert sizes == {"landscape": [72, 96], "portrait": [96, 72], "panorama": [64, 112]}
        assert row["example_difference"] == max(found["difference"] for found in row["photographs"].values())
    # Check the export itself too, with another size and number of images than `export` did.
    batch = np.stack([photograph(80, 104, seed) for seed in range(3)]).astype(np.float32)
    expected = network(batch).numpy()
    for part in FORMATS[name]:
        maps = part.predict(folder, batch)
        assert maps.shape == (3, 80, 104, 1)
        assert np.abs(maps - expected).max() <= export.BOUNDS[bits]


@pytest.mark.parametrize("name", ["savedmodel", "tflite", "tfjs"])  # The others read and resize like one of these.
def test_example_in_the_text_predicts_the_programs_map(exported, network, photograph, name):
    """`export` has run it on other photographs. These are narrower, wider, and smaller than the network's input."""
    (part,) = FORMATS[name]
    portrait, panorama, transparent = photograph(50, 31), photograph(30, 200), photograph(60, 60)
    given, expected = [portrait, panorama], [network.predict(portrait), network.predict(panorama)]
    if part.language == "python":
        given.append(np.dstack([transparent, np.full((60, 60), 128, np.uint8)]))
        expected.append(network.predict(np.round((transparent * 128.0 + 255 * 127) / 255).astype(np.uint8)))
    maps = run_example(part, exported(name, 32), given, network)
    assert [saliency.dtype for saliency in maps] == [np.float32] * len(given)
    for saliency, image, bound in zip(maps, expected, (1e-4, 1e-4, 0.02), strict=False):
        np.testing.assert_allclose(saliency, image, atol=bound)


def test_example_with_one_input_size_predicts_the_map_of_test_with_that_size(run, weights, photograph, tmp_path):
    skip_without_runtime("tflite")
    assert run("--format", "tflite") == 0
    fixed, portrait = msinet.load(weights, input_size=(48, 64), device="cpu"), photograph(50, 31, seed=4)
    assert "fit(photograph, (48, 64))" in (tmp_path / "out" / "MODEL.md").read_text(encoding="utf-8")
    (saliency,) = run_example(FORMATS["tflite"][0], tmp_path / "out", [portrait], fixed)
    np.testing.assert_allclose(saliency, fixed.predict(portrait), atol=1e-4)
    assert np.abs(saliency - msinet.load(weights, device="cpu").predict(portrait)).max() > 0.1


def test_examples_turn_photographs_upright(tmp_path, monkeypatch, photograph):
    stored = Image.fromarray(photograph(20, 30))
    stored.save(tmp_path / "photograph.png", exif=exif(6))
    monkeypatch.chdir(tmp_path)
    found = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec(base.READ_PHOTOGRAPH, found)
    np.testing.assert_array_equal(found["photograph"], np.rot90(np.asarray(stored), -1))


@pytest.mark.parametrize(("name", "bits"), EVERY)
def test_export_has_examples_and_geometry_and_no_path_of_this_computer(exported, weights, network, name, bits):
    folder = exported(name, bits)
    files = [file for file in folder.rglob("*") if file.suffix in (".json", ".md", ".js", ".py")]
    texts = {file.name: file.read_text(encoding="utf-8") for file in files}
    assert not any(str(weights.parent) in text for text in texts.values())
    record = json.loads(texts["check.json"])
    assert record["weights"] == weights.name and record["reason"] == "named by --weights"
    text = texts["README.md" if name == "hub" else "MODEL.md"]
    assert "72×96: 64×104, " in text
    assert all(base.fill_example(part.example, network) in text for part in FORMATS[name])
    if name != "weights":  # This format is used through the program.
        source = node.DEMO_FOLDER / "geometry.js" if name == "tfjs" else ROOT / "geometry.py"
        assert texts[source.name] == source.read_text(encoding="utf-8")


# --- Texts ------------------------------------------------------------------------------------------------------------


def test_text_states_training_data_and_license_of_the_bundled_network():
    origin = card.provenance(msinet.load("lite", device="cpu"))
    assert "499 images of OSIE (Xu et al." in origin.training and "never seen SALICON" in origin.training
    assert origin.license.startswith("MIT") and origin.spdx == "mit" and origin.facts == bundled.facts("lite")


def test_text_states_training_data_of_other_networks(network):
    def provenance(file, knowledge=None):
        weights = checkpoint.Choice(Path("weights") / file, "")
        return card.provenance(dataclasses.replace(network, weights=weights, knowledge=knowledge))

    assert "(the encoder) and SALICON" in provenance("model_salicon_cpu.pb").training
    assert "SALICON and MIT1003" in provenance("model_mit1003_gpu.pb").training
    assert "unknown data" in provenance("mine.npz").training and provenance("mine.npz").spdx == "other"
    images = checkpoint.TrainedOn((72, 96), ("a", "b", "c"), ("d",), sha256="0")
    knowledge = checkpoint.Knowledge((72, 96), "aspp", "lite", {"osie": images})
    assert provenance("mine.npz", knowledge).training == "osie (3 images)."


def test_hub_folder_is_a_repository_with_front_matter_and_sizes(exported):
    folder = exported("hub", 32)
    assert {file.name for file in folder.iterdir()} == {
        ".gitattributes", "README.md", "check.json", "config.json", "geometry.py", "msinet.keras", "msinet.onnx"
    }  # fmt: skip
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert re.match(r"---\nlicense: other\n(.+\n)+---\n\n# MSI-Net", text)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["input_size"] == [72, 96] and config["fit_shape"]
    assert "*.onnx filter=lfs" in (folder / ".gitattributes").read_text(encoding="utf-8")


def test_hub_folder_of_the_bundled_network_has_its_scores_and_card(tmp_path):
    hub.write_repository(msinet.load("lite", device="cpu"), tmp_path, "# MSI-Net\n")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    front = text.split("---\n")[1]
    assert "license: mit\n" in front and 'name: "OSIE\'s 200 validation images"' in front
    score = bundled.facts("lite")["scores"]["osie"][bundled.BY_SHAPE]["network"]["NSS"]["mean"]
    assert f"- type: nss\n      name: NSS\n      value: {score:.3f}\n" in front
    assert "\n## Model card: the networks" in text and "\n### Limits\n" in text
    assert (tmp_path / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


# --- TensorFlow.js ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "bits", "bound", "sizes"),
    [(0.25, 32, 1e-4, DEMO_SIZES), (0.25, 16, 1e-3, DEMO_SIZES), (1.0, 16, 1e-3, DEMO_SIZES[:3])],  # Others are slow.
)
def test_tensorflow_js_agrees_at_the_demos_sizes(tmp_path, width, bits, bound, sizes):
    skip_without_runtime("tfjs")
    node.install_node_packages()
    network = msinet.network.from_arrays(seeded_network(width), (240, 320))
    tfjs.write_tfjs(network, tmp_path, bits)
    keras_model = base.keras_model(network)
    photograph = images.decode_image(tf.io.read_file(str(sample_photograph())), 3)
    batches = [images.resize_and_pad(photograph, size, images.IMAGE_PADDING).numpy()[None] for size in sizes]
    maps, _ = node.run_in_node(tmp_path, batches)
    for fitted, received in zip(batches, maps, strict=True):
        assert np.abs(received - keras_model(fitted).numpy()).max() <= bound, fitted.shape


def test_tensorflow_js_has_fused_convolutions_and_shards_of_at_most_4_mebibytes(tmp_path):
    tfjs.write_tfjs(msinet.network.from_arrays(seeded_network(0.25), (240, 320)), tmp_path, 32)
    description = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    operations = [node["op"] for node in description["modelTopology"]["node"]]
    assert operations.count("_FusedConv2D") == 23
    assert not {"Conv2D", "BiasAdd", "Relu", "SpaceToBatchND"} & set(operations)
    (manifest,) = description["weightsManifest"]
    shapes = {row["name"]: row["shape"] for row in manifest["weights"]}
    assert len(shapes["decoder/conv4/bias"]) == 1 and shapes["conv5/conv5_1/kernel"] == [3, 3, 128, 128]
    sizes = [(tmp_path / path).stat().st_size for path in manifest["paths"]]
    assert len(sizes) == 2 and max(sizes) == 4 * 2**20
    assert sum(sizes) == sum(4 * int(np.prod(shape)) for shape in shapes.values())


# --- Keras and TensorFlow ---------------------------------------------------------------------------------------------


def test_keras_export_has_no_setting_that_keras_3_4_rejects(exported):
    """These are the settings that Keras 3.4.0 rejected."""
    with zipfile.ZipFile(exported("keras", 32) / "msinet.keras") as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
    settings = {layer["class_name"]: layer["config"] for layer in layers}
    assert "input_axes" not in json.dumps(layers) and settings["Conv2D"]["kernel_initializer"]["class_name"] == "Zeros"
    operations = [layer for layer in layers if layer["module"].startswith("keras.src.ops")]
    assert len(operations) > 20 and not any("name" in layer["config"] for layer in operations)
    assert not {"ragged", "optional"} & settings["InputLayer"].keys() and "dtype" not in settings["ZerosLike"]


def test_savedmodel_accepts_photographs_of_any_size_and_holds_the_weights_once(exported, network, photograph):
    folder = exported("savedmodel", 32) / "saved_model"
    assert (folder / "saved_model.pb").stat().st_size < 1.2 * sum(values.nbytes for values in network.arrays.values())
    predict = tf.saved_model.load(str(folder)).signatures["photograph"]
    for height, width in ((150, 200), (31, 20), (1, 90)):
        image = photograph(height, width, seed=height)
        saliency = predict(photograph=tf.constant(image))["saliency"].numpy()
        assert saliency.dtype == np.float32
        assert_close(saliency, network.predict(image))  # Another graph, so with oneDNN other sums.


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
    assert_close(np.load(tmp_path / "maps" / "saliency.npy"), network.predict(image))


def test_onnx_names_its_axes_and_halves_its_kernels(exported, network):
    onnx = pytest.importorskip("onnx")
    files = {bits: onnx.load(exported("onnx", bits) / "msinet.onnx") for bits in (32, 16)}
    for file in files.values():
        for value, channels in ((file.graph.input[0], 3), (file.graph.output[0], 1)):
            axes = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            assert axes == ["batch", "height", "width", channels]
        assert file.opset_import[0].version == 17
    assert files[16].ByteSize() < 0.6 * files[32].ByteSize()


@pytest.mark.parametrize(
    ("name", "file"), [("keras", "msinet.keras"), ("weights", "msinet.weights.h5"), ("savedmodel", "saved_model")]
)
def test_weights_can_be_read_back_from_what_was_exported(exported, weights, name, file):
    np.testing.assert_equal(checkpoint.read_arrays(exported(name, 32) / file), checkpoint.read_arrays(weights))
    assert msinet.load(exported(name, 32) / file).input_size == (72, 96)


# --- Failures ---------------------------------------------------------------------------------------------------------


def break_example(monkeypatch):
    example = FORMATS["tflite"][0].example.replace(" = restore", " = 0.9 * restore")
    replace_part(monkeypatch, "tflite", example=example)


def hide_package(monkeypatch):
    find_spec = export.importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find_spec(name))


def hide_node(monkeypatch):
    monkeypatch.setattr(node, "NODE_FOLDER", Path("nowhere"))
    monkeypatch.setattr(node.shutil, "which", lambda name: None)


def fill_disk(monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=500_000))
    replace_part(monkeypatch, "weights", write=lambda *arguments: pytest.fail("HDF5 would abort the process here"))


def fill_disk_later(error):
    def write(*arguments):
        raise error

    return lambda monkeypatch: replace_part(monkeypatch, "savedmodel", write=write)


FULL = "No space left on device"


@pytest.mark.parametrize(
    ("arrange", "arguments", "words"),
    [
        (break_example, ("tflite",), ["differ from the program's by 0.1,"]),
        (hide_package, ("onnx",), ["tf2onnx", "requirements-export.txt"]),
        (hide_node, ("tfjs",), ["needs node"]),
        (lambda monkeypatch: None, ("onnx", "--bits", "8"), ["onnx", "32", "8"]),
        (lambda monkeypatch: None, ("tflite", "--bits", "8", "--calibration", "x"), ["folder: x", "--calibration"]),
        (fill_disk, ("weights",), ["disk is full"]),
        (fill_disk_later(OSError(errno.ENOSPC, FULL)), ("savedmodel",), [FULL, "nothing was kept"]),
        (fill_disk_later(tf.errors.ResourceExhaustedError(None, None, FULL)), ("savedmodel",), [FULL]),
    ],
)
def test_failure_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch, capsys, arrange, arguments, words):
    skip_without_runtime(arguments[0])
    arrange(monkeypatch)
    assert run("--format", *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words)
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_earlier_export(run, exported, tmp_path, monkeypatch):
    def contents():
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    shutil.copytree(exported("weights", 32), tmp_path / "out")
    before = contents()
    monkeypatch.setitem(export.BOUNDS, 32, -1.0)
    assert run("--format", "weights") == 2
    assert contents() == before


def test_folder_of_other_files_is_never_replaced(run, tmp_path, capsys):
    kept = write(tmp_path / "out" / "thesis.txt", b"years of work")
    assert run("--format", "weights") == 2
    assert "did not write" in capsys.readouterr().err and kept.read_bytes() == b"years of work"


def test_eight_bits_are_calibrated_on_the_given_folder(run, tmp_path, photograph, monkeypatch):
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


def test_unwritable_results_are_detected_before_the_network_is_loaded(weights, tmp_path, monkeypatch, capsys):
    results = write(tmp_path / "results", b"a file instead of a folder")
    monkeypatch.setattr(msinet.network, "load", lambda *arguments, **options: pytest.fail("it was loaded"))
    assert main.main(["export", "--format", "weights", "--weights", str(weights), "--results", str(results)]) == 2
    assert "is not writable" in capsys.readouterr().err
