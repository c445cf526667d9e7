"""Archives: damaged and dangerous ones, wrong checksums, and failures of the disk."""

import errno
import shutil
import stat
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import tiny_archives
from conftest import write
from tiny_archives import COUNT, add, fails, tree, zip_of

from msinet import download
from msinet.acquisition import archives, build
from msinet.utils import DownloadError

# --- Faulty archives --------------------------------------------------------------------------------------------------

FIRST = "webpage_dataset/stimuli/page0.png"
FIRST_FIXATIONS = "webpage_dataset/fixation/all5/page0.png"


def remove(member):
    return lambda members: members[0].pop(member)


def truncate(members):
    members[0] = zip_of(members[0])[:-200]


def damage(members):
    archive = bytearray(zip_of(members[0], zipfile.ZIP_STORED))
    archive[archive.find(members[0][FIRST]) + 100] ^= 255
    members[0] = bytes(archive)


def lie_about_size(members):
    """Declare a member smaller than it is, in both places of the archive."""
    size = len(members[0][FIRST]).to_bytes(4, "little")
    members[0] = zip_of(members[0], zipfile.ZIP_STORED).replace(size, (10).to_bytes(4, "little"))


def special(member, mode):
    def change(members):
        info = zipfile.ZipInfo(member)
        info.external_attr = mode << 16
        members[0] = zip_of({**members[0], info: b"/etc/passwd"})

    return change


def encrypt(members):
    archive = zip_of(members[0])
    members[0] = archive.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, "damaged or not a zip"),
        (damage, "Bad CRC-32"),
        (lie_about_size, "damaged"),
        (remove(FIRST), f"{COUNT - 1} photographs, expected {COUNT}"),
        (remove(FIRST_FIXATIONS), "no fixations for page0"),
        (add("webpage_dataset/stimuli/more.png"), f"{COUNT + 1} photographs"),
        (add("webpage_dataset/fixation/all5/more.png"), "no photograph for the fixations of more"),
        (add("other/stimuli/page0.png"), "two files for stimuli/page0.png"),
        (add(FIRST, b"no image"), "damaged"),
        (add(FIRST_FIXATIONS, b"no image"), "damaged"),
        (lambda members: members[0].clear() or members[0].update({"readme": b"x"}), "not the expected archive"),
        (add("../stimuli/page0.png"), "leads outside the folder"),
        (add("webpage_dataset/../../x.png"), "leads outside the folder"),
        (add("a\\..\\..\\x.png"), "leads outside the folder"),
        (add("/etc/stimuli/x.png"), "absolute path"),
        (add("C:/stimuli/x.png"), "absolute path"),
        (add("stimuli/NUL.png"), "name of a device"),
        (add("stimuli/page0.png:stream"), "name of a device"),
        (special("stimuli/x.png", stat.S_IFLNK | 0o777), "is a link or a device"),
        (special("stimuli/x.png", stat.S_IFIFO | 0o777), "is a link or a device"),
        (encrypt, "encrypted"),
        (add("stimuli/bomb.png", bytes(2_000_000)), "more than any dataset needs"),
    ],
)
def test_damaged_or_dangerous_archive_makes_no_dataset(change, words, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "GREATEST_UNSUSPICIOUS_SIZE", 1_000_000)
    monkeypatch.setattr(archives, "GREATEST_RATIO", 20)
    tiny("fiwi", change)
    outside = {file.name for file in tmp_path.parent.iterdir()}
    fails("fiwi", tmp_path / "data", words, "--from")
    assert {file.name for file in tmp_path.parent.iterdir()} == outside
    left = [file for file in (tmp_path / "data").rglob("*") if file.is_file() and file.suffix != ".lock"]
    assert left == [], "the next run must not use them"
    tiny("fiwi")
    assert not build.incomplete(download.dataset("fiwi", tmp_path / "data"), COUNT)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("salicon", "train/COCO_000000000000.mat"),
        ("dutomron", "DUT-OMRON-eye-fixations/mat/im0.mat"),
        ("pascals", "datasets/fixations/pascalFix.mat"),
        ("osie", "predicting-human-gaze-beyond-pixels-master/data/eye/fixations.mat"),
        ("cat2000", "trainSet/FIXATIONLOCS/Action/001.mat"),
    ],
)
@pytest.mark.parametrize("contents", [b"nothing like it" * 20, tiny_archives.mat(other=1)])
def test_damaged_table_of_fixations_makes_no_dataset(name, member, contents, tiny, tmp_path):
    def change(members):
        next(m for m in members if member in m)[member] = contents

    tiny(name, change)
    fails(name, tmp_path, "damaged, or not in the expected format")


def test_member_with_a_wrong_checksum_is_an_error(tiny, change_archives, tmp_path):
    tiny("osie")
    change_archives("osie", member_md5={"raw/fixations.mat": "8efdf6fe66f38b6e70f854c7ff45aa70"})
    fails("osie", tmp_path, "fixations.mat has the wrong checksum", "expected 8efdf6fe66f38b6e70f854c7ff45aa70")


def test_unknown_checksum_is_recorded_at_first_use_and_verified_later(tiny, tmp_path):
    tiny("fiwi")
    before = tree(download.dataset("fiwi", tmp_path))
    record = tmp_path / ".downloads" / "webpage_dataset.zip.md5"
    assert record.read_text(encoding="utf-8").endswith("  webpage_dataset.zip\n")
    shutil.rmtree(tmp_path / "fiwi")
    tiny("fiwi", add("webpage_dataset/readme.txt"))
    fails("fiwi", tmp_path, "wrong checksum", "first used", str(record))
    record.unlink()
    assert tree(download.dataset("fiwi", tmp_path)) == before


def test_unpacking_a_large_member_needs_little_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("stimuli/large.png", bytes(64_000_000))
    tracemalloc.start()
    archives.extract(tmp_path / "large.zip", tmp_path / "out", [(r"stimuli/large\.png", "stimuli/large.png")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out" / "stimuli" / "large.png").stat().st_size == 64_000_000
    assert peak < 8_000_000


# --- Failures of the disk ---------------------------------------------------------------------------------------------


def test_too_little_free_space_is_reported_before_the_download(tiny, tmp_path, monkeypatch):
    tiny("osie")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    fails("osie", tmp_path, "1 MB are free, of which 100 MB must stay free", "Free some space")
    assert all(file.stat().st_size < 200 for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("folder", ["stimuli", "fixations"])  # while unpacking, and while converting
def test_full_disk_is_reported_and_the_next_run_resumes(folder, tiny, server, tmp_path, monkeypatch):
    tiny("osie")
    expected = tree(download.dataset("osie", tmp_path / "other"))
    replace_file, calls = Path.replace, []

    def full(path, target):
        calls.extend([target] if Path(target).parent.name == folder else [])
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace_file(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        fails("osie", tmp_path, "is full", "run the command again")
    server.requests.clear()
    assert tree(download.dataset("osie", tmp_path)) == expected
    assert server.requests == [], "the archive was kept"


def test_folder_that_is_not_writable_is_named(tiny, tmp_path):
    tiny("osie")
    with pytest.raises(DownloadError, match=r"is not writable.*-p"):
        download.dataset("osie", write(tmp_path / "file", b"") / "data")


def test_incomplete_dataset_of_another_program_is_neither_used_nor_touched(tiny, server, tmp_path):
    tiny("osie")
    write(tmp_path / "osie" / "stimuli" / "1001.jpg", b"mine")
    with pytest.raises(DownloadError, match=f"1 photographs, expected {COUNT}. Rename or remove it"):
        download.dataset("osie", tmp_path)
    assert tree(tmp_path / "osie") == {"stimuli/1001.jpg": b"mine"} and server.requests == []
