"""Which files `test` predicts, the names of their maps, and their orientation."""

import os
import sys
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
from conftest import exif, write
from PIL import Image
from test_test import decoded, good, record, results, run

from msinet import data, main
from msinet.photographs import name_maps


def test_subfolders_and_equal_names_never_overwrite_each_other(photograph, tmp_path, results, run):
    names = ["x.png", "sub/x.png", "sub/x.bmp.png", "sub/X.jpg", "odd näme (1) 日本.png"]
    for i, name in enumerate(names):
        encode = tf.io.encode_jpeg if name.endswith("jpg") else tf.io.encode_png
        write(tmp_path / "in" / name, encode(photograph(seed=i)))
    assert run(tmp_path / "in", "--overlay") == 0
    expected = ["x.jpeg", "sub/x.png.jpeg", "sub/X.jpg.jpeg", "sub/x.bmp.jpeg", "odd näme (1) 日本.jpeg"]
    for folder in (results / "images", results / "overlays"):
        assert {path.relative_to(folder).as_posix() for path in data.list_images(folder)} == set(expected)


def test_every_image_has_its_own_map_whatever_the_names():
    names = ["photo.jpg", "photo.png", "photo.jpg.png", "photo.png.jpg", "PHOTO.JPG", "sub/photo.jpg", "a.png"]
    names += ["photo.jpg-2.png", "a.b.png", "x\u0301.png", "\u1e8b.png", "cafe\u0301.jpg", "caf\u00e9.jpg"]
    targets = {row.path: row.map for row in name_maps(names, ".jpeg")}
    assert len({unicodedata.normalize("NFC", target).casefold() for target in targets.values()}) == len(names)
    assert targets["a.png"] == "images/a.jpeg" and targets["photo.png"] == "images/photo.png.jpeg"
    assert targets["sub/photo.jpg"] == "images/sub/photo.jpeg"


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="there every file's name is valid text")
def test_images_whose_names_are_not_valid_text_are_predicted(photograph, tmp_path, run, results):
    name = os.fsdecode(b"latin\xe9")
    write(tmp_path / "in" / f"{name}.png", tf.io.encode_png(photograph()))
    assert run(tmp_path / "in", "--overlay") == 0
    assert (results / "images" / f"{name}.jpeg").exists()
    assert (results / "overlays" / f"{name}.jpeg").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing", "No such file or folder"), ("empty", "No image below"), ("*.jpg", "No image matches the pattern")],
)
def test_path_without_images_is_a_clear_error(tmp_path, run, capsys, name, words):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / name) == 2
    assert f"{words}" in (error := capsys.readouterr().err) and str(tmp_path / name) in error


# --- Which files are photographs --------------------------------------------------------------------------------------


def names_of(results) -> set[str]:
    return {path.relative_to(results / "images").as_posix() for path in (results / "images").rglob("*.jpeg")}


@pytest.fixture
def folders(photograph, tmp_path):
    """Two folders with photographs of the same names."""
    for i, name in enumerate(("a/x.png", "a/sub/y.png", "b/x.png")):
        write(tmp_path / name, tf.io.encode_png(photograph(seed=i)))
    return tmp_path / "a", tmp_path / "b"


def test_several_paths_are_predicted_however_they_are_named(folders, run, results, tmp_path, monkeypatch):
    a, b = map(str, folders)
    monkeypatch.chdir(tmp_path)
    assert run(a, b, "--overlay") == 0
    assert names_of(results) == {"a/x.jpeg", "a/sub/y.jpeg", "b/x.jpeg"}
    for flags in ((f"{a}/x.png", f"{b}/x.png", "a/x.png"), (f"{a}/x.png", "-p", f"{b}/x.png")):
        another = tmp_path / f"r{len(flags)}{len(flags[1])}"
        assert run(*flags, "--results", str(another)) == 0
        assert names_of(another) == {"x.jpeg", "x-2.jpeg"}
        assert (another / "images" / "x-2.jpeg").read_bytes() == (results / "images" / "b" / "x.jpeg").read_bytes()


@pytest.mark.parametrize(
    "arguments", [["a/x.png", "--overlay", "b"], ["--overlay", "a/x.png", "b"], ["a/*.png", "b/*"]]
)
def test_photographs_are_named_without_a_flag_and_by_patterns(
    folders, narrow_weights, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    fixed = ["--weights", str(narrow_weights), "--results", "r", "--input-size", "48", "64", "--format", "jpeg"]
    assert main.main(["test", *arguments, *fixed]) == 0
    assert record(tmp_path / "r")["written"] == 2 and record(tmp_path / "r")["path"] == [
        word for word in arguments if word != "--overlay"
    ]


def test_skipped_files_are_counted_by_suffix(good, run, results, capsys):
    for name in ("a.txt", "b.TXT", "c.cr2", "README", ".hidden.xyz", "@eaDir/good.png", "__MACOSX/good.png"):
        write(good / name, b"text")
    assert run(good) == 0
    assert "Skipped files that are not photographs: 2 .txt, 1 without suffix, 1 .cr2." in capsys.readouterr().out
    assert record(results)["written"] == 1 and record(results)["skipped"] == "2 .txt, 1 without suffix, 1 .cr2"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_linked_folders_are_followed_once_and_cycles_end(photograph, tmp_path, run, results):
    write(tmp_path / "in" / "own" / "x.png", tf.io.encode_png(photograph()))
    write(tmp_path / "elsewhere" / "y.png", tf.io.encode_png(photograph()))
    for name, target in (("a", "elsewhere"), ("b", "elsewhere"), ("c", "in"), ("d", "in/own")):
        (tmp_path / "in" / name).symlink_to(tmp_path / target, target_is_directory=True)
    assert run(tmp_path / "in") == 0
    assert names_of(results) == {"own/x.jpeg", "a/y.jpeg"}


def test_own_maps_and_overlays_are_never_predicted(good, run, capsys):
    for _ in range(3):
        assert run(good, "--overlay", "--results", str(good / "out")) == 0
        printed = capsys.readouterr().out
        assert "1 map written" in printed
    assert "Left out 2 images in the folder of results." in printed
    assert run(good, "--results", str(good)) == 2
    assert "choose another folder of results" in capsys.readouterr().err


def test_maps_never_replace_photographs(photograph, tmp_path, run, capsys):
    path = write(tmp_path / "mine" / "images" / "x.jpeg", tf.io.encode_jpeg(photograph()))
    before = path.read_bytes()
    assert run(path, "--results", str(tmp_path / "mine")) == 2
    assert "would replace the photograph" in capsys.readouterr().err and path.read_bytes() == before


# --- Orientation ------------------------------------------------------------------------------------------------------


def test_portrait_of_a_phone_is_predicted_upright_with_its_overlay_unless_stored_is_asked_for(
    photograph, tmp_path, run, results
):
    upright = photograph(64, 48)
    write(tmp_path / "in" / "upright.png", tf.io.encode_png(upright))
    Image.fromarray(np.rot90(upright)).save(tmp_path / "in" / "phone.png", exif=exif(6))
    assert run(tmp_path / "in", "--overlay") == 0
    for folder in ("images", "overlays"):
        files = [(results / folder / f"{name}.jpeg").read_bytes() for name in ("upright", "phone")]
        assert files[0] == files[1]
    assert record(results)["orientation"] == "upright"
    assert run(tmp_path / "in", "--orientation", "stored", "--overlay") == 0
    assert decoded(results / "images" / "phone.jpeg").shape == (48, 64)
    assert record(results)["orientation"] == "stored"
