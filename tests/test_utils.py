"""What all rooms share: files whole or not at all, whatever happens to the process that writes them."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import write

import utils
from utils import UserError, list_files, sweep_leftovers, whole_file, whole_folder

ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="the system has no such signals")

# Writes the file or folder "new" over an old one, says so in the middle of it, and stands still.
WRITER = """
import sys, time
from pathlib import Path
import utils
kind, target = sys.argv[1], Path(sys.argv[2])
def stand_still(*arguments):
    print("standing still", flush=True)
    time.sleep(60)
if kind == "file":
    with utils.whole_file(target) as temporary:
        temporary.write_bytes(b"half of it")
        stand_still()
with utils.whole_folder(target) as temporary:
    (temporary / "new").write_bytes(b"new")
    if kind == "folder":
        stand_still()
    replace = Path.replace
    Path.replace = lambda path, other: stand_still() if other == target else replace(path, other)
"""


def start(kind, target) -> subprocess.Popen:
    """A process in the middle of its work."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, kind, str(target)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "standing still\n"
    process.stdout.close()
    return process


def kill(process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def hidden(folder) -> list[Path]:
    return list(folder.glob(".*"))


# --- The promise ------------------------------------------------------------------------------------------------------


@posix
def test_who_reads_a_file_while_it_is_replaced_reads_the_old_one_to_its_end(tmp_path):
    path = write(tmp_path / "file", b"old" * 100_000)
    with path.open("rb") as reader:
        beginning = reader.read(10)
        with whole_file(path) as temporary:
            temporary.write_bytes(b"new")
        assert beginning + reader.read() == b"old" * 100_000
    assert path.read_bytes() == b"new"


@posix
def test_readers_in_a_loop_see_whole_files_only(tmp_path):
    contents = [bytes([i]) * 3_000_000 for i in range(4)]
    path, done, seen = write(tmp_path / "file", contents[0]), threading.Event(), []

    def read() -> None:
        while not done.is_set():
            received = path.read_bytes()
            seen.append(received in contents)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(40):
        with whole_file(path) as temporary:
            temporary.write_bytes(contents[i % 4])
    done.set()
    reader.join()
    assert seen and all(seen)


@posix
def test_killed_while_it_writes_it_leaves_the_old_file_and_the_next_run_sweeps(tmp_path):
    path = write(tmp_path / "custom.weights.h5", b"old")
    process = start("file", path)
    (temporary,) = hidden(tmp_path)
    assert temporary.name.endswith(".weights.h5"), "some formats are known by their suffix"
    sweep_leftovers(tmp_path)
    assert temporary.exists(), "its owner lives"
    kill(process)
    assert path.read_bytes() == b"old" and temporary.exists()
    utils._sweep_once.cache_clear()  # as in another process
    with whole_file(tmp_path / "another") as other:
        assert hidden(tmp_path) == []
        other.write_bytes(b"")


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write(tmp_path / "file", b"old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 251 + ".jpg", "x" + ".y" * 125 + ".jpg"])
def test_file_may_have_the_longest_name_that_the_system_allows(tmp_path, name):
    path = tmp_path / name
    with whole_file(path) as temporary:
        assert utils.OWNED.fullmatch(temporary.name) and temporary.name.endswith(".jpg")
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


# --- Folders ----------------------------------------------------------------------------------------------------------


def test_folder_is_replaced_with_all_that_is_in_it(tmp_path):
    write(tmp_path / "folder" / "old", b"old")
    with whole_folder(tmp_path / "folder") as temporary:
        write(temporary / "new", b"new")
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["new"] and hidden(tmp_path) == []


def test_folder_comes_back_when_its_successor_cannot_take_its_place(tmp_path, monkeypatch):
    folder, replace = tmp_path / "folder", Path.replace
    write(folder / "old", b"old")

    def refuse(path, target):
        if path.suffix == utils.PART:
            raise PermissionError("held by another program")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError), whole_folder(folder) as temporary:
        write(temporary / "new", b"new")
    assert (folder / "old").read_bytes() == b"old" and hidden(tmp_path) == []


def test_folder_that_cannot_come_back_is_not_deleted(tmp_path, monkeypatch):
    folder, replace = tmp_path / "folder", Path.replace
    write(folder / "old", b"old")

    def refuse(path, target):
        if target == folder:
            raise PermissionError("held by another program")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError), whole_folder(folder):
        pass
    assert [file.read_bytes() for file in tmp_path.rglob("old")] == [b"old"]


@posix
@pytest.mark.parametrize("kind", ["folder", "between"])
def test_folder_of_a_killed_process_comes_back_with_the_next_run(tmp_path, kind):
    folder = tmp_path / "folder"
    write(folder / "old", b"old")
    process = start(kind, folder)
    sweep_leftovers(tmp_path)
    assert len(hidden(tmp_path)) == (2 if kind == "between" else 1), "their owner lives"
    kill(process)
    assert folder.exists() == (kind == "folder")
    with pytest.raises(RuntimeError), whole_folder(folder):
        raise RuntimeError
    assert (folder / "old").read_bytes() == b"old" and hidden(tmp_path) == []


@posix
def test_former_folder_does_not_replace_what_has_taken_its_place(tmp_path):
    folder = tmp_path / "folder"
    write(folder / "old", b"old")
    kill(start("between", folder))
    write(folder / "newer", b"newer")
    sweep_leftovers(tmp_path)
    assert [file.name for file in folder.iterdir()] == ["newer"] and hidden(tmp_path) == []


def test_leftovers_of_another_computer_stay_for_a_day_and_other_hidden_files_for_ever(tmp_path):
    foreign = write(tmp_path / ".00000000-1-01234567.npz", b"")
    write(tmp_path / ".hidden.npz", b"")
    sweep_leftovers(tmp_path)
    assert foreign.exists()
    os.utime(foreign, (0, 0))
    sweep_leftovers(tmp_path)
    assert [file.name for file in hidden(tmp_path)] == [".hidden.npz"]


# --- Listing files ----------------------------------------------------------------------------------------------------


def test_files_are_listed_by_their_paths_without_folders_and_hidden_ones(tmp_path):
    for name in ("b/1.jpg", "b.JPG", "a.png", ".hidden/2.jpg", "b/._1.jpg"):
        write(tmp_path / name, b"")
    (tmp_path / "folder.jpg").mkdir()
    found = list_files(tmp_path, (".jpg",))
    assert [file.relative_to(tmp_path).as_posix() for file in found] == ["b.JPG", "b/1.jpg"]
    assert len(list_files(tmp_path)) == 3 and list_files(tmp_path / "nowhere") == []


def test_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "closed" / "1.jpg", b"")
    scan = os.scandir

    def refuse(path):  # The administrator, whom tests may run as, may read everything.
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"closed cannot be read \(Permission denied\)"):
        list_files(tmp_path)
