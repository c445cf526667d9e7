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
from test_checkpoint import encoder_of, write_checkpoint, write_frozen_graph
from tiny_archives import zip_of

from msinet import checkpoint, download, main, model
from msinet.acquisition import datasets
from msinet.acquisition.datasets import BENCHMARKS, DATASETS, Benchmark
from msinet.config import MAPS, PARAMS, PROTOCOLS, SPEED, TRAINING, defaults
from msinet.phases import evaluate, train
from msinet.phases.reproduction import ledger, page, plan, reference, rows, steps
from msinet.phases.reproduction.ledger import Outcome, brief, key_of
from msinet.scoring import pictures
from msinet.utils import DownloadError, UserError, locked

ROOT = Path(__file__).parents[1]


def arrays_of(seed, width=0.125):
    return checkpoint.arrays_of(model.build_model(width=width, seed=seed))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """The archives of small published networks, one for each dataset and unlike each other."""
    folder, archives = tmp_path_factory.mktemp("networks"), {}
    base = arrays_of(1)
    for number, name in enumerate(DATASETS):
        arrays = base | {"decoder/conv4/kernel": np.roll(base["decoder/conv4/kernel"], number, axis=2)}
        write_frozen_graph(folder / name, arrays, model.CHANNELS_LAST)
        archives[name] = zip_of({f"model_{name}_cpu.pb": (folder / name).read_bytes()})
    return archives


@pytest.fixture
def internet(server, tiny, networks, tmp_path, monkeypatch):
    """All archives and published networks at the loopback server, tiny, and nothing fetched yet."""
    for name, archive in networks.items():
        tiny(name)
        file = f"model_{name}_cpu.zip"
        row = datasets.Archive(
            file, (server.serve(f"/{file}", archive),), ((rf"model_{name}_cpu\.pb", f"model_{name}_cpu.pb"),)
        )
        monkeypatch.setitem(
            DATASETS, name, replace(DATASETS[name], networks=(replace(row, result=f"model_{name}_cpu.pb"),))
        )
    for module in (checkpoint, download):
        monkeypatch.setattr(module, "WEIGHTS_FOLDER", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    return server


@pytest.fixture
def run(tmp_path, capsys):
    """`reproduce` in its own folders: the exit status. `page()`, `rows()` and `printed` are of the last run."""

    def reproduce_some(*flags, results=tmp_path / "results"):
        capsys.readouterr()
        fixed = ["-p", tmp_path / "data", "--results", results]
        reproduce_some.folder = results / "reproduction"
        code = main.main([str(a) for a in ("reproduce", *fixed, *flags)])
        reproduce_some.printed = capsys.readouterr().out
        return code

    reproduce_some.page = lambda: (reproduce_some.folder / "README.md").read_text(encoding="utf-8")
    reproduce_some.json = lambda: json.loads((reproduce_some.folder / "results.json").read_text(encoding="utf-8"))
    reproduce_some.rows = lambda: {
        (row["network"], row["title"], row["dataset"], row["protocol"]): row for row in reproduce_some.json()["rows"]
    }
    return reproduce_some


@pytest.fixture
def quick(monkeypatch):
    """`evaluate` and `train` in a moment, with numbers that depend on what they get: how often each was done."""
    calls = Counter()

    def score(options):
        calls[options.name] += 1
        words = [options.data, options.protocol, str(options.params["seed"]), options.params["precision"]]
        words += [checkpoint.file_sha256(Path(path)) for path in options.weights or []]
        value = int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:4], "big") / 2**32
        column = {"NSS": {"mean": value, "low": value - 0.1, "high": value + 0.1, "images": 4}, "CC": None}
        names = ["uniform", "center bias"] if options.baselines else []
        summary = {
            "scores": dict.fromkeys(("it", *names), column),
            "contenders": {"it": {}},
            "images": 4,
            "fixations": 9,
            "saliency": None,
        }
        write(options.folder_of_runs / options.name / "per_image.csv", b"")
        write(options.folder_of_runs / options.name / "summary.json", json.dumps(summary).encode())

    def learn(options):
        (name,), seed, results = options.data, options.params["seed"], Path(options.params["results"])
        calls[f"train {name} {options.context} {seed}"] += 1
        contents = f"{name} {options.context} {seed} {options.init}".encode()
        for kind in ("best", "latest"):
            write(results / "ckpts" / kind / f"{name}.weights.h5", contents)
        rows = "epoch,loss,val_loss,learning_rate,seconds\n1,2.0,1.5,1e-05,1\n2,1.0,1.25,1e-05,1\n"
        write(results / "history" / f"{name}.csv", rows.encode())

    monkeypatch.setattr(evaluate, "run", score)
    monkeypatch.setattr(train, "run", learn)
    return calls


@pytest.fixture
def vgg16(internet, tmp_path, monkeypatch):
    """The published encoder, as narrow as the lite network."""
    write_checkpoint(tmp_path / "vgg16_hybrid.ckpt", encoder_of(arrays_of(3, width=0.25)))
    files = {file.name: file.read_bytes() for file in tmp_path.glob("vgg16_hybrid.ckpt.*")}
    row = replace(datasets.VGG16[0], urls=(internet.serve("/vgg16_hybrid.zip", zip_of(files)),))
    monkeypatch.setattr(datasets, "VGG16", (row,))


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


def test_training_goes_from_vgg16_over_salicon_to_each_dataset(internet, vgg16, run, monkeypatch):
    monkeypatch.setattr(pictures, "draw_distributions", lambda *_: None)
    flags = ["--variant", "lite", "--epochs", "1", "--weights", "lite", "--input-size", "24", "32"]
    assert run("--train", "-d", "salicon", "osie", *flags) == 0
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
    assert (parsed.init, parsed.variant, parsed.epochs) == (salicon["best"], "lite", 1)
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


OTHER = {
    "orientation": "stored",
    "precision": "bfloat16",
    "seed": 7,
}  # another value for each parameter that affects maps


@pytest.mark.parametrize("key", [key for key, row in PARAMS.items() if row.affects == MAPS])
def test_parameter_that_affects_maps_changes_an_evaluation_and_its_command(key, tmp_path):
    keys, printed = [], []
    for params in (defaults(), {**defaults(), key: OTHER[key]}):
        options = plan.Options(["osie"], tmp_path, params)
        (step,) = [s for s in plan.make_plan(options) if s.name == "evaluate published network on osie, mit"]
        found = {need: {"folder": "f", "path": "w", "identity": "i"} for need in step.needs}
        keys.append(key_of(step, found))
        printed.append(steps.command_of(Outcome(step, result={"scores": {}}, inputs=found), options))
    assert keys[0] != keys[1]
    assert f"--{key} {OTHER[key]}" in printed[1] and f"--{key} " not in printed[0]


@pytest.mark.parametrize("key", PARAMS)
def test_training_is_repeated_unless_a_parameter_affects_only_speed(key):
    params = {**defaults(), key: "another"}
    assert (plan.decisive("train", params) != plan.decisive("train", defaults())) == (PARAMS[key].affects != SPEED)
    assert plan.decisive("evaluate", params) == plan.decisive("evaluate", defaults()) or PARAMS[key].affects == MAPS
    assert PARAMS[key].affects in (MAPS, TRAINING, SPEED)


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


@pytest.mark.parametrize(("width", "blocks"), [(50, 2), (100, 1)])
def test_tables_fit_the_terminal(width, blocks):
    names = ("AUC", "sAUC", "NSS", "CC", "SIM", "KLD", "IG")
    scores = {name: rows.Score(0.5, 0.4, 0.6, 9) for name in names}
    found = [
        rows.Row(
            "published", "published SALICON network, not fine-tuned, and many more words", "osie", "tuebingen", scores
        ),
        rows.Row("trained", "trained here", "dutomron", "tuebingen", reason="the loss became nan " * 5),
    ]
    lines = page.for_terminal(found, "tuebingen", width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("osie ") for line in lines) == blocks
    assert " ".join(" ".join(lines).split()).count("0.500") == len(names)
    assert "dutomron: failed, the loss became nan" in " ".join(lines)


def test_errors_in_a_few_words():
    assert (
        brief(DownloadError("It is not available.", ["why"], "a.b: Google Drive's quota; wait"))
        == "a.b: Google Drive's quota"
    )
    assert brief(UserError("The loss became nan. Try another.")) == "The loss became nan"
    assert brief(OSError(errno.ENOSPC, "No space left")) == "the disk is full"
    assert brief(MemoryError()) == "there is not enough memory"
    assert brief(KeyError("x")) == "KeyError: 'x'" and len(brief(UserError("x" * 500))) == 160


# --- Before anything is done ------------------------------------------------------------------------------------------


def test_dry_run_prints_downloads_and_disk_space_and_does_nothing(internet, quick, run, tmp_path, monkeypatch):
    assert run("--dry-run", "-d", "osie", "salicon", "--train") == 0
    lines = {line[4:].split("  ")[0]: line for line in run.printed.splitlines()}
    assert "0.07 GB" in lines["data of osie"] and "2.30 GB" in lines["data of salicon"]
    assert "0.10 GB" in lines["published network of osie"] and "0.06 GB" in lines["VGG16"]
    assert "0.70 GB" in lines["train on osie, aspp, seed 42"]  # three checkpoints, two with the optimizer's state
    assert "Together: 2.63 GB to download" in run.printed and "of disk space." in run.printed
    assert not quick and not internet.requests and not (tmp_path / "results").exists()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "2"], "--train"),
        (["--context", "plain"], "--train"),
        (["-p", "DATA/osie"], "folder of one dataset"),
        (["--reference", "nowhere.csv"], "nowhere.csv cannot be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(internet, quick, tmp_path, capsys, flags, words):
    (tmp_path / "osie" / "stimuli").mkdir(parents=True)
    flags = [flag.replace("DATA", str(tmp_path)) for flag in flags]
    assert main.main(["reproduce", "--results", str(tmp_path / "results"), *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not internet.requests


def test_another_process_in_the_same_folder_is_refused(internet, quick, run, capsys, tmp_path):
    (tmp_path / "results" / "reproduction").mkdir(parents=True)
    with locked(tmp_path / "results" / "reproduction" / ".lock", "is using it"):
        assert run("-d", "osie") == 2
    assert not quick
    assert run("-d", "osie") == 0


# --- Numbers from elsewhere -------------------------------------------------------------------------------------------


def test_reference_numbers_are_shown_and_marked_outside_the_interval(internet, quick, run, tmp_path):
    assert run("-d", "osie", "fiwi") == 0
    ours = run.rows()["published", "published network", "osie", "mit"]["scores"]["NSS"]["mean"]
    lines = ["# a comment", "dataset,metric,value,source,protocol", f"osie,NSS,{ours + 0.05},Table 1,mit"]
    lines += [f'osie,NSS,{ours - 0.25},"Table 2, left",mit', "salicon,CC,0.9,not asked for,"]
    table = write(tmp_path / "reference.csv", "\n".join(lines).encode())
    assert run("-d", "osie", "fiwi", "--reference", table) == 0
    near, far = run.json()["references"]
    assert (near["outside"], far["outside"]) == (False, True)
    assert near["difference"] == pytest.approx(-0.05) and far["difference"] == pytest.approx(0.25)
    section = run.page().partition("## Published and reproduced")[2].partition("## ")[0]
    (line,) = [line for line in section.splitlines() if "Table 2, left" in line]
    assert (
        "+0.250" in line and "**outside**" in line and "outside" not in section.partition("Table 1")[0].split("\n")[-1]
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("moon,NSS,1,x", "line 3: received the dataset 'moon'"),
        ("osie,NSSS,1,x", "line 3: received the metric 'NSSS'"),
        ("osie,NSS,high,x", "line 3: received the value 'high'"),
    ],
)
def test_reference_that_cannot_be_understood_is_named(tmp_path, line, words):
    path = write(tmp_path / "r.csv", f"dataset,metric,value,source\n# comment\n{line}\n".encode())
    with pytest.raises(UserError, match=re.escape(words)):
        reference.read(path)
    with pytest.raises(UserError, match="no column source"):
        reference.read(write(tmp_path / "s.csv", b"dataset,metric,value\n"))


def test_file_of_references_that_ships_has_numbers_of_another_split_and_says_so():
    rows = reference.read(ROOT / "docs" / "reference.csv")
    numbers = {"AUC": 0.865, "CC": 0.899, "KLD": 0.307, "sAUC": 0.736, "IG": 0.793, "NSS": 1.931, "SIM": 0.784}
    assert {row.metric: row.value for row in rows} == numbers
    for row in rows:
        assert (row.dataset, row.networks) == ("salicon", ["published"])
        assert "hidden test split, not the validation split" in row.source and "TempSAL" in row.source


# --- For a paper ------------------------------------------------------------------------------------------------------


def test_latex_has_a_line_for_each_dataset_and_as_many_cells_as_columns(internet, quick, run, monkeypatch):
    internet.faults["/model_fiwi_cpu.zip"] = [status(404)]
    assert run("-d", "osie", "fiwi") == 1
    text = (run.folder / "tables.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{tabular}{lr}") == text.count(r"\bottomrule") == 2  # NSS alone has values here.
    lines = [line for line in text.splitlines() if line.strip().startswith(("osie &", "fiwi &"))]
    assert len(lines) == 2 * 2 * 5 and all(line.count(" & ") == 1 and line.endswith(r"\\") for line in lines)
    (failed, _) = [line for line in lines if "failed" in line]
    assert r"\multicolumn{1}{l}{failed: published network of fiwi" in failed and "_" not in failed.replace(r"\_", "")
