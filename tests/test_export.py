"""Exports: each format in its own runtime, its text, and what happens when it cannot be made."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
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
    for package in export.FORMATS[name].packages:
        pytest.importorskip(package)
    if name == "tfjs" and not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node or npm is not installed")


def test_table_of_formats_is_that_of_the_command_line():
    assert export.FORMATS.keys() == EXPORTS.keys()
    assert {bits for offered in EXPORTS.values() for bits in offered} == export.BOUNDS.keys()


@pytest.mark.parametrize(("name", "bits"), EVERY)
def test_export_agrees_with_the_network_in_its_own_runtime(exported, weights, photograph, name, bits):
    folder = exported(name, bits)
    record = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    assert 0 <= record["max_difference"] <= record["bound"] == export.BOUNDS[bits]
    assert record["format"] == name and record["bits"] == bits and record["variant"] == "width 0.125"
    # The record is not taken on trust; nor is the size or the number of images that it was made with.
    images = np.stack([photograph(80, 104, seed) for seed in range(3)]).astype(np.float32)
    expected = msinet.from_arrays(checkpoint.read_arrays(weights), (72, 96))(images).numpy()
    maps = export.FORMATS[name].predict(folder, images)
    assert maps.shape == (3, 80, 104, 1)
    assert np.abs(maps - expected).max() <= export.BOUNDS[bits]


@pytest.mark.parametrize(("name", "bits"), EVERY)
def test_example_in_the_text_works_as_it_stands(exported, weights, photograph, tmp_path, monkeypatch, name, bits):
    folder = exported(name, bits)
    language, example = re.search(r"```(\w+)\n(.*?)```", (folder / "MODEL.md").read_text("utf-8"), re.DOTALL).groups()
    working = shutil.copytree(folder, tmp_path / "export")
    image = photograph(150, 200, seed=4)
    if language == "js":
        maps = run_javascript(example, working, image)
        padded = images.resize_and_pad(image, (72, 96), images.IMAGE_PADDING)[None]
        expected = msinet.from_arrays(checkpoint.read_arrays(weights), (72, 96))(padded).numpy()[0, ..., 0]
        # The example resizes bilinearly, the program by area.
        assert maps.shape == expected.shape and np.corrcoef(maps.ravel(), expected.ravel())[0, 1] > 0.98
        return
    write(working / "photograph.jpg", tf.io.encode_jpeg(image, quality=98))
    monkeypatch.chdir(working)
    exec(example, {})
    saved = images.decode_image(tf.io.read_file(str(working / "saliency.png")), 1).numpy()
    network = msinet.from_arrays(checkpoint.read_arrays(weights), (72, 96))
    padded = images.resize_and_pad(image, (72, 96), images.IMAGE_PADDING)[None]
    expected = images.crop_and_restore(network(padded)[0], (150, 200)).numpy()
    assert saved.shape == expected.shape
    # Pillow's resizing is not TensorFlow's.
    assert np.corrcoef(saved.ravel(), expected.ravel())[0, 1] > 0.98


def run_javascript(example: str, folder: Path, image: np.ndarray) -> np.ndarray:
    """Run the text's example in Node, where images are objects with pixels and `fetch` knows no files."""
    height, width = image.shape[:2]
    pixels = np.dstack([image, np.full((height, width), 255, np.uint8)])
    (folder / "pixels").write_bytes(pixels.tobytes())
    preamble = f"""
        import {{ readFileSync, writeFileSync }} from "node:fs";
        import * as core from "@tensorflow/tfjs-core";
        import "@tensorflow/tfjs-backend-cpu";
        import {{ loadGraphModel }} from "@tensorflow/tfjs-converter";
        const tf = {{ ...core, loadGraphModel }};
        process.chdir({json.dumps(str(folder))});
        globalThis.fetch = async (path) => new Response(readFileSync(path));
    """
    epilogue = f"""
        const data = new Uint8Array(readFileSync("pixels"));
        const map = predict({{ data, width: {width}, height: {height} }});
        writeFileSync("map", new Uint8Array((await map.data()).buffer));
        console.log(map.shape.join(" "));
    """
    script = preamble + example.replace('import * as tf from "@tensorflow/tfjs";', "") + epilogue
    script = script.replace("export const", "const")
    command = ["node", "--input-type=module", "--eval", script]
    finished = subprocess.run(command, cwd=export.DEMO_FOLDER, check=True, capture_output=True, text=True)
    return np.fromfile(folder / "map", np.float32).reshape([int(side) for side in finished.stdout.split()])


@pytest.mark.parametrize(("width", "sizes"), [(0.25, DEMO_SIZES), (1.0, DEMO_SIZES[:3])])  # The rest takes long.
@pytest.mark.parametrize(("bits", "bound"), [(32, 1e-4), (16, 1e-3)])
def test_tensorflow_js_agrees_at_the_demos_sizes(tmp_path, width, sizes, bits, bound):
    skip_without_runtime("tfjs")
    export.install_node_packages()
    network = msinet.from_arrays(seeded_network(width), (240, 320))
    export.write_tfjs(network, tmp_path, bits)
    keras_model = export.keras_model(network)
    photograph = images.decode_image(tf.io.read_file(str(main.sample_photograph())), 3)
    batches = [images.resize_and_pad(photograph, size, images.IMAGE_PADDING).numpy()[None] for size in sizes]
    maps, _ = export.run_in_node(tmp_path, batches)
    for fitted, received in zip(batches, maps, strict=True):
        assert np.abs(received - keras_model(fitted).numpy()).max() <= bound, fitted.shape


def test_tensorflow_js_gets_fused_convolutions_with_flat_biases(weights, tmp_path):
    export.write_tfjs(msinet.from_arrays(checkpoint.read_arrays(weights), (72, 96)), tmp_path, 32)
    description = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    operations = [node["op"] for node in description["modelTopology"]["node"]]
    assert operations.count("_FusedConv2D") == 23
    assert not {"Conv2D", "BiasAdd", "Relu", "SpaceToBatchND"} & set(operations)
    manifest = {row["name"]: row for row in description["weightsManifest"][0]["weights"]}
    assert len(manifest["decoder/conv4/bias"]["shape"]) == 1
    assert manifest["conv5/conv5_1/kernel"]["shape"] == [3, 3, 64, 64]


def test_shards_have_at_most_4_mebibytes_and_all_the_bytes(tmp_path):
    export.write_tfjs(msinet.from_arrays(seeded_network(0.25), (240, 320)), tmp_path, 32)
    description = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    sizes = [(tmp_path / path).stat().st_size for path in description["weightsManifest"][0]["paths"]]
    assert len(sizes) == 2 and max(sizes) == 4 * 2**20
    weights = description["weightsManifest"][0]["weights"]
    assert sum(sizes) == sum(4 * int(np.prod(row["shape"])) for row in weights)


def test_keras_export_opens_without_the_programs_code(exported, weights, photograph, tmp_path):
    folder = exported("keras", 32)
    images = np.stack([photograph(48, 64)]).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    script = f"""
import keras, numpy as np
network = keras.models.load_model({str(folder / "msinet.keras")!r})
np.save("maps.npy", network.predict_on_batch(np.load("images.npy")))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    expected = msinet.from_arrays(checkpoint.read_arrays(weights), (72, 96))(images).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "maps.npy"), expected, atol=1e-4)


def test_portable_upsampling_is_the_published_one_borders_included():
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    legacy = model.LegacyUpsampling()(x).numpy()
    np.testing.assert_allclose(export._portable_upsampling("up")(x).numpy(), legacy, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "file"), [("keras", "msinet.keras"), ("weights", "msinet.weights.h5"), ("savedmodel", "saved_model")]
)
def test_weights_can_be_read_back_from_what_was_exported(exported, weights, name, file):
    original, read = checkpoint.read_arrays(weights), checkpoint.read_arrays(exported(name, 32) / file)
    assert original.keys() == read.keys()
    for key in original:
        np.testing.assert_array_equal(original[key], read[key])


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
    monkeypatch.setattr(export, "DEMO_FOLDER", tmp_path / "demo")
    monkeypatch.setattr(export.shutil, "which", lambda name: None)
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
    original = export.FORMATS["tflite"].write

    def noting(network, folder, bits, calibration):
        seen.extend(calibration)
        original(network, folder, bits, calibration)

    monkeypatch.setitem(export.BOUNDS, 8, 1.0)  # Noise calibrates badly.
    monkeypatch.setitem(export.FORMATS, "tflite", dataclasses.replace(export.FORMATS["tflite"], write=noting))
    assert run("--format", "tflite", "--bits", "8", "--calibration", str(tmp_path / "photographs")) == 0
    assert [images.shape for images in seen] == [(1, 48, 64, 3)] * 3
