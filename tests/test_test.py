"""Prediction: from files to maps, whatever the files are."""

import json
import os
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import write

import checkpoint
import data
import images
import main
import model
import msinet
import utils
from phases import test


@pytest.fixture
def weights(tmp_path):
    """A file with the weights of a narrow network."""
    network = model.build_model(width=0.25, seed=5)
    path = tmp_path / "weights" / "narrow.npz"
    path.parent.mkdir()
    np.savez(path, **checkpoint.arrays_of(network))
    return path


@pytest.fixture
def run(tmp_path, weights):
    """`test` with that network at a small size; results go to `tmp_path / "results"`."""

    def run_test(path, *flags):
        fixed = ("--weights", str(weights), "--results", str(tmp_path / "results"), "--input-size", "48", "64")
        return main.main(["test", "-p", str(path), *fixed, *flags])

    return run_test


def decoded(path) -> np.ndarray:
    return images.decode_image(tf.io.read_file(str(path)), 1).numpy()[..., 0]


def test_map_is_the_networks_output_taken_back_to_the_images_size(photograph, tmp_path, weights, run):
    image = photograph(61, 83)
    write(tmp_path / "in" / "a.png", tf.io.encode_png(image))
    assert run(tmp_path / "in", "--format", "png") == 0
    arrays = checkpoint.read_arrays(weights)
    padded = images.resize_and_pad(image, (48, 64), images.IMAGE_PADDING)[None]
    expected = images.crop_and_restore(model.msi_net(padded, model.tensor_convolutions(arrays))[0], (61, 83))
    written = decoded(tmp_path / "results" / "images" / "a.png")
    assert written.shape == (61, 83)
    assert np.mean(written == np.round(expected)[..., 0]) >= 0.999


def test_formats_agree(photograph, tmp_path, run):
    write(tmp_path / "a.png", tf.io.encode_png(photograph()))
    for suffix in ("jpeg", "png", "npy"):
        assert run(tmp_path / "a.png", "--format", suffix) == 0
    images = tmp_path / "results" / "images"
    raw = np.load(images / "a.npy")
    assert raw.dtype == np.float32 and raw.shape == (48, 64) and raw.min() >= 0 and raw.max() <= 1
    np.testing.assert_array_equal(decoded(images / "a.png"), np.round(raw * 255))
    # JPEG is lossy even at quality 100, the more so in a map as rough as that of random weights.
    assert np.abs(decoded(images / "a.jpeg") - raw * 255).mean() <= 3
    assert tf.io.extract_jpeg_shape(tf.io.read_file(str(images / "a.jpeg"))).numpy().tolist() == [48, 64, 1]


def test_subfolders_and_equal_names_never_overwrite_each_other(photograph, tmp_path, run):
    names = ["x.png", "sub/x.png", "sub/x.bmp.png", "sub/X.jpg", "odd näme (1) 日本.png"]
    for i, name in enumerate(names):
        encode = tf.io.encode_jpeg if name.endswith("jpg") else tf.io.encode_png
        write(tmp_path / "in" / name, encode(photograph(seed=i)))
    assert run(tmp_path / "in", "--overlay") == 0
    for folder in ("images", "overlays"):
        found = {
            str(p.relative_to(tmp_path / "results" / folder)) for p in data.list_images(tmp_path / "results" / folder)
        }
        assert found == {
            "x.jpeg",
            "sub/x.png.jpeg",
            "sub/X.jpg.jpeg",
            "sub/x.bmp.jpeg",
            "odd näme (1) 日本.jpeg",
        }


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="there every file's name is valid text")
def test_names_that_are_not_valid_text_are_predicted_too(photograph, tmp_path, run):
    name = os.fsdecode(b"latin\xe9")
    write(tmp_path / "in" / f"{name}.png", tf.io.encode_png(photograph()))
    assert run(tmp_path / "in", "--overlay") == 0
    assert (tmp_path / "results" / "images" / f"{name}.jpeg").exists()
    assert (tmp_path / "results" / "overlays" / f"{name}.jpeg").exists()


def test_images_too_narrow_for_the_network_are_predicted_too(tmp_path, run):
    for shape in ((1, 1, 3), (1, 500, 3), (500, 1, 3)):
        write(tmp_path / "in" / f"{shape[0]}.png", tf.io.encode_png(np.full(shape, 99, np.uint8)))
        assert run(tmp_path / "in" / f"{shape[0]}.png", "--format", "npy") == 0
        assert np.load(tmp_path / "results" / "images" / f"{shape[0]}.npy").shape == shape[:2]


def test_damaged_images_are_named_and_the_rest_go_on(photograph, tmp_path, run, capsys):
    whole = tf.io.encode_jpeg(photograph(200, 300)).numpy()
    write(tmp_path / "in" / "1.jpg", whole)
    write(tmp_path / "in" / "2_cut.jpg", whole[: len(whole) // 3])
    write(tmp_path / "in" / "3_empty.jpg", b"")
    write(tmp_path / "in" / "4_text.png", b"not an image at all")
    write(tmp_path / "in" / "5.jpg", whole)
    assert run(tmp_path / "in", "--batch-size", "3") == 1
    printed = capsys.readouterr()
    for name in ("2_cut.jpg", "3_empty.jpg", "4_text.png"):
        assert name in printed.err
    assert "{{" not in printed.err, "TensorFlow's name of a node"
    assert "2 maps written to" in printed.out and "3 images failed" in printed.out
    assert sorted(p.name for p in (tmp_path / "results" / "images").iterdir()) == ["1.jpeg", "5.jpeg"]
    record = json.loads((tmp_path / "results" / "test.json").read_text(encoding="utf-8"))
    assert record["written"] == 2 and len(record["failures"]) == 3 and record["weights"].endswith("narrow.npz")


def test_batches_give_the_maps_that_single_images_give(photograph, tmp_path, weights):
    paths = [write(tmp_path / f"{i}.png", tf.io.encode_png(photograph(40 + i, 60, seed=i))) for i in range(5)]
    network = msinet.load(weights, input_size=(48, 64))
    singles, batched = (list(network.predictions(paths, size)) for size in (1, 3))
    for path, single, together in zip(paths, singles, batched, strict=True):
        assert single.photograph == together.photograph == path
        np.testing.assert_allclose(single.saliency, together.saliency, atol=0.01)


def test_images_are_read_only_a_bounded_number_ahead():
    read = []
    results = utils.parallel_map(lambda x: x * x, (read.append(i) or i for i in range(1000)), ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(read) <= 11
    assert list(results) == [i * i for i in range(3, 1000)]


def test_overlay_is_the_mean_of_photograph_and_colours(photograph):
    image = photograph()
    dark = images.blend(image, np.zeros((48, 64), np.float32))
    bright = images.blend(image, np.full((48, 64), 255, np.float32))
    assert np.abs(dark.astype(int) - image // 2).max() <= 3
    assert bright.mean() > dark.mean() + 50


@pytest.mark.parametrize("make", ["missing", "empty folder"])
def test_path_without_images_is_a_clear_error(tmp_path, run, capsys, make):
    path = tmp_path / "nothing"
    if make == "empty folder":
        path.mkdir()
    assert run(path) == 2
    assert str(path) in capsys.readouterr().err


def test_existing_result_stays_when_writing_fails(tmp_path, photograph, run, monkeypatch):
    write(tmp_path / "a.png", tf.io.encode_png(photograph()))
    old = write(tmp_path / "results" / "images" / "a.jpeg", b"old")

    def full_disk(self, contents):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(test.Path, "write_bytes", full_disk)
    assert run(tmp_path / "a.png") == 2
    assert old.read_bytes() == b"old"
    assert [p.name for p in old.parent.iterdir()] == ["a.jpeg"]


def test_prediction_without_a_network_uses_the_lite_network_and_finds_the_face(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path / "weights")
    assert main.main(["test", "--format", "npy", "--results", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out
    assert (
        "msinet_lite.npz (the lite network that comes with the program, as the published one cannot be had" in printed
    )
    saliency = np.load(tmp_path / "results" / "images" / "grace_hopper.npy")
    assert saliency.shape == (600, 512)
    face, all_of_it = saliency[100:320, 170:350], saliency
    assert face.mean() > 3 * all_of_it.mean()
