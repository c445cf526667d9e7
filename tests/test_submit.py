"""Submissions: complete, normalized, with the images' names and sizes, or no files at all."""

import io
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
from conftest import write
from PIL import Image
from scipy.special import logsumexp

from msinet import checkpoint, main
from msinet.acquisition.datasets import BENCHMARKS, Benchmark
from msinet.phases import submit
from msinet.scoring import density
from msinet.scoring.fitted import FittedDensity

SIZES = {"Action/001.jpg": (40, 60), "Action/002.jpg": (40, 60), "Random/001.jpg": (64, 48), "Random/002.jpg": (50, 50)}


@pytest.fixture
def stimuli(tmp_path, photograph, monkeypatch):
    """A test set with the structure of CAT2000: two folders of two images."""
    for i, (name, size) in enumerate(SIZES.items()):
        write(tmp_path / "Stimuli" / name, tf.io.encode_jpeg(photograph(*size, seed=i)))
    for name in ("Output/001_SaliencyMap.jpg", "SM/i1.jpg"):  # in CAT2000's and MIT300's archives
        write(tmp_path / "Stimuli" / "Action" / name, tf.io.encode_jpeg(photograph()))
    monkeypatch.setitem(BENCHMARKS, "cat2000", Benchmark("cat2000", images=4, folders=2))
    return tmp_path / "Stimuli"


@pytest.fixture
def run(tmp_path, stimuli, narrow_weights):
    """`submit` with a narrow network: the exit status."""

    def submit_all(*flags, data="cat2000", path=stimuli):
        fixed = ["--weights", narrow_weights, "--results", tmp_path, "--input-size", "24", "32"]
        return main.main([str(a) for a in ("submit", "-d", data, "-p", path, *fixed, *flags)])

    return submit_all


def test_both_files_hold_every_image_by_its_name_and_size(run, tmp_path, stimuli, narrow_weights):
    assert run() == 0
    test = ["test", "-p", stimuli / "Random" / "001.jpg", "--weights", narrow_weights, "--format", "npy"]
    assert main.main([str(a) for a in (*test, "--input-size", "24", "32", "--results", tmp_path)]) == 0
    saliency = np.load(tmp_path / "images" / "001.npy")
    with h5py.File(tmp_path / "submissions" / "cat2000_densities.hdf5") as file:
        assert sorted(f"{folder}/{name}" for folder in file for name in file[folder]) == sorted(SIZES)
        for name, size in SIZES.items():
            values = file[name]
            assert values.shape == size and values.dtype == np.float32 and values.compression == "gzip"
            assert abs(logsumexp(values[()].astype(np.float64))) < 1e-6
        expected = density.default_log_density(saliency)
        np.testing.assert_allclose(file["Random/001.jpg"], expected, atol=1e-3)
    with zipfile.ZipFile(tmp_path / "submissions" / "cat2000_maps.zip") as archive:
        assert sorted(archive.namelist()) == sorted(SIZES)
        for name, size in SIZES.items():
            with Image.open(io.BytesIO(archive.read(name))) as image:
                assert (image.height, image.width) == size and image.mode == "L" and image.format == "JPEG"
                if name == "Random/001.jpg":
                    assert np.abs(np.asarray(image).astype(int) - np.round(saliency * 255)).max() <= 3


def test_fitted_density_is_used(run, tmp_path):
    fitted = FittedDensity(0.02, np.linspace(1, 2, 20), np.linspace(0, -9, 12), 1.0)
    fitted.save(tmp_path / "density.json")
    assert run("--density", tmp_path / "density.json") == 0
    with h5py.File(tmp_path / "submissions" / "cat2000_densities.hdf5") as file:
        values = file["Action/001.jpg"][()]
    assert values[20, 30] > values[0, 0] + 8  # The default density has no such strong center bias.


def test_incomplete_test_set_is_rejected_and_a_trial_writes_files_of_another_name(run, stimuli, tmp_path, capsys):
    (stimuli / "Random" / "002.jpg").unlink()
    assert run() == 2
    assert "Found 3 images in 2 folders" in capsys.readouterr().err
    assert run(path=tmp_path / "nowhere") == 2
    assert not (tmp_path / "submissions").exists()
    assert run("--trial") == 0
    assert "Log densities of 3 images" in capsys.readouterr().out
    files = {file.name for file in (tmp_path / "submissions").iterdir()}
    assert files == {"cat2000_trial_densities.hdf5", "cat2000_trial_maps.zip", "cat2000_trial.json"}
    (tmp_path / "empty").mkdir()
    assert run("--trial", path=tmp_path / "empty") == 2


def test_unreadable_image_and_density_that_is_not_normalized_leave_no_file(run, stimuli, tmp_path, monkeypatch, capsys):
    contents = (stimuli / "Random" / "002.jpg").read_bytes()
    write(stimuli / "Random" / "002.jpg", contents[: len(contents) // 2])
    assert run() == 2
    assert "002.jpg" in capsys.readouterr().err
    monkeypatch.setattr(density, "default_log_density", lambda saliency: np.log(saliency + 1.0))
    assert run() == 2
    assert "instead of 1" in capsys.readouterr().err
    assert not list((tmp_path / "submissions").iterdir())


def test_published_benchmarks_are_those_of_the_paper():
    rows = {name: (row.dataset, row.images, row.folders) for name, row in BENCHMARKS.items()}
    assert rows == {"mit300": ("mit1003", 300, 0), "cat2000": ("cat2000", 2000, 20)}
    assert submit.map_name("i1.jpg") == "i1.jpg" and submit.map_name("a/b.c.png") == "a/b.c.jpg"


def test_included_network_is_submitted_only_if_it_was_asked_for(tmp_path, stimuli, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path / "weights")
    fixed = ["submit", "-d", "cat2000", "-p", str(stimuli), "--input-size", "24", "32", "--results", str(tmp_path)]
    assert main.main(fixed) == 2
    error = capsys.readouterr().err
    assert "by accident" in error and "--weights medium" in error
    assert not list((tmp_path / "submissions").iterdir())
    assert main.main([*fixed, "--weights", "lite"]) == 0
    assert len(list((tmp_path / "submissions").glob("cat2000*"))) == 3
