"""Evaluation end to end: scores equal to the metrics by hand, intervals, baselines, and the files of a run."""

import csv
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import write
from PIL import Image
from scipy.ndimage import gaussian_filter

from msinet import checkpoint, data, images, main
from msinet.scoring import density, ground_truth, metrics, pictures
from msinet.scoring.protocols import MIT

SHAPE = (48, 64)


@pytest.fixture
def dataset(tiny_dataset):
    """Ten photographs with fixations of four observers, who agree on one spot in each, and their blurred maps."""
    folder = tiny_dataset("custom", 10, *SHAPE)
    random = np.random.default_rng(0)
    lines = ["image,x,y,observer"]
    for i in range(10):
        spot = random.uniform(0.2, 0.8, 2) * SHAPE
        fixations = np.clip(spot + random.normal(0, 4, (32, 2)), 0, np.subtract(SHAPE, 1)).astype(int)
        lines += [f"{i:04d},{x},{y},{n % 4}" for n, (y, x) in enumerate(fixations)]
        blurred = gaussian_filter(metrics.count_map(fixations, SHAPE), 3)
        truth = np.round(blurred / blurred.max() * 255).astype(np.uint8)[..., None]
        write(folder / "saliency" / f"{i:04d}.png", tf.io.encode_png(truth))
    write(folder / "fixations.csv", "\n".join(lines).encode())
    return folder


@pytest.fixture
def maps(tmp_path):
    """Write maps for the dataset's photographs: `maps("name", function of the index)` -> their folder."""

    def make(name, function):
        folder = tmp_path / name
        folder.mkdir()
        for i in range(10):
            np.save(folder / f"{i:04d}.npy", function(i))
        return folder

    return make


@pytest.fixture
def no_pictures(monkeypatch):
    """Evaluate without drawing, which takes most of the time."""
    for name in ("draw_examples", "draw_distributions"):
        monkeypatch.setattr(pictures, name, lambda *_: None)


@pytest.fixture
def run(tmp_path, dataset):
    """`evaluate` on all photographs: the exit status. `rows()` and `summary()` read its latest output."""

    def evaluate_all(*flags, split="all", name="run"):
        fixed = ["-d", "custom", "-p", str(dataset), "--split", split, "--results", str(tmp_path), "--name", name]
        evaluate_all.folder = tmp_path / "evaluation" / name
        return main.main(["evaluate", *fixed, *map(str, flags)])

    def rows():
        with (evaluate_all.folder / "per_image.csv").open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        return {(row.pop("contender"), row.pop("image")): {k: float(v) for k, v in row.items()} for row in found}

    evaluate_all.rows = rows
    evaluate_all.summary = lambda: json.loads((evaluate_all.folder / "summary.json").read_text(encoding="utf-8"))
    return evaluate_all


def noise(i):
    return np.random.default_rng(100 + i).random(SHAPE)


def cases_of(folder):
    return ground_truth.load_cases(folder, data.pair_files(folder))


# --- Scores -----------------------------------------------------------------------------------------------------------


def test_table_holds_the_metrics_of_the_benchmark_and_an_interval_around_each_mean(run, dataset, maps, capsys):
    assert run("--maps", maps("noise", noise), dataset / "saliency", "--baselines") == 0
    printed, rows, summary = capsys.readouterr().out, run.rows(), run.summary()
    cases = cases_of(dataset)
    own, others = cases[3].fixations, np.concatenate([c.fixations for c in cases if c.index != 3])
    truth = images.decode_image(tf.io.read_file(str(cases[3].sample.saliency)), 1).numpy()[..., 0]
    bias = density.fit_center_bias([c.positions for c in cases])
    bias = density.CenterBias(density.histogram(density.relative(others, SHAPE)), bias.bandwidth, bias.uniform)
    expected = {
        "AUC": metrics.auc_tuebingen(noise(3), own),
        "sAUC": metrics.sauc_tuebingen(noise(3), own, others),
        "NSS": metrics.nss_tuebingen(noise(3), own),
        "CC": metrics.cc(noise(3), truth),
        "SIM": metrics.sim_tuebingen(noise(3), truth),
        "KLD": metrics.kld(noise(3), truth),
        "IG": metrics.ig_tuebingen(density.default_log_density(noise(3)), bias.log_density(SHAPE), own),
    }
    assert rows["noise", "0003"] == pytest.approx(expected, abs=1e-9)

    for contender in ("noise", "saliency", "uniform", "center bias", "gold standard"):
        for metric, estimate in summary["scores"][contender].items():
            values = [rows[contender, case.sample.name][metric] for case in cases]
            assert estimate["mean"] == pytest.approx(np.mean(values)) and estimate["images"] == 10
            assert estimate["low"] <= estimate["mean"] + 1e-12 and estimate["mean"] <= estimate["high"] + 1e-12
            line = next(line for line in printed.splitlines() if line.startswith(f"{metric} "))
            shown = f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
            assert shown.replace("-0.000", "0.000") in line
    assert "-0.000" not in printed

    scores = {name: {m: e["mean"] for m, e in column.items()} for name, column in summary["scores"].items()}
    assert scores["uniform"]["AUC"] == scores["uniform"]["sAUC"] == 0.5
    assert scores["uniform"]["NSS"] == scores["uniform"]["CC"] == 0
    assert scores["center bias"]["IG"] == pytest.approx(0, abs=1e-9)
    assert scores["saliency"]["CC"] == pytest.approx(1)
    for metric in ("AUC", "sAUC", "NSS", "CC", "SIM", "IG"):
        assert scores["gold standard"][metric] > max(scores["center bias"][metric], scores["noise"][metric]) + 0.05
    assert scores["gold standard"]["KLD"] < scores["center bias"]["KLD"]

    # The second folder of maps is compared with the first on the same images.
    differences = summary["differences_from_the_first"]
    assert list(differences) == ["saliency"]
    assert differences["saliency"]["NSS"]["mean"] == pytest.approx(scores["saliency"]["NSS"] - scores["noise"]["NSS"])
    assert differences["saliency"]["NSS"]["low"] > 0 > differences["saliency"]["KLD"]["high"]
    assert {"protocol", "versions", "seed", "contenders", "centre_bias"} <= summary.keys()
    for name in ("distributions.png", "examples_noise.png", "examples_saliency.png", "worst_noise.jpeg"):
        assert images.decode_image(tf.io.read_file(str(run.folder / name)), 3).shape[0] > 200


def test_mit_protocol_scores_a_binary_map_and_resizes(no_pictures, run, dataset, maps, monkeypatch, capsys):
    half = maps("half", lambda i: metrics.resize_mit(noise(i), (24, 32)))
    assert run("--maps", half, "--protocol", "mit") == 0
    case = cases_of(dataset)[3]
    fixated = metrics.fixation_map(case.fixations, SHAPE)
    truth, saliency = metrics.blur_mit(fixated), metrics.resize_mit(metrics.resize_mit(noise(3), (24, 32)), SHAPE)
    expected = {
        "NSS": metrics.nss_mit(saliency, fixated),
        "CC": metrics.cc(saliency, truth),
        "SIM": metrics.sim_mit(saliency, truth),
        "KLD": metrics.kld(saliency, truth),
        "EMD": metrics.emd_mit(saliency, truth),
        "AUC-Borji": metrics.auc_borji_mit(saliency, fixated, seed=42),
    }
    found = run.rows()["half", "0003"]
    assert list(found) == list(MIT.metrics) and np.isfinite(list(found.values())).all()
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    # Without POT, only the earth mover's distance is left out.
    monkeypatch.setitem(sys.modules, "ot", None)
    assert run("--maps", half, "--protocol", "mit", name="without") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "POT" in line]
    assert line.startswith("EMD is left out.") and "pip install pot" in line
    assert found.pop("EMD") and run.rows()["half", "0003"] == found


def test_network_scores_like_the_maps_that_it_writes(no_pictures, run, dataset, narrow_weights, tmp_path):
    size = ("--input-size", "24", "32")
    test = ["test", "-p", dataset / "stimuli", "--weights", narrow_weights, "--format", "npy", "--results", tmp_path]
    assert main.main(list(map(str, (*test, *size)))) == 0
    assert run("--weights", narrow_weights, *size, "--maps", tmp_path / "images") == 0
    rows, summary = run.rows(), run.summary()
    for i in range(10):
        assert rows["narrow", f"{i:04d}"] == pytest.approx(rows["images", f"{i:04d}"], abs=1e-4)
    assert summary["contenders"]["narrow"]["input_size"] == [24, 32]
    assert summary["contenders"]["narrow"]["weights"] == str(narrow_weights)
    # A scale apart, the predictions are the same: the paired interval is narrow, unlike that of either mean.
    assert abs(summary["differences_from_the_first"]["images"]["NSS"]["high"]) < 1e-4


def test_images_that_trained_the_weights_are_counted_above_the_table(
    no_pictures, run, dataset, narrow_arrays, tmp_path, capsys
):
    groups = data.load_groups("custom", dataset, (24, 32), valid_fraction=0.5)
    names = [tuple(sample.name for sample in group.samples) for group in groups]

    def save(name, train, valid, fraction):
        trained_on = {"custom": checkpoint.TrainedOn((24, 32), train, valid, "")}
        known = checkpoint.Knowledge((24, 32), "aspp", "", trained_on, valid_fraction=fraction)
        checkpoint.save_arrays(tmp_path / name, narrow_arrays, known)

    save("known.npz", *names, 0.5)
    assert len(names[0]) == 5 and run("--weights", tmp_path / "known.npz", name="all") == 0
    assert "known: 5 of 10 images trained these weights" in capsys.readouterr().out.split("metric")[0]
    record = run.summary()["contenders"]["known"]
    assert record["images_that_trained"] == 5 and record["input_size"] == [24, 32]
    # By default, the images that validated then, whatever the default share is.
    assert run("--weights", tmp_path / "known.npz", split="valid", name="own") == 0
    assert {image for _, image in run.rows()} == set(names[1])
    assert "images trained these weights" not in capsys.readouterr().out
    assert run.summary()["contenders"]["known"]["images_that_trained"] == 0
    # The share of weights that were trained on other images, or on unknown ones, does not matter, whatever comes first.
    save("foreign.npz", (*(f"other{i}" for i in range(20)), *names[0]), (), 0.0)
    assert run("--weights", tmp_path / "foreign.npz", tmp_path / "known.npz", split="valid", name="both") == 0
    assert {image for _, image in run.rows()} == set(names[1])
    capsys.readouterr()
    checkpoint.save_arrays(tmp_path / "unknown.npz", narrow_arrays)
    for name, weights, seen in (("unknown", tmp_path / "unknown.npz", None), ("msinet_lite", "lite", 0)):
        assert run("--weights", weights, "--input-size", 24, 32, split="valid", name=name) == 0
        assert len(run.rows()) == 2 and run.summary()["contenders"][name]["images_that_trained"] == seen
        assert "Only 2 images to score" in capsys.readouterr().out


def test_metric_maps_score_each_metric_on_its_own_map(no_pictures, run, dataset, maps):
    assert run("--maps", maps("noise", noise), "--metric-maps", "--sigma", "3") == 0
    case = cases_of(dataset)[3]
    found, log_density = run.rows()["noise", "0003"], density.default_log_density(noise(3))
    truth = gaussian_filter(metrics.count_map(case.fixations, SHAPE), 3)
    own = density.similarity_map(np.exp(log_density), 3.0, 32, seed=42)
    blurred = gaussian_filter(np.exp(log_density), 3)
    assert found["NSS"] == pytest.approx(metrics.nss_tuebingen(np.exp(log_density), case.fixations))
    assert found["SIM"] == pytest.approx(metrics.sim_tuebingen(own, truth))
    assert found["CC"] == pytest.approx(metrics.cc(blurred, truth))
    assert found["KLD"] == pytest.approx(metrics.kld(blurred, truth))


@pytest.mark.parametrize(("power", "plain"), [(1, ["CC", "KLD"]), (0.2, [])])
def test_fitted_density_is_used_again_and_no_metrics_own_map_is_worse(
    no_pictures, run, dataset, maps, capsys, power, plain
):
    """The true maps cannot be improved; maps that know where people look, but are far too flat for a density, can."""
    near = maps("near", lambda i: ground_truth.read_saliency(dataset / "saliency" / f"{i:04d}.png") ** power)
    flags = ["--maps", near, "--valid-fraction", "0.5"]
    assert run(*flags, "--fit", split="valid") == 0
    assert "fitted to 5 training images" in capsys.readouterr().out
    file, fitted = run.folder / "density_near.json", run.rows()
    assert json.loads(file.read_text(encoding="utf-8"))["plain"] == plain
    assert run(*flags, "--density", file, split="valid", name="again") == 0 and run.rows() == fitted
    if power < 1:
        assert run(*flags, split="valid", name="default") == 0
        assert np.mean([row["IG"] for row in fitted.values()]) > run.summary()["scores"]["near"]["IG"]["mean"]
        assert run(*flags, "--fit") == 2  # All images: nothing would be held out.
    assert run(*flags, split="train", name="plain") == 0
    before = run.summary()["scores"]["near"]
    assert run(*flags, "--density", file, "--metric-maps", split="train", name="own") == 0
    after = run.summary()["scores"]["near"]
    assert after["CC"]["mean"] >= before["CC"]["mean"] and after["KLD"]["mean"] <= before["KLD"]["mean"]
    assert (after["CC"] == before["CC"]) == bool(plain)


def test_ablation_without_aspp_trains_and_is_scored(no_pictures, run, dataset, tmp_path, eager):
    flags = ["--context", "plain", "--variant", "narrow", "--init", "scratch", "--epochs", "1", "--batch-size", "8"]
    fixed = ["-d", "custom", "-p", str(dataset), "--results", str(tmp_path), "--input-size", "24", "32"]
    assert main.main(["train", *fixed, *flags]) == 0
    assert run("--input-size", "24", "32", split="valid") == 0
    summary = run.summary()
    (record,) = summary["contenders"].values()
    assert record["context"] == "plain" and record["reason"] == "the best checkpoint of training"
    assert summary["images"] == 2 and all(np.isfinite(e["mean"]) for e in summary["scores"]["custom"].values())


# --- Ground truth -----------------------------------------------------------------------------------------------------


def test_negatives_are_the_other_images_fixations_at_this_ones_size(tmp_path, tiny_dataset):
    tiny_dataset("custom", 2, 40, 40, names=["a", "b"])
    folder = tiny_dataset("custom", 1, 80, 20, names=["c"])
    write(folder / "fixations.csv", b"image,x,y\na,0,0\na,39,39\na,39,39\nb,20,10\nc,19,79\n")
    truth = ground_truth.GroundTruth(cases_of(folder))
    negatives, counts = truth.other_fixations(truth.cases[2])
    assert dict(zip(map(tuple, negatives), counts, strict=True)) == {(1, 0): 1, (79, 19): 2, (21, 10): 1}
    negatives, counts = truth.other_fixations(truth.cases[0])
    assert dict(zip(map(tuple, negatives), counts, strict=True)) == {(10, 20): 1, (39, 39): 1}


def test_kernel_of_a_datasets_own_maps_is_found(dataset):
    assert ground_truth.estimate_kernel(cases_of(dataset)) == pytest.approx(3, rel=0.05)


def test_without_fixations_only_maps_are_compared(run, dataset, maps):
    (dataset / "fixations.csv").unlink()
    shutil.rmtree(dataset / "fixations")
    assert run("--maps", maps("noise", noise)) == 0
    scores = run.summary()["scores"]["noise"]
    assert scores["AUC"] is scores["NSS"] is scores["IG"] is None
    assert all(scores[name]["images"] == 10 for name in ("CC", "SIM", "KLD"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "0003.npy").unlink(), "no map for 1 of 10 images: 0003"),
        (lambda folder: np.save(folder / "0003.npy", np.ones((5, 5))), "0003.*--protocol mit"),
        (lambda folder: np.save(folder / "0003.npy", np.zeros(SHAPE)), r"0003\.npy is black: every pixel is 0"),
        (lambda folder: np.save(folder / "0003.npy", np.full(SHAPE, np.nan)), "0003.*not finite"),
        (lambda folder: (folder / "0003.npy").write_bytes(b"no map"), r"0003\.npy is not a map"),
        (lambda folder: (folder / "0003.png").write_bytes(b"a second"), "Two files for one image"),
    ],
)
def test_maps_that_cannot_be_scored_are_named(run, maps, capsys, change, message):
    folder = maps("noise", noise)
    change(folder)
    assert run("--maps", folder) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="there every file's name is valid text")
def test_photographs_whose_names_are_no_text_or_look_like_formulas_are_scored(run, dataset):
    (dataset / "fixations.csv").unlink()
    names = {"0003": os.fsdecode(b"latin\xe9"), "0005": "a$_$b"}
    for kind in ("stimuli", "saliency", "fixations"):
        for name, odd in names.items():
            (dataset / kind / f"{name}.png").rename(dataset / kind / f"{odd}.png")
    assert run("--maps", dataset / "saliency") == 0
    lines = (run.folder / "per_image.csv").read_bytes().splitlines()
    assert [line.split(b",")[1] for line in lines[-2:]] == [b"a$_$b", b"latin\xe9"]


def test_maps_of_16_bits_with_small_values_score_like_the_same_maps_of_8_bits(no_pictures, run, tmp_path):
    folders = [tmp_path / "deep", tmp_path / "shallow"]
    for folder, dtype in zip(folders, (np.uint16, np.uint8), strict=True):
        folder.mkdir()
        for i in range(10):
            Image.fromarray(np.round(noise(i) * 255).astype(dtype)).save(folder / f"{i:04d}.png")
    assert run("--maps", *folders) == 0
    rows = run.rows()
    for metric in ("AUC", "NSS", "CC", "SIM"):
        assert rows["deep", "0003"][metric] == pytest.approx(rows["shallow", "0003"][metric], abs=1e-4)


def test_input_by_shape_and_mirrored_average_are_offered_and_recorded(no_pictures, run, narrow_weights):
    found = {}
    for flags in ((), ("--input-size", "auto"), ("--mirrored",)):
        assert run("--weights", narrow_weights, *flags, name=f"run{len(flags)}{''.join(flags)[-4:]}") == 0
        contender = run.summary()["contenders"]["narrow"]
        found[flags] = contender["fit_shape"], contender["mirrored"], run.summary()["scores"]["narrow"]["NSS"]["mean"]
    assert [row[:2] for row in found.values()] == [(False, False), (True, False), (False, True)]
    assert found[()][2] != found[("--mirrored",)][2]
