"""Shared by all phases: complete files or none, whatever happens to the process that writes them."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import write

from msinet import utils
from msinet.listing import list_files
from msinet.utils import UserError, sweep_leftovers, whole_file, whole_folder

ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="the system has no such signals")

# Replaces a file, or a folder with a new one, and stops halfway, or between the two steps of replacing a folder.
WRITER = """
import sys, time
from pathlib import Path
from msinet import utils
moment, target = sys.argv[1], Path(sys.argv[2])
def stop(*arguments):
    print("stopped", flush=True)
    time.sleep(60)
with (utils.whole_file if moment == "file" else utils.whole_folder)(target) as temporary:
    if moment != "between":
        (temporary if moment == "file" else temporary / "new").write_bytes(b"half of it")
        stop()
    replace = Path.replace
    Path.replace = lambda path, other: stop() if other == target else replace(path, other)
"""


def start(moment, target) -> subprocess.Popen:
    """A process that has stopped in the middle of its work."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, moment, str(target)],
        env={**os.environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "stopped\n"
    process.stdout.close()
    return process


def kill(process) -> None:
    process.kill()
    process.wait()


def hidden(folder) -> list[Path]:
    return list(folder.glob(".*"))


@pytest.fixture
def folder(tmp_path):
    """A folder with the file `old`."""
    return write(tmp_path / "folder" / "old", b"old").parent


# --- Files ------------------------------------------------------------------------------------------------------------


@posix
def test_readers_in_a_loop_see_only_whole_files(tmp_path):
    contents = [bytes([i]) * 3_000_000 for i in range(4)]
    path, done, seen = write(tmp_path / "file", contents[0]), threading.Event(), []

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_bytes() in contents)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(40):
        with whole_file(path) as temporary:
            temporary.write_bytes(contents[i % 4])
    done.set()
    reader.join()
    assert seen and all(seen)


@posix
def test_killed_writer_leaves_the_old_file_and_the_next_process_removes_the_new_one(tmp_path):
    path = write(tmp_path / "custom.weights.h5", b"old")
    process = start("file", path)
    (temporary,) = tmp_path.glob(".*.weights.h5")  # Some formats are known by their suffix.
    sweep_leftovers(tmp_path)
    assert temporary.exists(), "its process is running"
    kill(process)
    assert path.read_bytes() == b"old" and temporary.exists()
    utils._sweep_once.cache_clear()  # as in another process
    with whole_file(tmp_path / "another") as other:
        assert not temporary.exists()
        other.write_bytes(b"")
    assert hidden(tmp_path) == []


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write(tmp_path / "file", b"old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 251 + ".jpg", "x" + ".y" * 125 + ".jpg"])
def test_file_may_have_the_longest_name_that_the_system_allows(tmp_path, name):
    with whole_file(tmp_path / name) as temporary:
        assert temporary.name.endswith(".jpg")
        temporary.write_bytes(b"new")
    assert (tmp_path / name).read_bytes() == b"new" and hidden(tmp_path) == []


def test_threads_that_write_into_one_folder_do_not_disturb_each_other(tmp_path):
    def write_one(i) -> bytes:
        utils.sweep_leftovers(tmp_path)
        with whole_file(tmp_path / str(i)) as temporary:
            temporary.write_bytes(bytes([i]))
            utils.sweep_leftovers(tmp_path)
        return (tmp_path / str(i)).read_bytes()

    assert list(utils.parallel_map(write_one, range(60), workers=8)) == [bytes([i]) for i in range(60)]
    assert hidden(tmp_path) == []


# --- Folders ----------------------------------------------------------------------------------------------------------


def test_folder_is_replaced_with_its_contents(folder):
    with whole_folder(folder) as temporary:
        write(temporary / "new", b"new")
    assert [file.name for file in folder.iterdir()] == ["new"] and hidden(folder.parent) == []


@pytest.mark.parametrize("restored", [True, False])
def test_folder_that_cannot_be_replaced_is_restored_or_at_least_kept(folder, monkeypatch, restored):
    replace = Path.replace

    def deny(path, target):
        if target == folder and (path.name == "new" or not restored):
            raise PermissionError("held by another program")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", deny)
    with pytest.raises(PermissionError), whole_folder(folder) as temporary:
        write(temporary / "new", b"new")
    assert [file.read_bytes() for file in folder.parent.rglob("old")] == [b"old"]
    assert folder.exists() == restored
    monkeypatch.undo()
    sweep_leftovers(folder.parent)
    assert (folder / "old").exists() and hidden(folder.parent) == []


@posix
@pytest.mark.parametrize("moment", ["folder", "between"])
def test_next_run_restores_the_folder_of_a_killed_process(folder, moment):
    process = start(moment, folder)
    before = hidden(folder.parent)
    sweep_leftovers(folder.parent)
    assert hidden(folder.parent) == before != [], "its process is running"
    kill(process)
    assert folder.exists() == (moment == "folder")
    with pytest.raises(RuntimeError), whole_folder(folder):
        raise RuntimeError
    assert (folder / "old").read_bytes() == b"old" and hidden(folder.parent) == []


@posix
def test_former_folder_does_not_replace_a_newer_one(folder):
    kill(start("between", folder))
    write(folder / "newer", b"newer")
    sweep_leftovers(folder.parent)
    assert [file.name for file in folder.iterdir()] == ["newer"] and hidden(folder.parent) == []


def test_other_hidden_files_are_kept(tmp_path):
    write(tmp_path / ".hidden.npz", b"")
    sweep_leftovers(tmp_path)
    assert [file.name for file in hidden(tmp_path)] == [".hidden.npz"]


# --- Listing files ----------------------------------------------------------------------------------------------------


def test_files_are_listed_by_path_without_folders_and_hidden_files(tmp_path):
    for name in ("b/1.jpg", "b.JPG", "a.png", ".hidden/2.jpg", "b/._1.jpg"):
        write(tmp_path / name, b"")
    (tmp_path / "folder.jpg").mkdir()
    found = list_files(tmp_path, (".jpg",))
    assert [file.relative_to(tmp_path).as_posix() for file in found] == ["b.JPG", "b/1.jpg"]
    assert len(list_files(tmp_path)) == 3 and list_files(tmp_path / "nowhere") == []


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    write(tmp_path / "closed" / "1.jpg", b"")
    scan = os.scandir

    def deny(path):  # Tests may run as the administrator, who may read everything.
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(UserError, match=r"closed cannot be read \(Permission denied\)"):
        list_files(tmp_path)


def test_only_a_folder_as_this_program_wrote_it_is_replaced(tmp_path):
    folder = tmp_path / "demo"

    def replace():
        utils.check_replaceable(folder, "config.json")
        with utils.whole_folder(folder) as temporary:
            write(temporary / "sub" / "page.html", b"a page")
            write(temporary / "config.json", b"{}")

    replace()
    replace()
    write(folder / ".DS_Store", b"of the system")
    replace()
    thesis = write(tmp_path / "thesis.txt", b"years of work")
    os.utime(thesis, (1, 1))
    kept = thesis.rename(folder / "sub" / "thesis.txt")
    with pytest.raises(UserError, match=r"thesis\.txt was added or changed"):
        replace()
    assert kept.read_bytes() == b"years of work"


@pytest.mark.parametrize(
    "bounds",
    [{"ahead": 8}, {"workers": 4, "ahead": 16, "weight": lambda item: 10, "most": 80}],
    ids=["by number", "by weight"],
)
def test_images_in_flight_are_bounded(bounds):
    read = []
    squares = utils.parallel_map(lambda x: x * x, (read.append(i) or i for i in range(1000)), **bounds)
    assert [next(squares) for _ in range(3)] == [0, 1, 4]
    assert len(read) <= 11
    assert list(squares) == [i * i for i in range(3, 1000)]


def test_image_above_the_bound_is_processed_alone():
    assert list(utils.parallel_map(lambda x: x, [1, 2], weight=lambda x: 99, most=30)) == [1, 2]
