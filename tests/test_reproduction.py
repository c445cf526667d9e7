"""The parts of `reproduce`: plan, keys, tables, references and LaTeX."""

import errno
import re
from pathlib import Path

import pytest
from conftest import write
from loopback import status
from reproductions import internet, networks, quick, run

from msinet import main
from msinet.config import MAPS, PARAMS, SPEED, TRAINING, defaults
from msinet.phases.reproduction import page, plan, rows, steps
from msinet.phases.reproduction.ledger import Outcome, brief, key_of
from msinet.utils import DownloadError, UserError, locked

ROOT = Path(__file__).parents[1]

# Another value for each parameter that affects maps.
OTHER = {"orientation": "stored", "precision": "bfloat16", "seed": 7}


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


@pytest.mark.parametrize(("width", "blocks"), [(50, 2), (100, 1)])
def test_tables_fit_the_terminal(width, blocks):
    names = ("AUC", "sAUC", "NSS", "CC", "SIM", "KLD", "IG")
    scores = {name: rows.Score(0.5, 0.4, 0.6, 9) for name in names}
    title, reason = "published SALICON network, not fine-tuned, and many more words", "the loss became nan " * 5
    found = [
        rows.Row("published", title, "osie", "tuebingen", scores),
        rows.Row("trained", "trained here", "dutomron", "tuebingen", reason=reason),
    ]
    lines = page.for_terminal(found, "tuebingen", width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("osie ") for line in lines) == blocks
    assert " ".join(" ".join(lines).split()).count("0.500") == len(names)
    assert "dutomron: failed, the loss became nan" in " ".join(lines)


def test_errors_in_a_few_words():
    unavailable = DownloadError("It is not available.", ["why"], "a.b: Google Drive's quota; wait")
    assert brief(unavailable) == "a.b: Google Drive's quota"
    assert brief(UserError("The loss became nan. Try another.")) == "The loss became nan"
    assert brief(OSError(errno.ENOSPC, "No space left")) == "the disk is full"
    assert brief(MemoryError()) == "there is not enough memory"
    assert brief(KeyError("x")) == "KeyError: 'x'" and len(brief(UserError("x" * 500))) == 160


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
    assert "+0.250" in line and "**outside**" in line
    assert "outside" not in section.partition("Table 1")[0].split("\n")[-1]


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
        rows.read_references(path)
    with pytest.raises(UserError, match="no column source"):
        rows.read_references(write(tmp_path / "s.csv", b"dataset,metric,value\n"))


def test_file_of_references_that_ships_has_numbers_of_another_split_and_says_so():
    found = rows.read_references(ROOT / "docs" / "reference.csv")
    numbers = {"AUC": 0.865, "CC": 0.899, "KLD": 0.307, "sAUC": 0.736, "IG": 0.793, "NSS": 1.931, "SIM": 0.784}
    assert {row.metric: row.value for row in found} == numbers
    for row in found:
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
