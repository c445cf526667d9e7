"""The command line: quick answers, flags for every parameter, and one line for each mistake."""

import dataclasses
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write

from msinet import main, utils
from msinet.acquisition.datasets import input_size, names
from msinet.arguments import params_of
from msinet.config import PARAMS, RECIPES, VARIANTS, defaults

ROOT = Path(__file__).parents[1]

PHASES = ["train", "download", "evaluate", "regions", "compare", "crop", "submit", "reproduce"]
REQUIRED = {"submit": ["-d", "mit300", "-p", "x"], "export": ["--format", "onnx"], "compare": ["a.png", "b.png"]}


def test_help_and_bad_arguments_do_not_import_heavy_packages():
    script = """
import sys
from msinet import main
for arguments in (
    ["--help"], ["train", "--help"], ["download", "--help"], ["test", "-d", "nothing"], ["train", "--epochs", "0"]
):
    try:
        main.parse(arguments)
    except SystemExit:
        pass
heavy = {"tensorflow", "keras", "numpy", "scipy", "matplotlib", "PIL", "tqdm", "filelock"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


def test_options_that_do_not_fit_together_are_reported_before_tensorflow_is_imported():
    script = """
import sys
from msinet import main
for command in (
    "train -d osie osie", "train -d osie --sigma 3", "train -d custom -p nowhere", "submit -d mit300 -p nowhere",
    "evaluate --protocol mit --fit", "evaluate --fit --split all", "evaluate --name ..",
    "evaluate -d custom -p nowhere",
    "regions -p nowhere", "regions --area button", "crop --ratio 0:1", "compare nowhere.png nowhere.png",
    "reproduce --seeds 2", "reproduce --train --reference nowhere.csv",
):
    assert main.main(command.split()) == 2, command
    assert "tensorflow" not in sys.modules, command
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_options_with_the_names_of_its_flags(phase):
    options = importlib.import_module(f"msinet.phases.{phase}").Options
    flags = vars(main.parse([phase, *REQUIRED.get(phase, [])])).keys() - PARAMS.keys() - {"phase", "recipe"}
    assert {field.name for field in dataclasses.fields(options)} == flags | {"params"}
    assert options.__dataclass_params__.frozen


@pytest.mark.parametrize("key", PARAMS)
def test_every_parameter_is_a_flag_that_accepts_another_value(key):
    row, flag = PARAMS[key], f"--{key.replace('_', '-')}"
    if isinstance(row.value, bool):
        value, words = not row.value, [flag if not row.value else f"--no-{flag[2:]}"]
    elif row.choices:
        value = next(choice for choice in row.choices if choice != row.value)
        words = [flag, value]
    elif isinstance(row.value, tuple):
        value, words = (row.limits[0], row.limits[1]), [flag, *map(str, row.limits)]
    elif row.limits:
        value = next(limit for limit in row.limits if limit != row.value)
        words = [flag, repr(value)]
    else:
        value, words = "elsewhere", [flag, "elsewhere"]
    for phase in ("train", "reproduce", *row.phases):
        params = params_of(main.parse([phase, *REQUIRED.get(phase, []), *words]))
        assert params == {**defaults(), key: value}, phase


def test_flags_win_over_the_recipe_and_the_recipe_over_the_defaults():
    assert params_of(main.parse(["train"])) == defaults()
    params = params_of(main.parse(["train", "--recipe", "scratch", "--batch-size", "3", "--no-mirror"]))
    assert (params["batch_size"], params["mirror"]) == (3, False)
    assert params["learning_rate"] == RECIPES["scratch"]["learning_rate"]
    assert params["device"] == PARAMS["device"].value


def test_defaults_are_the_papers():
    params = defaults()
    assert next(iter(params)) == "device"  # The row that most users edit comes first.
    assert (params["epochs"], params["batch_size"], params["learning_rate"]) == (10, 1, 1e-5)
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
        (["train", "-d", "osie", "--valid-fraction", "0.1"], ["--valid-fraction", "-d custom"]),
        (["train", "-d", "osie", "--sigma", "3"], ["--sigma", "-d custom"]),
        (["train", "-d", "osie", "--pixels-per-degree", "30"], ["--pixels-per-degree", "-d custom"]),
        (["train", "-d", "osie", "osie"], ["osie osie", "once"]),
        (["test", "-p", "nowhere.jpg"], ["nowhere.jpg", "-p"]),
        (["test", "--weights", "nowhere.h5"], ["nowhere.h5"]),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    # Instructions for downloading by hand are indented below the message.
    assert error.startswith("error: ") and all(line.startswith("  ") for line in error.splitlines()[1:])
    assert "--from" in words or error.count("\n") == 1
    assert all(word in error for word in words)


IMPOSSIBLE = [
    *("--epochs=0", "--batch-size=x", "--learning-rate=-1", "--seed=-1", "--crop=1", "--cc-weight=-1", "--scales=nan"),
    *("--learning-rate=1e-300", "--sigma=1e-300", "--sigma=1e9", "--sigma=0", "--sigma=inf", "--scales=1e-300"),
    *(f"--{key.replace('_', '-')}={'9' * 21}" for key, row in PARAMS.items() if row.limits),
]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        *((f"train {flag}", "received {}, expected a ".format(flag.partition("=")[2])) for flag in IMPOSSIBLE),
        *(
            (f"{phase} -p a -p b", "received a and b, expected one")
            for phase in ("train", "evaluate", "download", "reproduce")
        ),
        ("test -p=", "received an empty path"),
        ("test --input-size 8 100000", "at most 4096"),
        ("test --input-size 4096 4096", "pixels, which need 10 GB"),
        ("test --input-size auto photos/", "photographs come before this flag"),
        ("test --input-size 8", "a height and a width, or auto"),
        ("test --input-size 8 9", "a multiple of 8"),
        ("test --max-pixels 9999999999", "a whole number from 1 to"),
    ],
)
def test_impossible_values_are_rejected_by_the_parser(command, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main.parse(command.split())
    assert stop.value.code == 2
    flag, error = command.split()[1].partition("=")[0], capsys.readouterr().err
    assert flag in error and words in error


SHELL = pytest.mark.skipif(shutil.which("bash") is None, reason="There is no bash.")


def in_shell(command: str, tmp_path: Path) -> subprocess.CompletedProcess:
    """Run a command line in a folder; `$msinet` stands for the program."""
    environment = {**os.environ, "msinet": f"{sys.executable} {ROOT / 'main.py'}"}
    line = ["bash", "-c", f"set -o pipefail; {command}"]
    return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


@SHELL
@pytest.mark.parametrize("closed", ["2>&-", "2>&- >&- <&-"])
def test_closed_streams_change_no_result(tmp_path, closed):
    photograph = write(tmp_path / "a.png", tf.io.encode_png(np.zeros((8, 9, 3), np.uint8)))
    finished = in_shell(f"$msinet test -p {photograph} --weights lite --input-size 48 64 {closed}", tmp_path)
    assert finished.returncode == 0
    assert ("1 map written" in finished.stdout) == (closed == "2>&-")
    assert (tmp_path / "results" / "images" / "a.jpeg").stat().st_size > 100
    assert in_shell(f"$msinet test -p nowhere.jpg {closed}", tmp_path).returncode == 2


@SHELL
@pytest.mark.parametrize(
    ("arguments", "status"), [("--help", 0), ("download --list", 141), ("test -p nowhere.jpg 2>&1", 141)]
)
def test_reader_that_ends_early_is_not_an_error(tmp_path, arguments, status):
    finished = in_shell(f"$msinet {arguments} | true", tmp_path)
    assert (finished.returncode, finished.stderr) == (status, "")


def test_native_libraries_are_silenced_only_if_there_is_a_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with utils.quiet_stderr():
        done = True
    assert done
