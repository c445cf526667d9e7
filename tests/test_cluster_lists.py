"""The list of photographs of `test --cluster`, and the names of their maps."""

import io
import ntpath
import os
from collections import Counter
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write

from msinet import main
from msinet.listing import name_counts
from msinet.phases import clips
from msinet.photographs import find_images, name_all
from msinet.utils import UserError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
pytestmark = pytest.mark.filterwarnings("default")  # Ray causes warnings.

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from msinet.phases.distributed import index as cluster_index
from msinet.phases.distributed import lists
from msinet.phases.distributed.lists import Photographs


def test_listing_gives_the_names_that_plain_test_gives(tmp_path):
    names = ("x.png", "x.jpg", "x.png.jpg", "X.gif", "a/x.png", "A/x.jpg", "a/y.webp", "ä.png", "a\u0308.jpg", ".h.png")
    names += ("y.jpg", "Y.jpeg/1.png", "z.jpg", "z.npy/1.png", "z.jpg.npy/1.png")  # Folders with the names of maps.
    names += ("a.mp4", "a.mov", "a.jpg", "b/a.mp4", "B/a.avi", "c.mkv", "d.mp4/e.mp4", "d.webm")
    for name in (*names, "a/.hidden/z.png", "text.md", os.fsdecode(b"latin\xe9.png")):
        write(tmp_path / "in" / name, b"")
    found, moving = clips.find_sources([tmp_path / "in"], tmp_path / "results")
    for suffix in (".jpeg", ".npy"):
        expected = [*name_all(found.images, suffix), *clips.name_sources(moving, suffix)]
        assert sorted(Photographs(str(tmp_path / "in"), "", suffix)) == sorted(expected)
    one = Photographs(str(tmp_path / "in" / "x.png"), "", ".png")
    assert [photograph.map for photograph in one] == ["images/x.png"]


def test_listing_follows_the_rules_of_plain_test(tmp_path):
    folder = tmp_path / "in"
    names = "a.png b/c.jpg @eaDir/a.png b/__MACOSX/c.jpg .hidden/a.png notes.TXT b/d.txt b/raw.cr2 README"
    for name in names.split():
        write(folder / name, b"")
    write(tmp_path / "elsewhere" / "e.png", b"")
    (folder / "a_link").symlink_to(tmp_path / "elsewhere")
    (folder / "b" / "cycle").symlink_to(folder)
    (folder / "again").symlink_to(folder / "b")
    photographs, skipped = Photographs(str(folder), str(tmp_path / "results"), ".jpeg"), Counter()
    found = find_images([folder])
    listed = [photograph.path.removeprefix(f"{folder.as_posix()}/") for photograph in photographs.walk(skipped)]
    assert sorted(listed) == ["a.png", "a_link/e.png", "b/c.jpg"]
    assert sorted(listed) == sorted(path.as_posix() for path in found.images.values())
    assert skipped == {".txt": 2, ".cr2": 1, "without suffix": 1}
    assert sorted(name_counts(skipped).split(", ")) == sorted(found.skipped.split(", "))


def test_listing_skips_the_results(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "results")
    for name in ("a.png", "results/images/a.jpeg"):
        write(tmp_path / name, b"")
    listed = Photographs(str(tmp_path), str(tmp_path / "results"), ".jpeg")
    assert [photograph.map for photograph in listed] == ["images/a.jpeg"]


def test_manifest_names_photographs_wherever_they_are(tmp_path):
    entries = ["a.jpg", "sub/a.png", "/data/a.jpg", "../b.jpg", "s3://bucket/a.jpg"]
    write(tmp_path / "list" / "m.txt", "\n\n".join(entries).encode())
    pq.write_table(pa.table({"number": range(5), "path": entries}), tmp_path / "list" / "m.parquet")
    for name in ("m.txt", "m.parquet"):
        listed = list(Photographs(str(tmp_path / "list" / name), "", ".png"))
        here = tmp_path.as_posix()
        assert [photograph.path for photograph in listed] == [
            f"{here}/list/a.jpg", f"{here}/list/sub/a.png", "/data/a.jpg", f"{here}/b.jpg", "s3://bucket/a.jpg",
        ]  # fmt: skip
        assert [photograph.map for photograph in listed] == [
            "images/a.jpg.png", "images/sub/a.png.png", "images/@file/data/a.jpg.png", f"images/@file{here}/b.jpg.png",
            "images/@s3/bucket/a.jpg.png",
        ]  # fmt: skip


def test_maps_of_a_list_never_share_a_name_nor_leave_the_results(tmp_path):
    entries = [
        "file/x/p.jpg", "/x/p.jpg", "@file/x/p.jpg", "@@file/x/p.jpg", "s3/bucket/a.jpg", "s3://bucket/a.jpg",
        "s3://bucket//a.jpg", "@s3/bucket/a.jpg", "file:///a/../../b/p.jpg", "s3://bucket/../../../p.jpg",
        "s3://bucket/./a.jpg", "s3://bucket/../a.jpg", "p.jpg", "p.jpg.jpeg/q.jpg", "p.jpg.JPEG@/q.jpg", "p.jpg@/q.jpg",
    ]  # fmt: skip
    write(tmp_path / "m.txt", "\n".join(entries).encode())
    listed = list(Photographs(str(tmp_path / "m.txt"), "", ".jpeg"))
    assert listed[8].path == "/b/p.jpg" and listed[8].map == "images/@file/b/p.jpg.jpeg"
    for names in ([photograph.map for photograph in listed], [photograph.overlay for photograph in listed]):
        assert all(os.path.normpath(name) == name and "/../" not in name for name in names)
        lower = [name.lower() for name in names]
        assert len(set(lower)) == len(entries)
        assert not [(a, b) for a in lower for b in lower if b.startswith(f"{a}/")]


def test_paths_of_windows_do_not_share_a_map(monkeypatch):
    monkeypatch.setattr(lists, "Path", PureWindowsPath)
    monkeypatch.setattr(lists, "os", SimpleNamespace(path=ntpath, sep="\\"))
    photographs = Photographs("C:/lists/m.txt", "", ".png")
    found = [photographs._listed(line) for line in (
        r"C:\x\p.jpg", r"D:\x\p.jpg", r"sub\p.jpg", r"..\p.jpg", r"\\host\share\p.jpg", r"s3://bucket/..\..\p.jpg", "C://x/q.jpg"
    )]  # fmt: skip
    assert [photograph.map.removeprefix("images/") for photograph in found] == [
        "@file/C/x/p.jpg.png", "@file/D/x/p.jpg.png", "sub/p.jpg.png", "@file/C/p.jpg.png",
        "@file/host/share/p.jpg.png", "@s3/bucket/..@/..@/p.jpg.png", "@file/C/x/q.jpg.png",
    ]  # fmt: skip


def test_byte_order_mark_is_not_part_of_the_first_path(tmp_path):
    write(tmp_path / "m.txt", "\ufeffa.jpg\r\nb.jpg\r\n".encode())
    listed = Photographs(str(tmp_path / "m.txt"), "", ".png")
    assert [photograph.path for photograph in listed] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]


@pytest.mark.parametrize(
    ("name", "contents", "complaint"),
    [
        ("m.txt", "a.jpg".encode("utf-16"), "is UTF-16 text, expected UTF-8"),
        ("numbers.parquet", pa.table({"path": [1, 2]}), "has the type int64, expected text"),
        ("other.parquet", pa.table({"file": ["a.jpg"]}), "expected one named 'path'"),
        ("cut.parquet", pa.table({"path": ["a.jpg"]}), "cut.parquet cannot be read"),
    ],
)
def test_lists_that_cannot_be_read_are_a_clear_error(tmp_path, name, contents, complaint):
    if isinstance(contents, pa.Table):
        buffer = io.BytesIO()
        pq.write_table(contents, buffer)
        contents = buffer.getvalue()[: -10 if name.startswith("cut") else None]
    write(tmp_path / name, contents)
    with pytest.raises(UserError, match=complaint):
        list(Photographs(str(tmp_path / name), "", ".png"))


def test_chunks_skip_done_photographs_and_grow(tmp_path, monkeypatch):
    write(tmp_path / "m.txt", "".join(f"{i}.jpg\n" for i in range(1000)).encode())
    monkeypatch.setattr(ray, "get", lambda value: value)
    done = np.sort(cluster_index.ids([f"{tmp_path.as_posix()}/{i}.jpg" for i in range(0, 1000, 2)]))
    listing = cluster_index.Listing(Photographs(str(tmp_path / "m.txt"), "", ".png"), done, chunk=16)
    rows = [row for table in listing._chunks() for row in table.to_pylist()]
    paths = [os.fsdecode(path) for row in rows for path in row["path"]]
    assert paths == [f"{tmp_path.as_posix()}/{i}.jpg" for i in range(1, 1000, 2)]
    assert [row["listed"] for row in rows] == [-1] * (len(rows) - 1) + [500]
    assert len(rows[0]["path"]) == 2 and max(len(row["path"]) for row in rows) == 8  # half of 4 and of 16


@pytest.mark.parametrize(
    ("path", "complaint"),
    [("nowhere.jpg", "nowhere.jpg cannot be read"), ("zip0://nowhere/in", "zip0://, which cannot be opened")],
)
def test_photographs_that_cannot_be_listed_are_a_clear_error(tmp_path, capsys, path, complaint):
    assert main.main(["test", "-p", path, "--results", str(tmp_path / "r"), "--cluster"]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_description_of_a_cluster_in_the_cloud_is_valid():
    import yaml
    from ray.autoscaler._private import util

    file = Path(main.__file__).parent / "docs" / "cluster.yaml"
    util.validate_config(util.prepare_config(yaml.safe_load(file.read_text(encoding="utf-8"))))
