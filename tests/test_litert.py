"""The engine litert: the same pixels and maps as with TensorFlow, without importing it."""

import functools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import exif, write
from PIL import Image

import msinet
from msinet import images, main
from msinet.bundled import BUNDLED
from msinet.image_files import Unreadable, read_header
from msinet.photographs import sample_photograph
from msinet.utils import UserError

pytest.importorskip("ai_edge_litert", reason="needs requirements-litert.txt")
pytest.importorskip("simplejpeg", reason="needs requirements-litert.txt")

from msinet import litert

load = functools.cache(msinet.load)


@pytest.fixture
def network():
    return load("lite", engine="litert")


def sample(width: int, height: int) -> Image.Image:
    return Image.open(sample_photograph()).convert("RGB").resize((width, height))


def alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize(
    ("name", "convert", "options"),
    [
        ("a.jpg", lambda image: image, {"quality": 90}),
        ("a.jpg", lambda image: image, {"quality": 50, "subsampling": "4:2:2"}),
        ("a.jpg", lambda image: image, {"quality": 75, "subsampling": "4:4:4", "progressive": True}),
        ("a.jpg", lambda image: image, {"exif": exif(6)}),
        ("a.jpg", lambda image: image.convert("L"), {}),
        ("a.png", lambda image: image, {"exif": exif(7)}),
        ("a.png", lambda image: image.convert("L"), {}),
        ("a.png", lambda image: image.convert("LA"), {}),
        ("a.png", lambda image: image.convert("1"), {}),
        ("a.png", lambda image: image.quantize(9), {}),
        ("a.png", lambda image: image.quantize(9), {"transparency": 3}),
        ("a.png", alpha, {}),
        ("a.png", lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 251), {}),
        ("a.gif", lambda image: image.quantize(9), {}),
        ("a.bmp", lambda image: image, {}),
        ("a.tiff", alpha, {}),
        ("a.webp", alpha, {"lossless": True}),
    ],
)
def test_pixels_equal_those_of_tensorflow(tmp_path, name, convert, options):
    path = tmp_path / name
    convert(sample(101, 67)).save(path, **options)
    header = read_header(path)
    expected = images.read_image(path, header).numpy()
    np.testing.assert_array_equal(litert.read_image(path, header), expected)
    assert expected.std() > 10


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_of_16_bit_pngs_equal_those_of_tensorflow(tmp_path, channels):
    deep = np.random.default_rng(1).integers(0, 2**16, (9, 14, channels), np.uint16)
    path = write(tmp_path / "deep.png", tf.io.encode_png(deep).numpy())
    header = read_header(path)
    np.testing.assert_array_equal(litert.read_image(path, header), images.read_image(path, header))


def test_jpegs_that_it_cannot_decode_like_tensorflow_are_refused(tmp_path, network):
    path = tmp_path / "cmyk.jpg"
    sample(64, 48).convert("CMYK").save(path)
    with pytest.raises(UserError, match=r"cmyk\.jpg: .*CMYK.*--engine tensorflow"):
        network.predict(path)
    whole = sample_photograph().read_bytes()
    cut = write(tmp_path / "cut.jpg", whole[: len(whole) // 2])
    with pytest.raises(Unreadable, match="truncated after"):
        litert.read_image(cut, read_header(cut))


@pytest.mark.parametrize("size", [(640, 480), (300, 451), (1500, 200), (90, 60)])
@pytest.mark.parametrize("name", BUNDLED)
def test_maps_equal_those_of_tensorflow_up_to_rounding(tmp_path, name, size):
    path = tmp_path / "photograph.jpg"
    sample(*size).save(path, quality=95)
    engines = [load(name, engine=engine) for engine in ("tensorflow", "litert")]
    expected, found = (np.round(each.predict(path) * 255) for each in engines)
    assert found.shape == size[::-1] and expected.std() > 10
    assert np.mean(found == expected) >= 0.999 and np.abs(found - expected).max() <= 1


def test_batches_of_mixed_sizes_give_the_same_maps(network):
    photographs = [np.asarray(sample(*size)) for size in ((64, 48), (48, 64), (65, 48), (64, 48))]
    for one, together in zip(map(network.predict, photographs), network.predict_many(photographs, 3), strict=True):
        np.testing.assert_allclose(together, one, atol=1e-5)


def test_neither_the_command_nor_the_api_imports_tensorflow(tmp_path, network):
    script = f"""
import sys, msinet, msinet.main
from msinet.photographs import sample_photograph
flags = ["--weights", "lite", "--engine", "litert", "--overlay", "--results", {str(tmp_path)!r}]
assert msinet.main.main(["test", "-p", str(sample_photograph()), *flags]) == 0
msinet.load("lite", engine="litert").predict(str(sample_photograph()))
print([name for name in ("tensorflow", "keras", "h5py", "scipy") if name in sys.modules])
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "[]" and finished.stderr == ""
    record = json.loads((tmp_path / "test.json").read_text(encoding="utf-8"))
    assert record["engine"] == "litert" and record["variant"] == "lite" and record["sha256"]
    assert all((tmp_path / folder / "grace_hopper.jpeg").exists() for folder in ("images", "overlays"))


def test_overlays_equal_those_of_tensorflow(tmp_path):
    path = tmp_path / "a.jpg"
    sample(64, 48).save(path, exif=exif(6))
    overlays = []
    for engine in ("tensorflow", "litert"):
        results = tmp_path / engine
        flags = ["--weights", "lite", "--engine", engine, "--overlay", "--results", str(results)]
        assert main.main(["test", "-p", str(path), *flags]) == 0
        overlays.append(np.asarray(Image.open(results / "overlays" / "a.jpeg")).astype(int))
    assert overlays[0].shape == (64, 48, 3) and np.abs(overlays[0] - overlays[1]).mean() < 0.1


def test_network_is_converted_once(tmp_path, monkeypatch, network):
    monkeypatch.setattr(litert, "download_folder", lambda name: tmp_path / name)
    convert, converted = litert._convert, []
    monkeypatch.setattr(litert, "_convert", lambda name, file: converted.append(name) or convert(name, file))
    first, second = (msinet.load("lite", engine="litert") for _ in range(2))
    assert converted == ["lite"] and first.file == second.file and first.file.is_relative_to(tmp_path)
    assert first.record() == second.record() == network.record() | {"weights": first.record()["weights"]}


def test_network_can_be_pickled_and_describes_itself(network):
    photograph = np.asarray(sample(64, 48))
    expected = network.predict(photograph)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(network)).predict(photograph), expected)
    tensorflow = load("lite", engine="tensorflow")
    assert network.summary().splitlines()[0] == tensorflow.summary().splitlines()[0]
    facts, expected = network.record(), tensorflow.record()
    assert {key: facts[key] for key in facts.keys() - {"engine"}} == {
        key: expected[key] for key in facts.keys() - {"engine"}
    }


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"weights": None}, "received no --weights: add --weights medium or lite"),
        ({"weights": "a.npz"}, "received a.npz: add --weights medium or lite"),
        ({"device": "gpu"}, "does not support --device gpu"),
        ({"mirrored": True}, "does not support --mirrored"),
        ({"precision": "bfloat16"}, "does not support --precision bfloat16"),
        ({"gpus": 1}, "does not support --gpus 1"),
        ({"input_size": (100, 100)}, "expected a multiple of 8"),
        ({"data": "imagenet"}, "expected one of salicon"),
        ({"engine": "onnx"}, "expected tensorflow or litert"),
    ],
)
def test_everything_else_is_a_clear_error(arguments, complaint):
    with pytest.raises(UserError) as error:
        msinet.load(**({"weights": "lite", "engine": "litert"} | arguments))
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-litert\.txt"):
        msinet.load("lite", engine="litert")


def test_clusters_use_tensorflow(capsys):
    assert main.main(["test", "--engine", "litert", "--weights", "lite", "--cluster"]) == 2
    assert "--engine litert works only without --cluster" in capsys.readouterr().err
