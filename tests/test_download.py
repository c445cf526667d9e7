"""Downloads: every dataset's format from archive to training step, and every failure of network, archives and disk."""

import csv
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import loopback
import numpy as np
import pytest
import tiny_archives
from conftest import write
from loopback import stall, status
from PIL import Image
from scipy.ndimage import gaussian_filter
from tiny_archives import COUNT, WIDTH, add, fails, tree, zip_of

from msinet import config, data, download, main
from msinet.acquisition import build, datasets, readers
from msinet.acquisition.datasets import DATASETS
from msinet.phases.training import batches

ROOT = Path(__file__).parents[1]
CONTENTS = np.random.default_rng(0).bytes(300_000)
has_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


# --- The table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 100])
def test_list_fits_the_terminal_and_has_each_datasets_terms_and_citation(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main.main(["download", "--list"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    assert [line.split()[0] for line in text.splitlines() if not line.startswith(" ")] == list(DATASETS)
    words = "".join(text.split())
    for row in DATASETS.values():
        assert all(
            "".join(fact.split()) in words for fact in (row.title, f"{row.images} images", row.terms, row.citation)
        )


def test_chapter_on_datasets_has_a_row_for_each_dataset():
    chapter = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name, row in DATASETS.items():
        observers = f"{row.observers}{' (mouse)' if row.mouse else ''}"
        size = f"{row.bytes / 1e6:.0f} MB" if row.bytes else "not measured"
        cells = f"`{name}` ({row.title}) | {row.images} | {observers} | {size} | {row.terms} | {row.citation}"
        assert f"| {cells} |" in chapter


def test_keras_vgg16_has_the_address_and_checksum_of_keras():
    vgg16 = keras.applications.VGG16
    assert datasets.KERAS_VGG16.urls == (vgg16.__globals__["WEIGHTS_PATH_NO_TOP"],)
    assert datasets.KERAS_VGG16.md5 in vgg16.__code__.co_consts


def test_archives_have_the_published_checksums_and_only_a_known_one_replaces_a_certificate():
    rows = [archive for source in DATASETS.values() for archive in source.archives if archive.certificate_is_invalid]
    assert [archive.file for archive in rows] == ["salObj.zip"] and rows[0].md5
    # From pysaliency.
    published = ["a8951db9297afacf78bc0e5079103cf1", "d9f4f83fcc78b1e5efb579ae9fb0edc2"]
    assert [archive.md5 for archive in DATASETS["dutomron"].archives] == published


def test_another_dataset_is_one_row_and_a_reader(server, tmp_path, monkeypatch, capsys):
    members = {f"office/photos/{i}.png": tiny_archives.encode(tiny_archives.photograph(i), "PNG") for i in range(COUNT)}
    gaze = {str(i): np.concatenate(tiny_archives.fixations(i)).tolist() for i in range(COUNT)}
    members["office/gaze.json"] = json.dumps(gaze).encode()

    def read(raw):
        gaze = json.loads((raw / "gaze.json").read_text(encoding="utf-8"))
        return {
            name: lambda points=points: readers.Fixations(np.insert(points, 2, 0, axis=1))
            for name, points in gaze.items()
        }

    targets = ((r"photos/(\d+)\.png", r"stimuli/\1.png"), (r"gaze\.json", "raw/gaze.json"))
    archive = datasets.Archive("office.zip", (server.serve("/office.zip", zip_of(members)),), targets)
    monkeypatch.setattr(readers, "read_office", read, raising=False)
    facts = ("People at work", (archive,), (48, 64), 3, 1, "office", 1, "none", "Nobody: At Work. 2000.")
    monkeypatch.setitem(DATASETS, "office", datasets.Dataset(*facts, sigma=4))
    flags = ("-d", "office", "-p", str(tmp_path / "data"))

    assert main.main(["download", *flags]) == 0
    maps = ("--maps", str(tmp_path / "data" / "office" / "saliency"), "--results", str(tmp_path / "results"))
    assert main.main(["evaluate", *flags, *maps]) == 0
    assert main.parse(["train", *flags]).data == ["office"]
    assert [path for path, _ in server.requests] == ["/office.zip"]
    (summary,) = (tmp_path / "results").rglob("summary.json")
    assert "NSS" in summary.read_text(encoding="utf-8")
    assert main.main(["download", "--list"]) == 0
    assert "office    People at work: 4 images, 1 observer, size not measured" in capsys.readouterr().out
    assert main.main(["download", "-d", "office", "--weights", "-p", str(tmp_path)]) == 2
    assert "no network was published" in capsys.readouterr().err


def test_input_size_is_the_published_one_unless_config_overrides_it(monkeypatch):
    assert datasets.input_size("osie") == (240, 320)
    monkeypatch.setitem(config.DIMS, "osie", (48, 64))
    assert datasets.input_size("osie") == (48, 64)


# --- Seven formats ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite_network():
    from msinet.loss import kld
    from msinet.model import build_model

    network = build_model(width=0.125, seed=1)
    network.compile("sgd", kld, jit_compile=False)
    return network


@pytest.mark.parametrize("name", tiny_archives.MAKERS)
def test_dataset_is_usable_from_its_archives_to_a_training_step(name, tiny, tmp_path, lite_network):
    tiny(name)
    train, valid = data.load_groups(name, tmp_path, datasets.input_size(name))
    assert len(train.samples) + len(valid.samples) == COUNT
    stimuli, truths = next(iter(batches.load_batches([batches.Batch(train.samples, train.size)])))
    assert stimuli.shape == (len(train.samples), 48, 64, 3) and truths.numpy().max() > 0
    assert np.isfinite(lite_network.train_on_batch(stimuli, truths))


@pytest.mark.parametrize("name", tiny_archives.MAKERS)
def test_files_and_fixations_are_those_of_the_archives(name, tiny, tmp_path):
    """CAT2000's first photograph has a wrong EXIF rotation, which is ignored."""
    tiny(name)
    folder = download.dataset(name, tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["fixations", "fixations.csv", "saliency", "stimuli"]
    assert not (tmp_path / ".downloads" / name).exists()
    contents = {c for members in tiny_archives.MAKERS[name]() for c in members.values()}
    samples = data.pair_files(folder)
    with (folder / "fixations.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    knows_observers = name in ("salicon", "dutomron", "pascals", "osie")
    for i, sample in enumerate(samples):
        image = sample.name
        assert sample.stimulus.read_bytes() in contents
        if sigma := {"dutomron": 16, "osie": 16, "fiwi": 30}.get(name):
            blurred = gaussian_filter((tiny_archives.binary_map(i) > 0).astype(float), sigma)
            saliency = pixels(sample.saliency)
            assert saliency.max() == 255 and np.abs(saliency - 255 * blurred / blurred.max()).max() <= 0.5 + 1e-6
        else:
            assert sample.saliency.read_bytes() in contents
        assert np.array_equal(pixels(folder / "fixations" / f"{image}.png"), tiny_archives.binary_map(i))
        received = sorted((int(r["observer"]), int(r["x"]), int(r["y"])) for r in rows if r["image"] == image)
        expected = [(k, *point) for k, points in enumerate(tiny_archives.fixations(i)) for point in points.tolist()]
        if not knows_observers:
            y, x = np.nonzero(tiny_archives.binary_map(i))
            expected = [(-1, *point) for point in zip(x.tolist(), y.tolist(), strict=True)]
        assert received == sorted(expected)


def test_fixations_outside_the_photograph_are_skipped_and_counted(tiny, tmp_path, capsys):
    cropped = tiny_archives.encode(tiny_archives.photograph(0)[:20], "JPEG")
    tiny("salicon", add("images/train/COCO_000000000000.jpg", cropped))
    folder = download.dataset("salicon", tmp_path)
    assert pixels(folder / "fixations" / "train" / "COCO_000000000000.png").shape == (20, WIDTH)
    below = sum(int((points[:, 1] >= 20).sum()) for points in tiny_archives.fixations(0))
    output = capsys.readouterr().out
    assert f"{below} fixations are outside" in output and "another size than the photograph's for 1" in output


def test_existing_dataset_is_used_without_any_request(tiny, server, tmp_path):
    tiny("osie")
    download.dataset("osie", tmp_path)
    before = tree(tmp_path / "osie")
    server.requests.clear()
    assert download.dataset("osie", tmp_path) == tmp_path / "osie"
    assert server.requests == [] and tree(tmp_path / "osie") == before


# --- Killed runs, and two at once -------------------------------------------------------------------------------------

# Makes OSIE from the server's archive, and stops in the middle of writing the third file of a folder.
DRIVER = """
import sys, time
from dataclasses import replace
from pathlib import Path
from msinet import download
from msinet.acquisition.datasets import DATASETS
folder, url, stage = sys.argv[1:]
row = DATASETS["osie"]
archive = replace(row.archives[0], urls=(url,), member_md5={})
DATASETS["osie"] = replace(row, archives=(archive,), train=3, valid=1)
replace_file, calls = Path.replace, []
def stop(path, target):
    calls.extend([target] if target.parent.name == stage else [])
    if len(calls) == 3:
        sys.stdout.write("stopped\\n")  # At once, because another thread may write, too.
        sys.stdout.flush()
        time.sleep(60)
    return replace_file(path, target)
Path.replace = stop
download.dataset("osie", Path(folder))
"""


def start(folder, url, stage=""):
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), url, stage], stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize("stage", ["download", "stimuli", "fixations"])
def test_killed_run_is_resumed_with_an_identical_result(stage, tiny, server, tmp_path):
    archive = tiny("osie", add("readme", CONTENTS))[0]
    expected = tree(download.dataset("osie", tmp_path / "other"))
    server.requests.clear()
    url = server.serve("/slow.zip", archive, *([stall(len(archive) - 1000)] if stage == "download" else []))
    process = start(tmp_path, url, stage)
    if stage == "download":
        part = tmp_path / ".downloads" / "osie" / f"{DATASETS['osie'].archives[0].file}.part"
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
    else:
        assert "stopped" in [process.stdout.readline().strip() for _ in range(2)]
    process.kill()
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "osie").exists()

    with start(tmp_path, url) as process:
        assert "complete" in process.stdout.read()
    assert process.returncode == 0
    assert tree(tmp_path / "osie") == expected
    ranges = [requested for _, requested in server.requests]
    assert ranges[0] is None and len(ranges) == (2 if stage == "download" else 1)


def test_second_process_waits_for_the_first(tiny, server, tmp_path):
    archive = tiny("osie")[0]
    both_run = threading.Event()

    def slowly(handler, contents):
        both_run.wait(60)
        loopback.whole_or_range(handler, contents)

    url = server.serve("/slow.zip", archive, slowly)
    processes = [start(tmp_path, url) for _ in range(2)]
    assert {process.stdout.readline().split()[0] for process in processes} == {"Making", "Waiting"}
    both_run.set()
    assert [process.wait(60) for process in processes] == [0, 0]
    for process in processes:
        process.stdout.close()
    assert len(server.requests) == 1
    assert not build.incomplete(tmp_path / "osie", COUNT)


# --- By hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "mirror"])
def test_archives_from_a_folder_or_a_mirror(kind, tiny, change_archives, server, tmp_path):
    files = tiny("salicon")
    source = tmp_path / "archives"
    dead = change_archives("salicon", urls=("http://nowhere.invalid/x.zip",))
    for archive, file in zip(dead, files, strict=True):
        write(source / archive.file, file)
    message = fails("salicon", tmp_path / "data")
    assert all(f"http://nowhere.invalid/x.zip as {archive.file}" in message for archive in dead)
    assert message.endswith(f"python main.py download -d salicon -p {tmp_path / 'data'} --from FOLDER")
    flag = str(source) if kind == "folder" else server.url
    assert main.main(["download", "-d", "salicon", "-p", str(tmp_path / "data"), "--from", flag]) == 0
    assert not build.incomplete(tmp_path / "data" / "salicon", COUNT)
    assert len(list(source.iterdir())) == 3, "the user's files are kept"


def test_error_is_a_short_line_and_a_list(server, tiny, change_archives, tmp_path, capsys):
    tiny("salicon")
    change_archives("salicon", urls=(server.url + "/a", server.url + "/b"))
    assert main.main(["download", "-p", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: salicon-stimuli.zip could not be downloaded.",
        f"  {server.url}/a: the server responded 404 Not Found",
        f"  {server.url}/b: the server responded 404 Not Found",
        "  By hand: save in one folder",
        f"    {server.url}/a as salicon-stimuli.zip",
        f"    {server.url}/a as salicon-fixations.zip",
        f"    {server.url}/a as salicon-maps.zip",
        f"  and run: python main.py download -d salicon -p {tmp_path} --from FOLDER",
    ]


@has_pipes
def test_pipes_are_neither_read_nor_counted(tiny, tmp_path):
    archive = DATASETS["osie"].archives[0].file
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / archive)
    for source in (tmp_path / "in", tmp_path / "in" / archive):
        fails("osie", tmp_path, "is not a regular file", source=str(source))
    tiny("osie")
    folder = download.dataset("osie", tmp_path)
    os.mkfifo(folder / "stimuli" / "pipe.jpg")
    assert build.incomplete(folder, COUNT) == ""


@pytest.mark.parametrize("kind", ["file", "address"])
def test_single_archive_of_a_dataset_may_have_any_name(kind, tiny, server, tmp_path):
    archive = tiny("osie")[0]
    source = str(write(tmp_path / "mine.zip", archive)) if kind == "file" else server.serve("/mine.zip?dl=1", archive)
    assert not build.incomplete(download.dataset("osie", tmp_path / "data", source), COUNT)


def test_missing_or_wrong_archive_of_the_user_is_named(tiny, change_archives, tmp_path):
    files = tiny("salicon")
    first, second, _ = DATASETS["salicon"].archives
    fails("salicon", tmp_path, "No such file or folder", source=str(tmp_path / "nowhere"))
    write(tmp_path / "in" / first.file, files[0])
    fails("salicon", tmp_path, f"does not contain {second.file}", source=str(tmp_path / "in"))
    change_archives("salicon", md5="0" * 32)
    fails("salicon", tmp_path, "wrong checksum", source=str(tmp_path / "in"))
    fails("salicon", tmp_path, "expected an http or https address", source="ftp://127.0.0.1")
    assert (tmp_path / "in" / first.file).read_bytes() == files[0]


def test_dead_host_does_not_keep_the_other_datasets_from_being_made(tiny, server, tmp_path, capsys):
    for name in DATASETS:
        tiny(name)
    server.faults["/trainSet.zip"] = [status(404)]
    assert main.main(["download", "-d", "all", "-p", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and "trainSet.zip" in error
    assert {file.name for file in tmp_path.iterdir()} == {*DATASETS, ".downloads"} - {"cat2000"}
