"""Training on your own data, from the command line to a lower loss."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import write

from msinet import main
from msinet.scoring import fixations

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
    return main.main(["train", *fixed, "--variant", "lite", "--init", "scratch", *flags])


def history(results) -> list[dict]:
    with (results / "history" / "custom.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_ten_photographs_with_fixations_train_a_network_whose_loss_falls(photographs_with_fixations, tmp_path, capsys):
    results = tmp_path / "my results"
    flags = ("--sigma", "3", "--epochs", "12", "--batch-size", "4", "--learning-rate", "3e-3")
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


def test_run_is_not_resumed_with_maps_of_another_blur(photographs_with_fixations, tmp_path, capsys):
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


def test_image_that_is_damaged_behind_its_header_is_named(photographs_with_fixations, tmp_path, capsys):
    file = photographs_with_fixations / "stimuli" / "4.png"
    file.write_bytes(file.read_bytes()[:-2000])
    assert run(photographs_with_fixations, tmp_path / "results", "--epochs", "1") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "4.png" in error and "damaged" in error
