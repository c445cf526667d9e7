"""The `test` phase: from image files to maps, also for damaged, huge and odd files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import png_that_claims, write

import msinet
from msinet import checkpoint, download, images, layers, main, model, utils


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def run(results, narrow_weights):
    """`test` with that network at a small size, into `results`."""
    fixed = ("--weights", str(narrow_weights), "--results", str(results), "--input-size", "48", "64")
    return lambda path, *flags: main.main(["test", *fixed, "-p", str(path), *flags])


@pytest.fixture
def good(photograph, tmp_path):
    """A folder with one photograph, for further files."""
    return write(tmp_path / "in" / "good.png", tf.io.encode_png(photograph())).parent


def record(results) -> dict:
    return json.loads((results / "test.json").read_text(encoding="utf-8"))


def decoded(path) -> np.ndarray:
    return images.decode_image(tf.io.read_file(str(path)), 1).numpy()[..., 0]


def test_map_is_the_networks_output_resized_to_the_image(photograph, tmp_path, narrow_arrays, run, results):
    image = photograph(61, 83)
    write(tmp_path / "in" / "a.png", tf.io.encode_png(image))
    assert run(tmp_path / "in", "--format", "png") == 0
    padded = images.resize_and_pad(image, (48, 64), images.IMAGE_PADDING)[None]
    expected = images.crop_and_restore(model.msi_net(padded, layers.tensor_convolutions(narrow_arrays))[0], (61, 83))
    written = decoded(results / "images" / "a.png")
    assert written.shape == (61, 83)
    assert np.mean(written == np.round(expected)[..., 0]) >= 0.999


def test_formats_agree_and_have_the_bytes_of_the_published_programs_encoders(good, results, run):
    for suffix in ("npy", "png", "jpeg"):
        assert run(good, "--format", suffix) == 0
    file = results / "images" / "good"
    raw = np.load(file.with_suffix(".npy"))
    assert raw.dtype == np.float32 and raw.shape == (48, 64) and raw.min() >= 0 and raw.max() <= 1
    image = np.round(raw * np.float32(255)).astype(np.uint8)[..., None]
    assert file.with_suffix(".png").read_bytes() == tf.io.encode_png(image).numpy()
    jpeg = tf.io.encode_jpeg(image, format="grayscale", quality=100).numpy()
    assert file.with_suffix(".jpeg").read_bytes() == jpeg


def test_last_lines_name_everything_written_and_count_the_maps_of_earlier_runs(
    photograph, tmp_path, run, capsys, results
):
    for name in ("a", "b", "c"):
        write(tmp_path / "in" / f"{name}.png", tf.io.encode_png(photograph()))
    assert run(tmp_path / "in", "--overlay") == 0
    images, overlays, file = results / "images", results / "overlays", results / "test.json"
    written = [f"3 maps written to {images}.", f"3 overlays written to {overlays}.", f"Record of the run: {file}"]
    assert capsys.readouterr().out.splitlines()[-3:] == written
    assert run(tmp_path / "in" / "a.png") == 0
    last = [f"1 map written to {images}.", "2 maps there are from earlier runs.", f"Record of the run: {file}"]
    assert capsys.readouterr().out.splitlines()[-3:] == last


def test_network_is_described_in_a_short_line_and_completely_on_request(
    good, run, capsys, tmp_path, monkeypatch, results
):
    monkeypatch.setattr(download, "weights", lambda *_: _fail())
    fixed = ["test", str(good), "--results", str(results)]
    assert main.main([*fixed, "-d", "mit1003"]) == 0
    out = capsys.readouterr().out
    assert (
        "Network: msinet_medium.npz (the included medium network, because the published one is not available: " in out
    )
    size = "It has its own input size; that of -d mit1003 is --input-size 360 360."
    assert size in out and "1000 images" not in out
    assert main.main([*fixed, "-d", "mit1003", "--weights", "lite"]) == 0
    assert size in capsys.readouterr().out
    assert len(repr(msinet.load("lite"))) < 100
    assert main.main([*fixed, "--weights", "lite", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()[0]) < 100 and "that of -d" not in out
    assert '"sha256": "' in out and '"train": 499' in out


def _fail():
    raise utils.DownloadError("no network")


def test_damaged_images_are_named_and_the_others_predicted(photograph, tmp_path, run, capsys, results):
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
    assert "2_cut.jpg: damaged: truncated after" in printed.err
    assert "2 maps written to" in printed.out and "3 images failed" in printed.out
    assert sorted(p.name for p in (results / "images").iterdir()) == ["1.jpeg", "5.jpeg"]
    found = record(results)
    assert found["written"] == 2 and len(found["failures"]) == 3 and found["weights"].endswith("narrow.npz")


def test_overlay_is_the_mean_of_photograph_and_colors(photograph):
    image = photograph()
    dark = images.blend(image, np.zeros((48, 64), np.float32))
    bright = images.blend(image, np.full((48, 64), 255, np.float32))
    assert np.abs(dark.astype(int) - image // 2).max() <= 3
    assert bright.mean() > dark.mean() + 50


def test_full_disk_keeps_the_existing_map_and_names_its_file(good, results, run, monkeypatch, capsys):
    old = write(results / "images" / "good.jpeg", b"old")

    def full_disk(self, contents):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    assert run(good / "good.png") == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error and str(old) in error
    assert old.read_bytes() == b"old"
    assert [p.name for p in old.parent.iterdir()] == ["good.jpeg"]


def test_prediction_without_a_network_uses_medium_and_finds_the_face(tmp_path, monkeypatch, capsys, results):
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path / "weights")
    assert main.main(["test", "--format", "npy", "--results", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out
    assert "msinet_medium.npz (the included medium network, because the published one is not available" in printed
    saliency = np.load(results / "images" / "grace_hopper.npy")
    assert saliency.shape == (600, 512)
    face, all_of_it = saliency[100:320, 170:350], saliency
    assert face.mean() > 3 * all_of_it.mean()


# --- Files that are dangerous to read -----------------------------------------------------------------------


def test_file_that_is_not_regular_is_a_failure_of_one_image(good, tmp_path, run, capsys):
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    (tmp_path / "in" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "in" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    assert run(tmp_path / "in") == 1
    printed = capsys.readouterr()
    assert printed.err.count("not a regular file") == 2 and "dangling.png: no such file" in printed.err
    assert "1 map written" in printed.out
    assert run(tmp_path / "in" / "pipe.jpg") == 2
    assert "neither a regular file nor a folder" in capsys.readouterr().err


def test_image_with_too_many_pixels_is_rejected_by_its_header(good, tmp_path, run, capsys):
    write(tmp_path / "in" / "bomb.png", png_that_claims(20_000, 20_000))
    assert run(tmp_path / "in") == 1
    printed = capsys.readouterr()
    assert "bomb.png: more pixels than Pillow's limit" in printed.err and "1 map written" in printed.out
    assert run(tmp_path / "in" / "good.png", "--max-pixels", "3000") == 1
    assert "64×48 pixels, expected at most 3000: shrink it, or raise --max-pixels" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded with Linux's resource limits")
def test_very_narrow_images_need_little_memory(tmp_path, narrow_weights):
    for i, shape in enumerate([(1, 40_000, 3), (65_500, 8, 3), (300_000, 1, 3)]):
        image = np.random.default_rng(i).integers(0, 256, shape, np.uint8)
        write(tmp_path / "in" / f"{i}.png", tf.io.encode_png(image))
    script = f"""
import resource
import msinet
network = msinet.load({str(narrow_weights)!r}, input_size=(240, 320))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_500_000_000,) * 2)
for name in ("0.png", "1.png", "2.png"):
    saliency = network.predict({str(tmp_path / "in")!r} + "/" + name)
    print(saliency.shape, saliency.min() >= 0, saliency.max() <= 1)
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.stdout.splitlines() == [
        "(1, 40000) True True", "(65500, 8) True True", "(300000, 1) True True"
    ], finished.stderr[-800:]  # fmt: skip


def test_narrow_images_get_the_same_map_in_less_memory():
    saliency = tf.random.stateless_uniform((48, 64, 1), (1, 2))
    for size in ((3, 500), (700, 5), (2, 30)):
        narrow, whole = images.restore_map(saliency, size), images.crop_and_restore(saliency, size).numpy()[..., 0]
        np.testing.assert_allclose(narrow, whole, atol=1e-2)  # of 255


def test_map_too_wide_for_jpeg_is_a_failure_of_one_image(good, tmp_path, run, capsys):
    write(tmp_path / "in" / "wide.png", tf.io.encode_png(np.full((1, 70_000, 3), 9, np.uint8)))
    assert run(tmp_path / "in") == 1
    printed = capsys.readouterr()
    assert "received 70000×1 pixels, expected at most 65500 per side" in printed.err and "1 map written" in printed.out
    assert run(tmp_path / "in", "--format", "png") == 0


def test_name_too_long_for_a_map_is_a_failure_of_one_image(good, results, photograph, run, capsys):
    write(good / ("n" * 251 + ".png"), tf.io.encode_png(photograph()))
    assert run(good) == 1
    printed = capsys.readouterr()
    assert "its name is too long" in printed.err and "1 map written" in printed.out
    assert record(results)["written"] == 1 and len(record(results)["failures"]) == 1


def test_warnings_of_the_jpeg_library_do_not_reach_the_terminal(tmp_path, photograph, narrow_weights):
    whole = tf.io.encode_jpeg(photograph(200, 300)).numpy()
    write(tmp_path / "in" / "a.jpg", whole[: len(whole) // 2] + b"\xff\x00" * 40 + whole[len(whole) // 2 :])
    write(tmp_path / "in" / "b.jpg", whole[: len(whole) // 2])
    command = [sys.executable, "main.py", "test", "-p", str(tmp_path / "in"), "--weights", str(narrow_weights)]
    command += ["--input-size", "48", "64", "--results", str(tmp_path / "results")]
    finished = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    lines = finished.stderr.splitlines()
    assert finished.returncode in (0, 1) and all(line.startswith("error: ") for line in lines), lines
    assert any("b.jpg" in line for line in lines)


def test_input_size_auto_and_mirrored_change_the_map_and_are_recorded(photograph, tmp_path, narrow_weights):
    write(tmp_path / "tall.png", tf.io.encode_png(photograph(90, 60)))
    flags = ("--weights", str(narrow_weights), "--format", "npy", "-d", "osie", "--results")
    maps = []
    for i, extra in enumerate([(), ("--input-size", "auto"), ("--input-size", "auto", "--mirrored")]):
        results = tmp_path / f"results{i}"
        assert main.main(["test", "-p", str(tmp_path / "tall.png"), *flags, str(results), *extra]) == 0
        maps.append(np.load(results / "images" / "tall.npy"))
    assert np.abs(maps[0] - maps[1]).max() > 0.01 and np.abs(maps[1] - maps[2]).max() > 0.01
    fixed = msinet.load(narrow_weights, input_size=(336, 224)).predict(tmp_path / "tall.png")
    np.testing.assert_array_equal(maps[1], fixed)
    found = record(tmp_path / "results2")
    assert found["fit_shape"] is True and found["mirrored"] is True
