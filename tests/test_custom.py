"""Training on your own data, from the command line to a lower loss."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import exif, write
from PIL import Image
from scipy.io import savemat
from test_train import history

from msinet import data, main
from msinet.scoring import fixations
from msinet.utils import UserError

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def photographs_with_fixations(tmp_path, photograph):
    """Ten photographs, each with fixations around a bright spot: `DIR/stimuli` and `DIR/fixations.csv` only."""
    folder, random = tmp_path / "data of mine" / "résumé", np.random.default_rng(0)
    rows = ["image,x,y"]
    for i in range(10):
        image = photograph(HEIGHT, WIDTH, i) // 2
        y, x = random.integers(8, HEIGHT - 8), random.integers(8, WIDTH - 8)
        image[y - 6 : y + 6, x - 6 : x + 6] = 255
        write(folder / "stimuli" / f"{i}.png", tf.io.encode_png(image))
        rows += [f"{i},{x + dx},{y + dy}" for dx, dy in random.integers(-4, 5, (12, 2))]
    write(folder / "fixations.csv", "\n".join(rows).encode())
    return folder


def run(folder, results, *flags) -> int:
    fixed = ("-d", "custom", "-p", str(folder), "--results", str(results), "--input-size", "48", "64")
    fixed += ("--batch-size", "4")
    return main.main(["train", *fixed, "--variant", "narrow", "--init", "scratch", *flags])


def test_ten_photographs_with_fixations_train_a_network_whose_loss_falls(photographs_with_fixations, tmp_path, capsys):
    results = tmp_path / "my results"
    flags = ("--sigma", "3", "--epochs", "12", "--learning-rate", "3e-3")
    assert run(photographs_with_fixations, results, *flags) == 0
    losses = [float(row["loss"]) for row in history(results)]
    assert losses[-1] < 0.75 * losses[0]
    assert "Made saliency maps from the fixations, with a sigma of 3 pixels" in capsys.readouterr().out
    record = json.loads((results / "history" / "custom.json").read_text(encoding="utf-8"))
    assert record["settings"]["sigma"] == 3 and record["settings"]["valid_fraction"] == 0.2
    checkpoint = results / "ckpts" / "best" / "custom.weights.h5"
    stimuli = ("-p", str(photographs_with_fixations / "stimuli"), "--weights", str(checkpoint))
    assert main.main(["test", "-d", "custom", *stimuli, "--results", str(results), "--input-size", "48", "64"]) == 0
    assert len(list((results / "images").glob("*.jpeg"))) == 10


def test_run_is_not_resumed_with_maps_of_another_blur(photographs_with_fixations, tmp_path, capsys, eager):
    assert run(photographs_with_fixations, tmp_path / "results", "--epochs", "1", "--sigma", "3") == 0
    maps = {file: file.read_bytes() for file in (photographs_with_fixations / "saliency").iterdir()}
    assert run(photographs_with_fixations, tmp_path / "results", "--epochs", "2", "--sigma", "4") == 2
    assert "sigma was 3.0, now 4.0" in capsys.readouterr().err
    assert maps == {file: file.read_bytes() for file in (photographs_with_fixations / "saliency").iterdir()}


def test_evaluation_makes_missing_maps_too_and_keeps_those_of_training(photographs_with_fixations, tmp_path, capsys):
    maps = tmp_path / "maps"
    for i in range(10):
        write(maps / f"{i}.png", tf.io.encode_png(np.full((HEIGHT, WIDTH, 1), i + 1, np.uint8)))
    flags = ("-d", "custom", "-p", str(photographs_with_fixations), "--maps", str(maps), "--results", str(tmp_path))
    assert main.main(["evaluate", *flags, "--split", "all"]) == 0
    assert "Made saliency maps from the fixations, with a sigma of 2 %" in capsys.readouterr().out
    assert fixations.make_saliency(photographs_with_fixations, fixations.Blur(3.0))
    capsys.readouterr()
    assert main.main(["evaluate", *flags]) == 0
    assert "Made saliency maps" not in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_is_one_clear_line(photographs_with_fixations, tmp_path, capsys, count):
    for i in range(count, 10):
        (photographs_with_fixations / "stimuli" / f"{i}.png").unlink()
    table = "image,x,y\n" + "0,5,5\n" * count
    write(photographs_with_fixations / "fixations.csv", table.encode())
    assert run(photographs_with_fixations, tmp_path / "results") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("No image in" in error) if count == 0 else ("received 1 and 0" in error), error


def test_image_that_is_damaged_behind_its_header_is_named(photographs_with_fixations, tmp_path, capsys, eager):
    file = photographs_with_fixations / "stimuli" / "4.png"
    file.write_bytes(file.read_bytes()[:-2000])
    assert run(photographs_with_fixations, tmp_path / "results", "--epochs", "1") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "4.png" in error and "damaged" in error


# --- Ground truth as people have it -----------------------------------------------------------------------------------


def test_black_map_is_named_before_training_and_evaluation(tiny_dataset, tmp_path, capsys):
    folder = tiny_dataset()
    write(folder / "saliency" / "0002.png", tf.io.encode_png(np.zeros((HEIGHT, WIDTH, 1), np.uint8)))
    assert run(folder, tmp_path / "results", "--epochs", "1") == 2
    error = capsys.readouterr().err
    assert "0002.png is black: every pixel is 0" in error and "make it again" in error
    flags = ("-d", "custom", "-p", str(folder), "--split", "all", "--results", str(tmp_path))
    assert main.main(["evaluate", *flags, "--maps", str(folder / "stimuli")]) == 2
    assert "0002.png is black" in capsys.readouterr().err


def turned(folder, name="0001.png"):
    """Store a photograph on its side, with a tag that turns it upright."""
    file = folder / "stimuli" / name
    Image.fromarray(np.rot90(np.asarray(Image.open(file)))).save(file, exif=exif(6))


def turn_and_compress(folder):
    turned(folder)
    image = Image.open(folder / "stimuli" / "0002.png")
    image.putalpha(255)
    image.save(folder / "stimuli" / "0002.webp", lossless=True)
    Image.open(folder / "saliency" / "0002.png").save(folder / "saliency" / "0002.bmp")
    for kind in ("stimuli", "saliency"):
        (folder / kind / "0002.png").unlink()


def deepen(folder):
    """Store the maps with 16 bits and small values."""
    for file in (folder / "saliency").iterdir():
        Image.fromarray(np.asarray(Image.open(file)).astype(np.uint16)).save(file)


def test_turned_and_compressed_photographs_and_maps_of_16_bits_train_like_plain_ones(tiny_dataset, tmp_path, eager):
    losses = []
    for i, change in enumerate((lambda folder: None, turn_and_compress, deepen)):
        folder = tiny_dataset()
        change(folder)
        assert run(folder, tmp_path / str(i), "--epochs", "1") == 0
        losses.append([float(history(tmp_path / str(i))[0][key]) for key in ("loss", "val_loss")])
        shutil.rmtree(folder)
    assert losses[0] == losses[1] and min(losses[0]) > 0
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_maps_that_fit_the_stored_photograph_are_explained(tiny_dataset, tmp_path, capsys, eager):
    folder = tiny_dataset()
    image = Image.open(folder / "stimuli" / "0001.png")
    image.save(folder / "stimuli" / "0001.png", exif=exif(8))
    assert run(folder, tmp_path / "results", "--epochs", "1") == 2
    error = capsys.readouterr().err
    assert "fits the photograph as stored" in error and "--orientation stored" in error
    assert run(folder, tmp_path / "results", "--epochs", "1", "--orientation", "stored") == 0
    rows = "image,x,y\n" + "0001,60,3\n" * 20
    write(folder / "fixations.csv", rows.encode())
    with pytest.raises(UserError, match=r"inside the photographs as stored, .* pass --orientation stored"):
        fixations.read_fixations(folder, "upright")


def test_salicon_as_its_authors_pack_it_is_used_where_it_is(tiny, tmp_path, photograph):
    tiny("salicon")
    made = data.find_dataset("salicon", tmp_path / "made")
    theirs = tmp_path / "theirs" / "salicon"
    shutil.copytree(made / "stimuli", theirs / "images")
    shutil.copytree(made / "saliency", theirs / "maps")
    write(theirs / "images" / "test" / "t.png", tf.io.encode_png(photograph()))
    expected = fixations.read_fixations(made)
    for name, points in expected.items():
        gaze = np.array([(points[:, :2] + 1,)], [("fixations", object)])
        (theirs / "fixations" / name).parent.mkdir(parents=True, exist_ok=True)
        savemat(theirs / "fixations" / f"{name}.mat", {"gaze": gaze, "resolution": [[48, 64]]})
    found = data.find_dataset("salicon", tmp_path / "theirs")
    assert found == theirs
    assert [sample.name for sample in data.pair_files(found)] == [sample.name for sample in data.pair_files(made)]
    read = fixations.read_fixations(found)
    assert {name: points[:, :2].tolist() for name, points in read.items()} == {
        name: points[:, :2].tolist() for name, points in expected.items()
    }
