"""Fixations: read from tables and maps, with clear errors, and blurred into saliency maps."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from msinet import data
from msinet.acquisition.convert import gaussian_blur
from msinet.acquisition.readers import UNKNOWN_OBSERVER
from msinet.scoring import fixations
from msinet.scoring.fixations import Blur
from msinet.utils import UserError

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 48, 64


@pytest.fixture
def dataset(tmp_path, photograph):
    """Make a dataset folder with the stimuli a.png, b.jpg and c/d.png, and the given table and fixation maps."""
    folder = tmp_path / "my photos"

    def make(table=None, **maps):
        write(folder / "stimuli" / "a.png", tf.io.encode_png(photograph(HEIGHT, WIDTH)))
        write(folder / "stimuli" / "b.jpg", tf.io.encode_jpeg(photograph(HEIGHT, WIDTH, 1)))
        write(folder / "stimuli" / "c" / "d.png", tf.io.encode_png(photograph(HEIGHT, 2 * WIDTH, 2)))
        if table is not None:
            write(folder / "fixations.csv", table if isinstance(table, bytes) else table.encode())
        for name, image in maps.items():
            write(folder / "fixations" / f"{name.replace('_', '/')}.png", image)
        return folder

    return make


def png(mode="L", points=((3, 5), (60, 47)), width=WIDTH, value=255) -> bytes:
    """A binary map in any mode of PNG, with fixations at x, y."""
    pixels = np.zeros((HEIGHT, width), np.uint16 if mode == "I;16" else np.uint8)
    for x, y in points:
        pixels[y, x] = value
    image = Image.fromarray(pixels)
    return encode(image if mode == "I;16" else image.convert(mode))


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


OTHERS = {"b": png(), "c_d": png(width=2 * WIDTH)}


# --- Tables -----------------------------------------------------------------------------------------------------------


def test_table_keeps_order_repetitions_observers_and_images_without_fixations_and_maps_do_not_count(dataset):
    rows = "image,x,y,observer\nc/d,127,0,2\na,5,7,1\na,5,7,1\na,0,47,0\n"
    found = fixations.read_fixations(dataset(rows, a=png(), **OTHERS))
    assert list(found) == ["a", "b", "c/d"]
    assert found["a"].tolist() == [[5, 7, 1], [5, 7, 1], [0, 47, 0]]
    assert found["b"].shape == (0, 3)
    assert found["c/d"].tolist() == [[127, 0, 2]]
    assert all(array.dtype == np.int64 for array in found.values())


def test_table_as_spreadsheets_write_it_is_read(dataset):
    rows = "\ufeffY, X ,Image,duration\r\n7.9,5.2,a.png,250\r\n\r\n1,2,c\\d.PNG,90\r\n"
    found = fixations.read_fixations(dataset(rows))
    assert found["a"].tolist() == [[5, 7, UNKNOWN_OBSERVER]]
    assert found["c/d"].tolist() == [[2, 1, UNKNOWN_OBSERVER]]


@pytest.mark.parametrize("missing", ["nan", ".", "", " NA ", "-5", "64"])
def test_fixations_without_a_position_or_outside_are_dropped_up_to_a_share(dataset, missing, capsys):
    rows = f"image,x,y,participant\na,{missing},1,bob\n" + "a,5,7,ann\n" * 19
    folder = dataset(rows)
    found = fixations.read_fixations(folder)
    assert found["a"].tolist() == [[5, 7, 0]] * 19
    assert "1 of 20 fixations (5.0%)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"1 of 20 fixations .* in line 2: .* raise --max-dropped, which is 0\.04"):
        fixations.read_fixations(folder, max_dropped=0.04)


@pytest.mark.parametrize("title", ["observer", "Subject", "participant"])
def test_observers_are_numbers_or_words_in_columns_of_several_names(dataset, title):
    assert fixations.read_fixations(dataset(f"image,x,y,{title}\na,1,1,7\n"))["a"][:, 2].tolist() == [7]
    found = fixations.read_fixations(dataset(f"image,x,y,{title}\na,1,1,zoë\na,2,2,anna\nb,3,3,zoë\n"))
    assert found["a"][:, 2].tolist() == [1, 0] and found["b"][:, 2].tolist() == [1]


def test_table_names_an_accent_in_either_form_of_unicode(dataset, photograph):
    folder = dataset("image,x,y\ncaf\u00e9,5,7\n")
    write(folder / "stimuli" / "cafe\u0301.png", tf.io.encode_png(photograph(HEIGHT, WIDTH)))
    write(folder / "saliency" / "caf\u00e9.png", tf.io.encode_png(photograph(HEIGHT, WIDTH)[..., :1]))
    assert fixations.read_fixations(folder)["caf\u00e9"][:, :2].tolist() == [[5, 7]]
    for other in ("a.png", "b.jpg", "c/d.png"):
        (folder / "stimuli" / other).unlink()
    assert [sample.saliency.name for sample in data.pair_files(folder)] == ["caf\u00e9.png"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"", ["no column image and no column x and no column y", "image,x,y,observer"]),
        (b"image,x,y\n", ["has no fixations"]),
        (b"image;x;y\na;1;2\n", ["no column image", "image;x;y"]),
        (b"image,x\na,1\n", ["no column y"]),
        (b"image,x,y\na,1,2\nnobody,1,2\n", ["not in", "stimuli", "nobody"]),
        (b"image,x,y\na,1,2\na,three,4\n", ["line 3", "a,three,4", "numbers for x and y"]),
        (b"image,x,y\na,1\n", ["line 2", "numbers for x and y"]),
        (b"image,x,y\nb\xe9,1,2\n", ["not UTF-8"]),
        ("image,x,y\na,1,2\n".encode("utf-16"), ["not UTF-8"]),
        (b"image,x,y\na,64,2\n", ["line 2", "x 64, y 2 in a", "64×48 pixels", "--max-dropped"]),
        (b"image,x,y\na,63,47\na,0,48\na,-1,0\nc/d,128,0\n", ["3 of 4 fixations (75.0%)", "line 3", "x 0, y 48"]),
        (b"image,x,y\na,nan,2\n", ["line 2", "x nan", "no position"]),
        (b"image,x,y\na,inf,2\n", ["line 2", "x inf", "outside their images"]),
        (b"image,x,y\na,0.5,0.25\nb,0.9,0.1\na,-0.1,1.2\n" + b"b,0.4,0.4\n" * 20, ["normalized", "multiply x"]),
    ],
)
def test_faults_of_a_table_are_one_clear_line(dataset, table, words):
    with pytest.raises(UserError) as error:
        fixations.read_fixations(dataset(table))
    message = str(error.value)
    assert "fixations.csv" in message and "\n" not in message
    assert all(word in message for word in words), message


# --- Binary maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "value"), [("L", 255), ("L", 1), ("1", 255), ("P", 255), ("RGBA", 255), ("I;16", 9)])
def test_binary_map_of_any_mode_gives_its_fixations(dataset, mode, value):
    image = png(mode, value=value)
    found = fixations.read_fixations(dataset(a=image, b=png(points=()), c_d=png(width=2 * WIDTH)))
    assert found["a"].tolist() == [[3, 5, -1], [60, 47, -1]]
    assert found["b"].shape == (0, 3)


@pytest.mark.parametrize("suffix", [".bmp", ".jpg"])  # JPEG's blur is rounded to black and white.
def test_fixation_maps_of_other_formats_are_read_and_other_files_are_named(dataset, suffix):
    folder = dataset(**OTHERS)
    file = folder / "fixations" / f"a{suffix}"
    Image.open(io.BytesIO(png())).save(file, quality=95)
    assert fixations.read_fixations(folder)["a"].tolist() == [[3, 5, -1], [60, 47, -1]]
    file.rename(file.with_suffix(".mat"))
    with pytest.raises(UserError, match=r"No fixation map in .* for a\. .*fixations has 1 \.mat, expected \.jpg"):
        fixations.read_fixations(folder)


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ({}, ["No fixation map", "for a"]),
        ({"a": b""}, ["a.png", "empty"]),
        ({"a": b"no image"}, ["a.png", "not a readable image"]),
        ({"a": png()[:60]}, ["a.png", "damaged"]),
        ({"a": png(width=WIDTH + 1)}, ["a.png", "65×48", "64×48"]),
        ({"a": encode(Image.linear_gradient("L").resize((WIDTH, HEIGHT)))}, ["a.png", "not a binary map"]),
        ({"a": png(), "surplus": png()}, ["for the fixation maps surplus"]),
        ({"a": encode(ImageOps.invert(Image.open(io.BytesIO(png()))))}, ["a.png", "100% of its pixels", "invert it"]),
    ],
)
def test_faults_of_maps_are_one_clear_line(dataset, maps, words):
    with pytest.raises(UserError) as error:
        fixations.read_fixations(dataset(**OTHERS, **maps))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_dataset_without_fixations_says_where_they_are_expected(dataset):
    with pytest.raises(UserError, match=r"No fixations in .*fixations\.csv"):
        fixations.read_fixations(dataset())


# --- Saliency maps from fixations -------------------------------------------------------------------------------------


TABLE = "image,x,y\na,5,7\na,5,7\na,60,40\nb,0,0\nc/d,127,47\n"


def image_of(folder, name) -> np.ndarray:
    return np.asarray(Image.open(folder / "saliency" / f"{name}.png"))


def test_blurred_fixations_are_those_of_scipy_scaled_to_255(sigma=3.0):
    points = np.random.default_rng(0).integers(0, (WIDTH, HEIGHT), (30, 2))
    points = np.concatenate([points, points[:5]])  # Repeated fixations are added.
    counts = np.zeros((HEIGHT, WIDTH))
    np.add.at(counts, (points[:, 1], points[:, 0]), 1)
    expected = gaussian_filter(counts, sigma)
    blurred = fixations.blur_fixations(points, (HEIGHT, WIDTH), sigma)
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(blurred, expected / expected.max() * 255, atol=1e-3)


def test_every_blur_is_that_of_scipy():
    counts = np.random.default_rng(0).poisson(0.01, (HEIGHT, WIDTH)).astype(np.float64)
    for sigma in (0.01, 0.7, 3.0, 60.0):
        np.testing.assert_allclose(gaussian_blur(counts, sigma), gaussian_filter(counts, sigma), atol=1e-13)
    assert not gaussian_blur(np.zeros((HEIGHT, WIDTH)), 3.0).any()


@pytest.mark.parametrize(
    ("blur", "pixels"), [(Blur(7.5), 7.5), (Blur(2.0, 35.0), 70.0), (Blur(None, 35.0), 35.0), (Blur(), 16.0)]
)
def test_sigma_is_in_pixels_or_degrees_or_a_share_of_the_image(blur, pixels):
    assert blur.pixels((600, 800)) == pytest.approx(pixels)


def test_maps_have_the_stimuli_names_and_sizes_and_the_blur_of_the_fixations(dataset):
    folder = dataset(TABLE)
    (folder / "saliency").mkdir()
    assert fixations.make_saliency(folder, Blur(2.0))
    assert [sample.name for sample in data.pair_files(folder)] == ["a", "b", "c/d"]
    for name, size in (("a", (HEIGHT, WIDTH)), ("b", (HEIGHT, WIDTH)), ("c/d", (HEIGHT, 2 * WIDTH))):
        expected = fixations.blur_fixations(fixations.read_fixations(folder)[name], size, 2.0)
        np.testing.assert_array_equal(image_of(folder, name), np.round(expected))
    assert not list(folder.glob(".*"))


def test_maps_are_made_from_binary_maps_too(dataset):
    folder = dataset(a=png(), **OTHERS)
    assert fixations.make_saliency(folder, Blur(2.0))
    image = image_of(folder, "a")
    assert image[47, 60] == 255 and image[5, 3] > 100 and image[24, 32] == 0


def test_maps_are_made_again_only_when_something_changed_and_by_default_with_their_blur(dataset):
    folder = dataset(TABLE)
    assert fixations.make_saliency(folder) == Blur()
    before = image_of(folder, "a")
    assert fixations.make_saliency(folder, Blur(2.0)) == Blur(2.0)
    assert np.any(image_of(folder, "a") != before)
    assert fixations.make_saliency(folder, Blur(2.0)) is fixations.make_saliency(folder) is None
    for moved, blur in (("60,41", Blur(2.0)), ("60,42", None)):
        write(folder / "fixations.csv", TABLE.replace("60,40", moved).encode())
        assert fixations.make_saliency(folder, blur) == Blur(2.0)
    write(folder / "stimuli" / "e.png", png("RGB"))
    with pytest.raises(UserError, match=r"No fixation in .* on e"):
        fixations.make_saliency(folder, Blur(4.0))
    assert image_of(folder, "a").shape == (HEIGHT, WIDTH), "maps were lost in a failure"
    assert not list(folder.glob(".*"))


def test_maps_of_the_user_are_never_overwritten(dataset):
    folder = dataset(TABLE)
    own = [write(folder / "saliency" / name, png()) for name in ("a.png", "b.png", "c/d.png")]
    assert fixations.make_saliency(folder, Blur()) is None
    with pytest.raises(UserError, match="has your own maps"):
        fixations.make_saliency(folder, Blur(4.0))
    assert all(file.read_bytes() == png() for file in own)


@pytest.mark.parametrize("change", ["edited", "added", "removed", "record"])
def test_made_maps_that_were_changed_by_hand_are_kept(dataset, change):
    folder = dataset(TABLE)
    fixations.make_saliency(folder, Blur(2.0))
    if change == "removed":
        (folder / "saliency" / "a.png").unlink()
    else:
        name = {"edited": "a.png", "added": "e.png", "record": fixations.RECORD}[change]
        write(folder / "saliency" / name, png())
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="has been changed since: delete"):
        fixations.make_saliency(folder, Blur(4.0))
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_killed_run_leaves_no_incomplete_maps(dataset):
    folder = dataset(TABLE)
    script = """
import os, signal, sys
from pathlib import Path
from msinet import utils
from msinet.scoring import fixations

blur_fixations, done = fixations.blur_fixations, []

def kill_at_the_third(*arguments):
    done.append(1)
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return blur_fixations(*arguments)

fixations.blur_fixations = kill_at_the_third
utils.cores = lambda: 1  # One after the other.
fixations.make_saliency(Path(sys.argv[1]), fixations.Blur())
"""
    killed = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(folder.glob(".*/new/a.png")) and not (folder / "saliency").exists()
    assert fixations.make_saliency(folder, Blur())
    assert [file.name for file in folder.glob(".*")] == []
    assert len(data.pair_files(folder)) == 3


@pytest.mark.parametrize(
    ("table", "blur", "words"),
    [
        (TABLE, Blur(129.0), "129 pixels is wider"),
        (TABLE, Blur(None, 500.0), "500 pixels per degree is wider"),
        (None, Blur(), r"No saliency maps in .*, and no fixations to make them from"),
    ],
)
def test_blur_wider_than_an_image_and_missing_fixations_are_clear_errors(dataset, table, blur, words):
    with pytest.raises(UserError, match=words):
        fixations.make_saliency(dataset(table), blur)
