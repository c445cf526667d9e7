"""Reproduction: from empty folders to the page, killed and resumed, with failures, and every row repeated alone."""

import csv
import errno
import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write
from loopback import status
from reproductions import arrays_of, internet, networks, quick, run, vgg16

from msinet import checkpoint, main
from msinet.acquisition import datasets
from msinet.acquisition.datasets import BENCHMARKS, DATASETS, Benchmark
from msinet.config import PROTOCOLS
from msinet.phases import evaluate, train
from msinet.phases.reproduction import ledger, page, plan
from msinet.scoring import pictures
from msinet.utils import UserError

ROOT = Path(__file__).parents[1]


def without_costs(folder: Path) -> dict[str, str]:
    """The files of the page without the seconds and megabytes, which differ between runs."""
    page = (folder / "README.md").read_text(encoding="utf-8").partition("## Time and memory")[0]
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for step in content["steps"]:
        del step["seconds"], step["peak_mb"]
    table, tex = ((folder / name).read_text(encoding="utf-8") for name in ("results.csv", "tables.tex"))
    return {"README.md": page, "results.json": json.dumps(content), "results.csv": table, "tables.tex": tex}


# --- From nothing to the page -----------------------------------------------------------------------------------------


def test_seven_datasets_go_from_empty_folders_to_the_page(internet, run, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "draw_distributions", lambda *_: None)  # Its own tests draw it; here it takes time.
    assert run("-d", "all") == 0
    rows, page, content = run.rows(), run.page(), run.json()
    titles = Counter((row["dataset"], row["protocol"]) for row in rows.values())
    assert set(titles) == {(name, protocol) for name in DATASETS for protocol in PROTOCOLS}
    for name in DATASETS:
        # Published, SALICON's, the dataset's own maps, uniform, center bias; gold standard if observers are known.
        known = name in ("salicon", "dutomron", "pascals", "osie")
        assert titles[name, "mit"] == 5 + known - (name == "salicon"), name
        assert DATASETS[name].title in page
        for archive in DATASETS[name].archives:
            assert hashlib.sha256(internet.files[f"/{archive.file}"]).hexdigest() in page
        assert checkpoint.file_sha256(tmp_path / "weights" / f"model_{name}_cpu.pb") in page
    own, untuned = (rows[network, plan.NETWORKS[network], "osie", "tuebingen"] for network in ("published", "salicon"))
    assert own["scores"]["NSS"]["mean"] != untuned["scores"]["NSS"]["mean"]
    links = re.findall(r"!\[.*\]\((.*)\)", page)
    assert len(links) == 7 + 6 and all((run.folder / link).stat().st_size > 10_000 for link in links)

    # The other files hold the same numbers.
    with (run.folder / "results.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            row = rows[line["network"], line["title"], line["dataset"], line["protocol"]]
            assert float(line["mean"]) == row["scores"][line["metric"]]["mean"]
            shown = f"{float(line['mean']):.3f} [{float(line['low']):.3f}, {float(line['high']):.3f}]"
            assert shown.replace("-0.000", "0.000") in page
            assert f"{float(line['mean']):.3f}" in (run.folder / "tables.tex").read_text(encoding="utf-8")

    # The command of each row reproduces its number.
    steps = {step["name"]: step for step in content["steps"]}
    for words in ("evaluate published network on osie, tuebingen", "evaluate baselines on salicon, mit"):
        assert steps[words]["command"] in page
        shutil.rmtree(run.folder / "again", ignore_errors=True)
        assert main.main(shlex.split(steps[words]["command"])[2:]) == 0
        (summary,) = (run.folder / "again").rglob("summary.json")
        assert json.loads(summary.read_text(encoding="utf-8"))["scores"] == steps[words]["result"]["scores"]


def test_training_goes_from_vgg16_over_salicon_to_each_dataset(internet, vgg16, run, monkeypatch, eager):
    monkeypatch.setattr(pictures, "draw_distributions", lambda *_: None)
    flags = ["--variant", "narrow", "--epochs", "1", "--weights", "lite", "--input-size", "24", "32"]
    assert run("--train", "-d", "salicon", "osie", "--batch-size", "4", *flags) == 0
    rows, steps, page = run.rows(), {step["name"]: step for step in run.json()["steps"]}, run.page()
    salicon, osie = (steps[f"train on {name}, aspp, seed 42"]["result"] for name in ("salicon", "osie"))
    assert salicon["init"] == "vgg16" and osie["init"] == salicon["best"]
    known = checkpoint.read_knowledge(Path(osie["best"]))
    assert list(known.datasets) == ["osie"] and known.input_size == (24, 32)
    for name in ("salicon", "osie"):
        assert rows["trained", "trained here", name, "mit"]["scores"]["NSS"]["images"] >= 1
        assert f"![Loss over the epochs on {name}](curves_{name}.png)" in page
        assert (run.folder / f"curves_{name}.png").stat().st_size > 10_000
    # The page names the replacement networks and their size above the first number.
    head = page.partition("## Scores")[0]
    assert "The published networks are not in these tables" in head and "lite network" in head and "24×32" in head
    command = shlex.split(steps["train on osie, aspp, seed 42"]["command"])[2:]
    parsed = main.parse(command)
    assert (parsed.init, parsed.variant, parsed.epochs) == (salicon["best"], "narrow", 1)
    assert (parsed.context, parsed.input_size) == ("aspp", (24, 32))


def test_seeds_and_the_ablation_are_trained_each_once_and_give_mean_and_spread(internet, vgg16, quick, run):
    flags = ["-d", "osie", "--train", "--context", "plain", "--seeds", "3", "--weights", "lite", "--seed", "5"]
    assert run(*flags) == 0
    trained = {name for name in quick if name.startswith("train ")}
    assert trained == {f"train {n} {c} {s}" for n in ("salicon", "osie") for c in ("aspp", "plain") for s in (5, 6, 7)}
    assert set(quick.values()) == {1}
    steps = {step["name"]: step for step in run.json()["steps"]}
    for network, context in (("trained", "aspp"), ("ablation", "plain")):
        for seed in (5, 6, 7):
            start = steps[f"train on salicon, {context}, seed {seed}"]["result"]["best"]
            assert steps[f"train on osie, {context}, seed {seed}"]["result"]["init"] == start
        title = plan.NETWORKS[network]
        values = [
            steps[f"evaluate {title} on osie, seed {seed}, mit"]["result"]["scores"]["it"]["NSS"]["mean"]
            for seed in (5, 6, 7)
        ]
        score = run.rows()[network, title, "osie", "mit"]["scores"]["NSS"]
        assert len(set(values)) == 3 and score["seeds"] == 3
        assert score["mean"] == pytest.approx(np.mean(values))
        assert score["high"] - score["mean"] == pytest.approx(np.std(values, ddof=1))
        assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in run.page()
    assert ("trained", "trained here", "salicon", "mit") not in run.rows()  # It was not asked for.


def test_benchmarks_are_predicted_where_their_photographs_are(internet, quick, run, tmp_path, photograph, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "mit300", Benchmark("mit1003", 2, ("mit300",)))
    for i in range(2):
        write(tmp_path / "data" / "mit300" / f"i{i}.jpg", tf.io.encode_jpeg(photograph(seed=i)))
    assert run("-d", "osie") == 0
    (step,) = [step for step in run.json()["steps"] if step["kind"] == "submit"]
    assert {Path(file).name for file in step["result"]["files"]} == {
        "mit300.json", "mit300_densities.hdf5", "mit300_maps.zip",
    }  # fmt: skip
    section = run.page().partition("## Files for the benchmarks")[2].partition("## ")[0]
    assert all(digest in section for digest in step["result"]["sha256"].values())
    used = json.loads(next(run.folder.rglob("mit300.json")).read_text(encoding="utf-8"))
    assert used["weights"] == str(tmp_path / "weights" / "model_mit1003_cpu.pb")
    assert "cat2000" not in section


# --- Killed and gone on -----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """An error that no step catches."""


def test_resumes_after_a_kill_with_the_same_page(internet, vgg16, quick, run, tmp_path, monkeypatch):
    flags = ["-d", "osie", "fiwi", "--train"]
    assert run(*flags) == 0
    expected = without_costs(run.folder)
    count = len(run.json()["steps"])
    for folder in ("results", "data", "weights"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "weights").mkdir()
    quick.clear()
    internet.requests.clear()

    original, moments = ledger.do, 0
    for moment in range(1, count + 1):
        started = Counter()

        def until(*arguments, moment=moment, started=started):
            started["steps"] += 1
            if started["steps"] == moment + 1:
                raise Killed
            return original(*arguments)

        monkeypatch.setattr(ledger, "do", until)
        try:
            assert run(*flags) == 0
        except Killed:
            moments += 1
    assert moments == count - 1 >= 10
    assert without_costs(run.folder) == expected
    assert set(quick.values()) == {1}  # No score and no epoch was made twice, and no file was fetched twice.
    assert set(Counter(path for path, _ in internet.requests).values()) == {1}


# Reproduces from a folder of data with a file of weights, and says when it has begun to score the network.
DRIVER = """
import sys, time
from dataclasses import replace
from msinet import main
from msinet.acquisition.datasets import DATASETS
from msinet.phases.evaluation import scores
DATASETS["osie"] = replace(DATASETS["osie"], train=3, valid=1, input_size=(48, 64))
score = scores.score_all
def stand_still(models, truth, protocol, options):
    if not options.baselines:
        print("standing still", flush=True)
        time.sleep(60)
    return score(models, truth, protocol, options)
scores.score_all = stand_still
main.main(sys.argv[1:])
"""


def test_resumes_after_a_kill_in_the_middle_of_a_step(internet, run, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "draw_distributions", lambda *_: None)
    weights = tmp_path / "narrow.npz"
    np.savez(weights, **arrays_of(5))
    flags = ["-d", "osie", "--weights", weights]
    assert run(*flags) == 0
    expected = without_costs(run.folder)
    shutil.rmtree(run.folder)
    arguments = ["reproduce", "-p", tmp_path / "data", "--results", tmp_path / "results", *flags]
    process = subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    with process:
        assert any(line == "standing still\n" for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    before = {file: file.stat().st_mtime_ns for file in run.folder.rglob("summary.json")}
    assert len(before) == 2  # The baselines by both protocols.
    assert run(*flags) == 0 and run.printed.count("Done before.") == 4
    assert without_costs(run.folder) == expected
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_finished_steps_are_repeated_only_if_something_changed(internet, quick, run, tmp_path):
    narrow = tmp_path / "narrow.npz"
    np.savez(narrow, **arrays_of(5))
    flags = ["-d", "osie", "--weights", narrow]
    assert run(*flags) == run(*flags) == 0 and len(quick) == 4 and set(quick.values()) == {1}
    first = run.rows()

    np.savez(narrow, **arrays_of(6))  # Other weights of the same name: the baselines stay.
    assert run(*flags) == 0 and len(quick) == 6 and set(quick.values()) == {1}
    title = "narrow.npz, instead of the published network"
    key = ("published", title, "osie", "mit")
    assert run.rows()[key] != first[key]
    assert run(*flags, "--seed", "7") == 0 and len(quick) == 10  # Another seed: nothing is mixed in.
    scores = run.rows()[key]["scores"]
    assert run(*flags, "--seed", "7", "--precision", "bfloat16") == 0 and len(quick) == 14
    assert run.rows()[key]["scores"] != scores and run.page().count("--precision bfloat16") == 4
    table = tmp_path / "data" / "osie" / "fixations.csv"
    table.write_text(table.read_text(encoding="utf-8") + "1001,3,3,0\n", encoding="utf-8")
    assert run(*flags) == 0 and len(quick) == 18
    shutil.rmtree(run.folder / "evaluation")  # What a record promises is gone.
    assert run(*flags) == 0 and sorted(quick.values()) == [1] * 14 + [2] * 4


def test_every_command_has_the_options_of_its_step(internet, vgg16, run, quick, monkeypatch):
    flags = ["-d", "osie", "--train", "--seed", "5", "--batch-size", "3", "--scales", "0.5", "1", "--mirror"]
    assert run(*flags, "--weights", "lite", "--precision", "bfloat16", "--input-size", "24", "32") == 0
    done = {kind: [] for kind in ("train", "evaluate")}
    for kind, phase in (("train", train), ("evaluate", evaluate)):
        monkeypatch.setattr(phase, "run", done[kind].append)
    for step in run.json()["steps"]:
        if step["kind"] in done:
            assert main.main(shlex.split(step["command"])[2:]) == 0
    assert len(done["train"]) == 2 and len(done["evaluate"]) == 6
    expected = {"batch_size": 3, "precision": "bfloat16", "seed": 5, "results": str(run.folder / "again")}
    for options in [*done["train"], *done["evaluate"]]:
        assert expected.items() <= options.params.items() and options.input_size == (24, 32)
    assert all(o.params["scales"] == (0.5, 1.0) and o.params["mirror"] and o.init for o in done["train"])
    assert sorted(o.protocol for o in done["evaluate"]) == ["mit"] * 3 + ["tuebingen"] * 3


# --- Faults -----------------------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_made_say_why_and_the_others_are_right(internet, vgg16, quick, run, tmp_path, monkeypatch):
    names = ["osie", "mit1003", "pascals", "fiwi", "dutomron", "cat2000"]
    assert run("-d", *names, results=tmp_path / "good") == 0
    good = run.rows()
    for name in ("pascals", "fiwi", "dutomron"):
        shutil.rmtree(tmp_path / "data" / name)
    for name in ("mit1003", "cat2000"):
        (tmp_path / "weights" / f"model_{name}_cpu.pb").unlink()
    dead = replace(DATASETS["fiwi"].archives[0], urls=("http://nobody.invalid/webpage_dataset.zip",))
    monkeypatch.setitem(DATASETS, "fiwi", replace(DATASETS["fiwi"], archives=(dead,)))
    internet.serve("/salObj.zip", internet.files["/salObj.zip"][:-1000])
    internet.faults["/model_mit1003_cpu.zip"] = [status(404)]
    quota = b"<html><title>Google Drive - Quota exceeded</title></html>"
    internet.serve("/model_cat2000_cpu.zip", quota)
    score = evaluate.run

    def full(options):
        if options.data == "osie" and options.protocol == "mit" and not options.baselines:
            raise OSError(errno.ENOSPC, "No space left on device")
        score(options)

    monkeypatch.setattr(evaluate, "run", full)
    learn = train.run

    def diverge(options):
        (name,) = options.data
        if name == "dutomron":
            raise UserError("The loss became nan in epoch 1, step 3; no epoch was complete. Try a smaller one.")
        if name == "mit1003":
            raise RuntimeError("unexpected")
        learn(options)

    monkeypatch.setattr(train, "run", diverge)
    assert run("-d", *names, "--train") == 1
    reasons = {key: row["reason"] for key, row in run.rows().items() if row["reason"]}
    of = {(network, dataset, protocol): reason for (network, _, dataset, protocol), reason in reasons.items()}
    for network in ("published", "salicon", "trained"):
        assert "nobody.invalid is unknown" in of[network, "fiwi", "tuebingen"]
        assert "salObj.zip: wrong checksum" in of[network, "pascals", "mit"]
    assert "404" in of["published", "mit1003", "mit"] and "cat2000" in of["published", "cat2000", "mit"]
    assert of["published", "osie", "mit"] == "the disk is full"
    assert of["trained", "dutomron", "mit"].endswith("The loss became nan in epoch 1, step 3")
    assert "RuntimeError: unexpected; see" in of["trained", "mit1003", "mit"]
    assert "unexpected" in next((run.folder / "failures").iterdir()).read_text(encoding="utf-8")
    assert all(len(reason) < 300 for reason in reasons.values())
    # Everything else is as it would have been.
    rest = {key: row for key, row in run.rows().items() if key not in reasons and key[0] != "trained"}
    assert len(rest) > 20 and all(good[key] == row for key, row in rest.items())
    for text in (run.page(), run.printed, (run.folder / "tables.tex").read_text(encoding="utf-8")):
        assert "the disk is full" in text and "nan in epoch 1" in text

    # Once it can be had, the same command makes what was missing.
    monkeypatch.setattr(train, "run", learn)
    monkeypatch.setattr(evaluate, "run", score)
    quick.clear()
    run("-d", "osie", "dutomron", "--train")
    assert not any(row["reason"] for row in run.rows().values())
    assert [name for name in quick if name.startswith("train ")] == ["train dutomron aspp 42"]


def test_training_that_fails_on_salicon_is_why_nothing_is_fine_tuned(internet, quick, run, monkeypatch):
    monkeypatch.setattr(datasets, "VGG16", (replace(datasets.VGG16[0], urls=("http://nobody.invalid/vgg16.zip",)),))
    assert run("-d", "osie", "--train", "--weights", "lite") == 1
    reason = run.rows()["trained", "trained here", "osie", "mit"]["reason"]
    assert reason == "VGG16: nobody.invalid cannot be reached"
    assert not [name for name in quick if name.startswith("train ")]


def test_page_that_cannot_be_written_is_printed(internet, quick, run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(page.Report, "write", full)
    assert run("-d", "osie") == 1
    assert "Protocol mit, means\n\npublished network\n " in run.printed and "No space left on device" in run.printed
