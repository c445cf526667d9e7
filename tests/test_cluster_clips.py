"""Clips in `test --cluster`: one row each, with the maps that plain `test` writes; without machines."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import cut_off, make_clip, read, still
from clusters import index_of, known_paths, options_for, small, worker
from conftest import write
from PIL import Image

from msinet.phases import clips

pytestmark = pytest.mark.filterwarnings("default")  # Ray causes warnings.

import pyarrow.parquet as pq

from msinet.phases.distributed import cluster, lists
from msinet.phases.distributed import index as cluster_index
from msinet.phases.distributed import store as cluster_store
from msinet.phases.distributed.lists import Photographs


def chunks(path, suffix=".png") -> list[dict]:
    """The chunks of a folder or list, without its last row."""
    listing = cluster_index.Listing(Photographs(str(path), "", suffix), np.array([], cluster_index.ID), 256)
    return [row for table in listing._chunks() for row in table.to_pylist()][:-1]


def frames_of(path: Path) -> tuple[list, list]:
    frames = read(path)
    return [frame.time for frame in frames], [frame.pixels.tolist() for frame in frames]


@pytest.fixture
def folder(tmp_path, photograph):
    """Photographs, and five clips of which one is damaged and one is none."""
    folder = tmp_path / "in"
    write(folder / "a.jpg", small(1))
    make_clip(folder / "a.mp4", [photograph(61, 83, seed=i) for i in range(4)], layout="yuv444p", sound="aac")
    cut_off(folder / "cut.mp4")
    write(folder / "text.mp4", b"hello\n" * 100)
    pictures = [Image.fromarray(pixels) for pixels in still(3)]
    pictures[0].save(folder / "still.gif")
    pictures[0].save(folder / "moving.gif", save_all=True, append_images=pictures[1:], duration=40)
    make_clip(folder / "moving.gif.mov", still(1))
    return folder


def test_clip_is_one_row_and_has_the_maps_of_plain_test(tmp_path, folder, worker):
    worker.options = dataclasses.replace(worker.options, overlay=True, every=2)
    reports = [worker(row) for row in chunks(folder)]
    assert [len(row["path"]) for row in chunks(folder)] == [2, 1, 1, 1, 1, 1]  # clips alone
    assert not any(report["stopped"] for report in reports)
    assert sum(report["done"] for report in reports) == 5 and sum(report["failed"] for report in reports) == 2
    assert {name for report in reports for name in report["folders"]} == {"images", "videos"}
    results, plain = tmp_path / "results", tmp_path / "plain"
    index = {Path(path).name: row for path, row in index_of(results).items()}
    videos = {"a.mp4": "a", "cut.mp4": "cut", "moving.gif": "moving.gif", "moving.gif.mov": "moving.gif.mov"}
    assert {name: row["map"] for name, row in index.items()} == {
        **{name: f"videos/{video}.mp4" for name, video in videos.items()},
        "a.jpg": "images/a.png", "still.gif": "images/still.png", "text.mp4": "",
    }  # fmt: skip
    sources = [folder / name for name in videos]
    named = clips.name_sources({path: Path(path.name) for path in sources}, ".png")
    assert len(clips.predict_clips(worker.network, named, options_for(plain, overlay=True, every=2))["clips"]) == 4
    for row in named:
        found = index[Path(row.path).name]
        assert frames_of(results / found["map"]) == frames_of(plain / row.map)
        assert frames_of(results / found["overlay"]) == frames_of(plain / row.overlay)
    assert [index["a.mp4"][key] for key in ("height", "width", "frames", "status", "error")] == [61, 83, 2, "done", ""]
    assert index["cut.mp4"]["status"] == "failed" and index["cut.mp4"]["error"].startswith("damaged after")
    assert index["text.mp4"]["error"].startswith("not a video that can be read")
    assert index["a.jpg"]["frames"] is None


def test_clips_are_files_and_are_predicted_again_without_them(tmp_path, folder, worker):
    worker.options = dataclasses.replace(worker.options, shards=True, format="npy")
    paths = [str(folder / name) for name in ("a.jpg", "a.mp4", "moving.gif")]
    for row in chunks(folder, ".npy"):
        worker(row)

    assert sorted(file.name for file in (tmp_path / "results" / "videos").iterdir()) == [
        "a.npz", "cut.npz", "moving.gif.mov.npz", "moving.gif.npz",
    ]  # fmt: skip
    with np.load(tmp_path / "results" / "videos" / "a.npz") as archive:
        assert archive["maps"].shape == (4, 61, 83) and archive["times"].tolist() == [0, 0.04, 0.08, 0.12]
    assert known_paths(worker, paths) == [True, True, True] and not (tmp_path / "results" / "images").exists()
    (tmp_path / "results" / "videos" / "a.npz").unlink()
    assert known_paths(worker, paths) == [True, False, True]


def test_clips_come_from_and_go_to_an_object_store(tmp_path, worker):
    bucket, results = (cluster_store.open_store(f"memory://{tmp_path.name}/{name}") for name in ("in", "out"))
    bucket.write("sub/a.mkv", make_clip(tmp_path / "a.mkv", still(3)).read_bytes())
    worker.results = results
    reports = [worker(row) for row in chunks(bucket.path)]
    assert [(report["done"], report["stopped"]) for report in reports] == [(1, "")]
    (tmp_path / "b.mp4").write_bytes(results.read("videos/sub/a.mp4"))
    assert len(read(tmp_path / "b.mp4")) == 3
    (part,) = results.entries("index")[1]
    row = pq.read_table(results.filesystem.open_input_file(f"{results.root}/index/{part}")).to_pylist()[0]
    assert row["path"] == f"{bucket.path}/sub/a.mkv" and row["version"] and row["frames"] == 3


def test_full_disk_stops_a_run_with_clips(tmp_path, worker, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in" / "a.mp4", still(3))
    monkeypatch.setattr(clips, "write_clip", full)
    (row,) = chunks(tmp_path / "in")
    assert "No space left on device" in worker(row)["stopped"]
    assert not (tmp_path / "results" / "index").exists()


def test_worker_without_pyav_fails_the_clip_with_a_clear_line(tmp_path, worker, monkeypatch):
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in" / "a.mp4", still(3))
    monkeypatch.setitem(sys.modules, "av", None)
    (row,) = chunks(tmp_path / "in")
    report = worker(row)
    assert report["failed"] == 1 and "pip install -r requirements-video.txt" in report["errors"][0]


def test_videos_of_a_list_keep_the_whole_name(tmp_path):
    write(tmp_path / "m.txt", b"sub/a.mp4\n/x/b.MOV\nc.gif\ns3://bucket/d.webm\n")
    listed = list(Photographs(str(tmp_path / "m.txt"), "", ".jpeg"))
    assert [row.map for row in listed] == [
        "videos/sub/a.mp4.mp4", "videos/@file/x/b.MOV.mp4", "images/c.gif.jpeg", "videos/@s3/bucket/d.webm.mp4",
    ]  # fmt: skip
    assert lists.as_clip(listed[2], ".jpeg").map == "videos/c.gif.mp4"
    assert [row.overlay for row in listed[:2]] == ["overlays/sub/a.mp4.mp4", "overlays/@file/x/b.MOV.mp4"]


def test_settings_of_clips_belong_to_a_run(tmp_path, worker):
    photographs = Photographs(str(tmp_path), "", ".png")
    plain = cluster._settings(photographs, worker.network, worker.options)
    assert "every" not in plain and "smooth" not in plain
    changed = dataclasses.replace(worker.options, every=5, smooth=0.5)
    assert cluster._settings(photographs, worker.network, changed) == {**plain, "every": 5, "smooth": 0.5}
