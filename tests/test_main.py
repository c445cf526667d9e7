"""The command line: quick answers, flags for every parameter, and one line for each mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

import main
from acquisition.datasets import input_size, names
from config import PARAMS, RECIPES, VARIANTS

ROOT = Path(__file__).parents[1]


def test_help_and_bad_arguments_do_not_import_tensorflow():
    script = """
import sys, main
for arguments in (
    ["--help"], ["train", "--help"], ["download", "--help"], ["test", "-d", "nothing"], ["train", "--epochs", "0"]
):
    try:
        main.parse(arguments)
    except SystemExit:
        pass
heavy = {"tensorflow", "keras", "numpy", "scipy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


def test_every_parameter_is_a_flag_of_train():
    flags = {
        "epochs": "3", "batch_size": "2", "learning_rate": "0.5", "warmup_steps": "7", "cosine_decay": None,
        "weight_decay": "0.25", "mirror": None, "color": "0.125", "crop": "0.5", "scales": "0.75",
        "weight_average": "0.5", "cc_weight": "0.5", "nss_weight": "0.25", "gpus": "2",
        "cache": None, "tensorboard": None, "precision": "bfloat16",
        "device": "gpu", "seed": "9",
        "results": "elsewhere",
    }  # fmt: skip
    assert flags.keys() == PARAMS.keys()
    arguments = ["train"]
    for key, value in flags.items():
        arguments += ["--" + key.replace("_", "-")] + ([value] if value else [])
    params = main.params_of(main.parse(arguments))
    assert all(params[key] != PARAMS[key] for key in PARAMS)


def test_flags_win_over_the_recipe_and_the_recipe_over_the_defaults():
    assert main.params_of(main.parse(["train"])) == PARAMS
    params = main.params_of(main.parse(["train", "--recipe", "scratch", "--batch-size", "3", "--no-mirror"]))
    assert (params["batch_size"], params["mirror"]) == (3, False)
    assert params["learning_rate"] == RECIPES["scratch"]["learning_rate"]
    assert params["device"] == PARAMS["device"]


def test_defaults_are_the_papers():
    assert (PARAMS["epochs"], PARAMS["batch_size"], PARAMS["learning_rate"]) == (10, 1, 1e-5)
    sizes = {name: input_size(name) for name in names()}
    assert sizes["salicon"] == sizes["osie"] == (240, 320) and sizes["cat2000"] == sizes["fiwi"] == (216, 384)
    assert sizes["mit1003"] == sizes["dutomron"] == sizes["pascals"] == (360, 360)
    assert VARIANTS["full"] == {"width": 1.0, "batch_norm": False}
    assert all(side % 8 == 0 for size in sizes.values() for side in size)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "-d", "custom", "-p", "nowhere"], ["No such folder: nowhere", "-p"]),
        (["train", "-p", "nowhere"], ["salicon-stimuli.zip", "network", "--from"]),
        (["download", "-d", "osie", "--from", "nowhere.zip"], ["nowhere.zip", "--from"]),
        (["train", "-d", "osie", "--valid-fraction", "0.1"], ["--valid-fraction", "custom"]),
        (["train", "-d", "osie", "osie"], ["osie osie", "once"]),
        (["test", "-p", "nowhere.jpg"], ["nowhere.jpg", "-p"]),
        (["test", "--weights", "nowhere.h5"], ["nowhere.h5"]),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    # The ways by hand, where a download failed, are indented below.
    assert error.startswith("error: ") and all(line.startswith("  ") for line in error.splitlines()[1:])
    assert "--from" in words or error.count("\n") == 1
    assert all(word in error for word in words)


@pytest.mark.parametrize(
    "flag",
    ["--epochs=0", "--batch-size=x", "--learning-rate=-1", "--seed=-1", "--crop=1", "--cc-weight=-1", "--scales=nan"]
    + [f"--{key}={'9' * 21}" for key in ("epochs", "batch-size", "learning-rate", "warmup-steps", "scales", "seed")]
    + [f"--{key}={'9' * 21}" for key in ("weight-decay", "color", "crop", "weight-average", "cc-weight", "nss-weight")]
    + ["--learning-rate=1e-300", "--sigma=1e-300", "--scales=1e-300"],
)
def test_impossible_values_are_refused_by_the_parser(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        main.parse(["train", flag])
    assert stop.value.code == 2
    assert flag.split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("phase", ["train", "test"])
def test_input_size_that_the_network_cannot_have_is_refused_by_the_parser(phase, capsys):
    with pytest.raises(SystemExit):
        main.parse([phase, "--input-size", "48", "60"])
    assert "multiple of 8" in capsys.readouterr().err


def test_sample_photograph_ships_with_matplotlib():
    assert main.sample_photograph().is_file()
