"""Reports of an evaluation: the run's folder, the table's rows, intervals and pictures."""

import errno
import json
import shutil
import sys

import numpy as np
import pytest
from conftest import write
from test_evaluate import dataset, maps, no_pictures, noise, run

from msinet import checkpoint, main, model, utils
from msinet.scoring import contenders, ground_truth, pictures, report
from msinet.scoring.protocols import MIT

# --- The run's folder, and the table's rows ---------------------------------------------------------------------------


@pytest.fixture
def noisy(no_pictures, dataset, maps, tmp_path):
    """`evaluate` of noise, with the default name of the run's folder: the exit status. `folders()` lists the runs."""
    folder = maps("noise", noise)

    def evaluate_noise(*flags, data=dataset, results=tmp_path):
        fixed = ["-d", "custom", "-p", data, "--split", "all", "--maps", folder, "--results", results]
        return main.main(["evaluate", *map(str, fixed), *map(str, flags)])

    evaluate_noise.folders = lambda: sorted(file.name for file in (tmp_path / "evaluation").iterdir())
    return evaluate_noise


def test_runs_of_other_settings_have_folders_of_their_own(noisy, dataset, tmp_path):
    other = shutil.copytree(dataset, tmp_path / "other" / "custom")
    for flags in ([], ["--seed", "7"], ["--sigma", "3"], ["--protocol", "mit"], ["--split", "valid"]):
        assert noisy(*flags) == 0
    assert noisy(data=other) == 0
    assert len(noisy.folders()) == 6
    summaries = [json.loads((tmp_path / "evaluation" / n / "summary.json").read_text()) for n in noisy.folders()]
    assert sorted(summary["folder"] for summary in summaries) == [str(dataset)] * 5 + [str(other)]
    assert noisy() == 0 and len(noisy.folders()) == 6  # Repeating a command replaces its output.


def test_run_of_other_settings_is_not_replaced(noisy, dataset, tmp_path, capsys):
    folder = tmp_path / "evaluation" / "mine"
    assert noisy("--name", "mine") == 0
    before = (folder / "per_image.csv").read_bytes()
    other = shutil.copytree(dataset, tmp_path / "other" / "custom")
    for flags, source, word in ((["--sigma", "3"], dataset, "sigma was None, now 3.0"), ([], other, str(other))):
        capsys.readouterr()
        assert noisy("--name", "mine", *flags, data=source) == 2
        error = capsys.readouterr().err
        assert word in error and "other settings" in error and "--name" in error and error.count("\n") == 1
        assert (folder / "per_image.csv").read_bytes() == before
    (folder / "summary.json").write_text("no JSON")
    assert noisy("--name", "mine") == 2


def test_weights_of_the_same_name_are_other_settings(no_pictures, run, narrow_weights, tmp_path, capsys):
    narrow = write(tmp_path / "narrow.npz", narrow_weights.read_bytes())
    assert run("--weights", narrow, "--input-size", "24", "32") == 0
    assert run("--weights", narrow, "--input-size", "32", "40") == 2
    assert "'input_size': [24, 32]" in capsys.readouterr().err
    np.savez(narrow, **checkpoint.arrays_of(model.build_model(width=0.125, seed=6)))
    assert run("--weights", narrow, "--input-size", "24", "32") == 2
    assert "sha256" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/a", "a\\b"])
def test_name_of_a_run_stays_in_the_folder_of_runs(noisy, tmp_path, capsys, name):
    before = sorted(tmp_path.iterdir())
    assert noisy("--name", name) == 2
    assert "--name names a folder" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_results_that_cannot_be_written_are_noticed_before_anything_is_computed(noisy, tmp_path, monkeypatch, capsys):
    def never(*_):
        raise AssertionError("a contender was scored")

    monkeypatch.setattr(contenders, "score_contender", never)
    monkeypatch.setattr(ground_truth, "load_cases", never)
    write(tmp_path / "file", b"")
    assert noisy(results=tmp_path / "file") == 2
    assert "is not writable" in capsys.readouterr().err

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(utils.tempfile, "TemporaryFile", full)
    assert noisy() == 2
    assert "No space left on device" in capsys.readouterr().err


def test_models_called_like_baselines_get_names_of_their_own(run, maps, tmp_path, capsys):
    spot = maps("uniform", noise)
    folders = [spot, *(shutil.copytree(spot, tmp_path / name) for name in ("Center Bias", "gold standard"))]
    again = shutil.copytree(spot, tmp_path / "more" / "UNIFORM")
    assert run("--maps", *folders, again, "--baselines") == 0
    summary, rows = run.summary(), run.rows()
    baselines = ["uniform", "center bias", "gold standard"]
    models = ["uniform-2", "Center Bias-2", "gold standard-2", "UNIFORM-3"]
    assert list(summary["scores"]) == list(summary["contenders"]) == models + baselines
    assert len(rows) == 7 * 10 and list(summary["differences_from_the_first"]) == models[1:]
    means = {name: column["NSS"]["mean"] for name, column in summary["scores"].items()}
    assert means["uniform"] == 0 and means["uniform-2"] == means["gold standard-2"] != 0
    assert summary["contenders"]["uniform-2"] == {"maps": str(spot)}
    assert all((run.folder / f"examples_{name}.png").exists() for name in models)


def test_table_names_an_included_network_as_a_replacement(no_pictures, run, monkeypatch, capsys):
    def unreachable(data):
        raise utils.DownloadError("nothing answers", brief="no network here")

    monkeypatch.setattr(checkpoint, "published_weights", unreachable)
    heads = []
    for flags in ([], ["--weights", "medium"]):
        assert run("--input-size", "24", "32", *flags, name=f"run{len(flags)}") == 0
        heads.append(capsys.readouterr().out.partition("10 images of custom")[2].partition("AUC")[0])
    assert "msinet_medium: the included medium network" in heads[0] and "no network here" in heads[0]
    assert "msinet_medium:" not in heads[1]


@pytest.mark.parametrize("protocol", ["tuebingen", "mit"])
def test_gold_standard_needs_two_observers(no_pictures, run, dataset, maps, capsys, protocol):
    lines = (dataset / "fixations.csv").read_text().splitlines()
    one_each = [line for line in lines if line.endswith((",0", "observer"))]
    (dataset / "fixations.csv").write_text("\n".join(one_each))
    assert run("--maps", maps("noise", noise), "--baselines", "--protocol", protocol) == 0
    assert "No gold standard: it needs" in capsys.readouterr().out
    assert list(run.summary()["scores"]) == ["noise", "uniform", "center bias"]


def test_sigma_wider_than_an_image_is_refused(run, maps, capsys):
    assert run("--maps", maps("noise", noise), "--sigma", "65") == 2
    assert "wider than the image 0000 of 64×48 pixels" in capsys.readouterr().err


# --- Intervals --------------------------------------------------------------------------------------------------------


def test_interval_is_that_of_the_mean_and_nan_is_left_out():
    values = np.random.default_rng(0).normal(3, 2, 400)
    known, mean, error = report.estimate(values, seed=1), values.mean(), 1.96 * values.std(ddof=1) / np.sqrt(400)
    assert known.mean == pytest.approx(mean)
    assert (known.low, known.high) == pytest.approx((mean - error, mean + error), abs=0.03)
    assert known == report.estimate(values, seed=1) != report.estimate(values, seed=2)
    with_gaps = report.estimate(np.append(values, [np.nan] * 50), seed=1)
    assert with_gaps.mean == known.mean and with_gaps.images == 400
    assert str(report.estimate(np.full(3, np.nan), seed=1)) == "–"


def test_paired_interval_is_narrower_than_that_of_unpaired_means():
    random = np.random.default_rng(0)
    base = random.normal(0, 5, 200)
    better = base + random.normal(0.3, 0.5, 200)
    scores = {"a": [{"NSS": float(v)} for v in base], "b": [{"NSS": float(v)} for v in better]}
    difference = report.differences(scores, seed=0)["b"]["NSS"]
    means = report.estimates(scores, seed=0)
    assert 0 < difference.low < 0.3 < difference.high < 0.6
    assert means["a"]["NSS"].high > means["b"]["NSS"].low  # The means' own intervals would not tell.


def test_best_images_come_first_and_nan_is_left_out():
    rows = [{"NSS": value, "EMD": value} for value in (3.0, np.nan, 1.0, 2.0)]
    assert [pictures.rank(rows, metric, MIT)[1] for metric in ("NSS", "EMD")] == [[0, 3, 2], [2, 3, 0]]


def test_headers_of_arrays_are_parsed_one_at_a_time(tmp_path, monkeypatch):
    np.save(tmp_path / "map.npy", np.eye(3))
    opened, locked = np.lib.format.open_memmap, []

    def watched(*arguments, **options):
        locked.append(ground_truth.ONE_HEADER.locked())
        return opened(*arguments, **options)

    monkeypatch.setattr(np.lib.format, "open_memmap", watched)
    assert np.array_equal(ground_truth.read_saliency(tmp_path / "map.npy"), np.eye(3)) and locked == [True]
