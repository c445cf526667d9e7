"""Downloads: every dataset's format from archive to training step, and every failure of network, archives and disk."""

import csv
import errno
import hashlib
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import loopback
import numpy as np
import pytest
import tiny_archives
import trustme
from conftest import write
from loopback import Loopback, cut, page, partly, redirect, stall, status
from PIL import Image
from scipy.ndimage import gaussian_filter
from tiny_archives import COUNT, HEIGHT, WIDTH, zip_of

from msinet import checkpoint, config, data, download, main
from msinet.acquisition import archives, build, datasets, drive, hosts, readers, transfer
from msinet.acquisition.datasets import DATASETS
from msinet.phases.training import batches
from msinet.utils import DownloadError, NoSpaceError

ROOT = Path(__file__).parents[1]
CONTENTS = b"PK" + np.random.default_rng(0).bytes(300_000)
BROKEN = 6 * transfer.PIECE  # where a connection breaks
RESUMED = f"bytes={BROKEN - 1000}-"
MD5 = hashlib.md5(CONTENTS).hexdigest()
has_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")


def tree(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def fails(name, folder, *words, source=None) -> str:
    """The download fails with these words, and leaves no folder of the dataset."""
    with pytest.raises(DownloadError) as error:
        download.dataset(name, folder, source)
    message = str(error.value)
    assert all(word in message for word in words), message
    first, *others = message.split("\n")
    assert len(first) < 400 and all(line.startswith("  ") for line in others)
    assert not (folder / name).exists()
    return message


@pytest.fixture
def change_archives(monkeypatch):
    """Change fields of a dataset's archives: `change_archives("osie", md5="0")` -> the archives."""

    def change(name, **fields):
        rows = tuple(replace(archive, **fields) for archive in DATASETS[name].archives)
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], archives=rows))
        return rows

    return change


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


def test_only_a_known_checksum_replaces_a_certificate():
    rows = [archive for source in DATASETS.values() for archive in source.archives if archive.certificate_is_invalid]
    assert [archive.file for archive in rows] == ["salObj.zip"] and rows[0].md5


def test_archives_of_dutomron_have_the_checksums_that_pysaliency_publishes():
    found = {archive.file: archive.md5 for archive in DATASETS["dutomron"].archives}
    assert found == {
        "DUT-OMRON-image.zip": "a8951db9297afacf78bc0e5079103cf1",
        "DUT-OMRON-eye-fixations.zip": "d9f4f83fcc78b1e5efb579ae9fb0edc2",
    }


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
    row = datasets.Dataset(
        title="People at work",
        archives=(datasets.Archive("office.zip", (server.serve("/office.zip", zip_of(members)),), targets),),
        input_size=(48, 64),
        train=3,
        valid=1,
        reader=read,
        observers=1,
        terms="none",
        citation="Nobody: At Work. 2000.",
        sigma=4,
    )
    monkeypatch.setitem(DATASETS, "office", row)
    flags = ("-d", "office", "-p", str(tmp_path / "data"))
    results = ("--results", str(tmp_path / "results"))

    assert main.main(["download", *flags]) == 0
    start = ("--init", "scratch", "--variant", "lite", "--epochs", "1", "--batch-size", "3")
    assert main.main(["train", *flags, *results, *start]) == 0
    assert main.main(["evaluate", *flags, *results]) == 0
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
def test_fixations_are_at_their_pixels_with_their_multiplicity(name, tiny, tmp_path):
    tiny(name)
    folder = download.dataset(name, tmp_path)
    names = [sample.name for sample in data.pair_files(folder)]
    with (folder / "fixations.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    knows_observers = name in ("salicon", "dutomron", "pascals", "osie")
    for i, image in enumerate(names):
        assert np.array_equal(pixels(folder / "fixations" / f"{image}.png"), tiny_archives.binary_map(i))
        received = sorted((int(r["observer"]), int(r["x"]), int(r["y"])) for r in rows if r["image"] == image)
        expected = [(k, *point) for k, points in enumerate(tiny_archives.fixations(i)) for point in points.tolist()]
        if not knows_observers:
            y, x = np.nonzero(tiny_archives.binary_map(i))
            expected = [(-1, *point) for point in zip(x.tolist(), y.tolist(), strict=True)]
        assert received == sorted(expected)


@pytest.mark.parametrize(("name", "sigma"), [("dutomron", 16), ("osie", 16), ("fiwi", 30)])
def test_saliency_is_the_blurred_binary_map_scaled_to_255(name, sigma, tiny, tmp_path):
    tiny(name)
    folder = download.dataset(name, tmp_path)
    for i, image in enumerate(s.name for s in data.pair_files(folder)):
        blurred = gaussian_filter((tiny_archives.binary_map(i) > 0).astype(float), sigma)
        received = pixels(folder / "saliency" / f"{image}.png")
        assert received.max() == 255
        assert np.abs(received - 255 * blurred / blurred.max()).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("name", ["salicon", "mit1003", "cat2000", "pascals"])
def test_stimuli_and_the_archives_own_maps_are_kept_byte_for_byte(name, tiny, tmp_path):
    tiny(name)
    folder = download.dataset(name, tmp_path)
    contents = {c for members in tiny_archives.MAKERS[name]() for c in members.values()}
    files = [f for kind in ("stimuli", "saliency") for f in (folder / kind).rglob("*") if f.is_file()]
    assert len(files) == 2 * COUNT and all(file.read_bytes() in contents for file in files)


def test_folder_holds_the_dataset_and_nothing_else(tiny, tmp_path):
    tiny("salicon")
    folder = download.dataset("salicon", tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["fixations", "fixations.csv", "saliency", "stimuli"]
    assert sorted(file.name for file in (folder / "stimuli").iterdir()) == ["train", "val"]
    assert not (tmp_path / ".downloads" / "salicon").exists()


def test_fixations_outside_the_photograph_are_skipped_and_counted(tiny, tmp_path, capsys):
    cropped = tiny_archives.encode(tiny_archives.photograph(0)[:20], "JPEG")
    tiny("salicon", add("images/train/COCO_000000000000.jpg", cropped))
    folder = download.dataset("salicon", tmp_path)
    assert pixels(folder / "fixations" / "train" / "COCO_000000000000.png").shape == (20, WIDTH)
    below = sum(int((points[:, 1] >= 20).sum()) for points in tiny_archives.fixations(0))
    output = capsys.readouterr().out
    assert f"{below} fixations are outside" in output and "another size than the photograph's for 1" in output


def test_wrong_exif_rotation_in_cat2000_is_ignored(tiny, tmp_path):
    tiny("cat2000")
    folder = download.dataset("cat2000", tmp_path)
    with Image.open(folder / "stimuli" / "Action" / "001.jpg") as image:
        assert image.getexif()[0x0112] == 6
    assert pixels(folder / "fixations" / "Action" / "001.png").shape == (HEIGHT, WIDTH)


def test_existing_dataset_is_used_without_any_request(tiny, server, tmp_path):
    tiny("osie")
    download.dataset("osie", tmp_path)
    before = tree(tmp_path / "osie")
    server.requests.clear()
    assert download.dataset("osie", tmp_path) == tmp_path / "osie"
    assert server.requests == [] and tree(tmp_path / "osie") == before


# --- Failures of the network ------------------------------------------------------------------------------------------


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """Fetch `CONTENTS` through faults, in order: `fetch(cut(10))` -> the ranges requested. The file must be right."""
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.3)
    monkeypatch.setattr(transfer, "OVERLAP", 1000)

    def run(*faults, md5=None):
        path = tmp_path / "file.zip"
        url = server.serve("/file.zip", CONTENTS, *faults)
        assert transfer.fetch([url], path, md5) == MD5
        assert path.read_bytes() == CONTENTS
        assert [file.name for file in tmp_path.iterdir()] == ["file.zip"]
        return [requested for _, requested in server.requests]

    return run


def partial(server, folder, contents) -> Path:
    """Files of a killed run, which had received these contents."""
    info = {"url": f"{server.url}/file.zip", "total": len(CONTENTS), "validator": None}
    write(folder / "file.zip.part.json", json.dumps(info).encode())
    return write(folder / "file.zip.part", contents)


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([cut(BROKEN)], [None, RESUMED]),
        ([cut(BROKEN), loopback.short_range], [None, RESUMED, f"bytes={BROKEN - 2000 + 50_000}-"]),
        ([partly(40_000)] * 7, [None, *(f"bytes={39_000 * i}-" for i in range(1, 8))]),  # more than ATTEMPTS
    ],
)
def test_interrupted_download_resumes_from_the_partial_file(fetch, faults, ranges):
    assert fetch(*faults) == ranges


@pytest.mark.parametrize("fault", [loopback.without_range, loopback.false_range, loopback.false_bytes, status(416)])
def test_server_that_cannot_resume_is_asked_for_the_whole_file(fetch, fault):
    ranges = fetch(cut(BROKEN), fault)
    assert ranges[:2] == [None, RESUMED] and ranges[2:] in ([], [None])


def test_file_that_changed_on_the_server_is_fetched_again(server, tmp_path, fetch):
    server.serve("/file.zip", b"PK" + bytes(300_000), *[cut(transfer.PIECE, '"old"')] * 20)
    with pytest.raises(DownloadError, match="gave up"):
        transfer.fetch([server.url + "/file.zip"], tmp_path / "file.zip")
    assert (tmp_path / "file.zip.part").stat().st_size == transfer.PIECE
    server.requests.clear()
    assert fetch() == [f"bytes={transfer.PIECE - 1000}-"]  # with If-Range, so the whole file is sent


@pytest.mark.parametrize("fault", [status(500), status(503), status(429), stall(100_000), cut(0), stall(0)])
def test_temporary_failure_is_retried(fetch, fault):
    assert len(fetch(fault, fault)) == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (status(404), "404"),
        (status(403), "403"),
        (status(410), "410"),
        (page("<!DOCTYPE html><html><title>Moved away</title></html>"), "web page titled 'Moved away'"),
        (page("<html>login</html>"), "web page"),
        (lambda handler, contents: loopback.answer(handler, b"not a zip"), "something else"),
        (redirect("file:///etc/passwd"), "invalid address"),
        (redirect("ftp://127.0.0.1/file.zip"), "invalid address"),
        (redirect("http://[bad"), "invalid address"),
    ],
)
def test_permanent_failure_is_reported_at_once(server, tmp_path, fault, words):
    url = server.serve("/file.zip", CONTENTS, fault)
    with pytest.raises(DownloadError, match=words) as error:
        transfer.fetch([url], tmp_path / "file.zip")
    assert url in str(error.value) and len(server.requests) == 1
    assert not (tmp_path / "file.zip").exists()


def test_redirect_from_the_internet_into_the_local_network_is_not_followed(server, tmp_path, monkeypatch):
    inner = server.serve("/private.zip", CONTENTS)
    url = server.serve("/file.zip", CONTENTS, redirect(inner), redirect(inner))
    transfer.fetch([url], tmp_path / "file.zip")  # Within one network.
    (tmp_path / "file.zip").unlink()
    monkeypatch.setattr(hosts, "is_internal", lambda address: address == inner)
    with pytest.raises(DownloadError, match=r"redirects to an invalid address \(.* is in the local network\)"):
        transfer.fetch([url], tmp_path / "file.zip")
    assert [path for path, _ in server.requests] == ["/file.zip", "/private.zip", "/file.zip"]
    assert not (tmp_path / "file.zip").exists()


@pytest.mark.parametrize(
    ("address", "internal"),
    [
        ("http://127.0.0.1:8000/", True),
        ("http://localhost/", True),
        ("http://[::1]/", True),
        ("http://10.1.2.3/", True),
        ("http://169.254.169.254/latest/meta-data", True),
        ("http://2130706433/", True),
        ("http://[::ffff:127.0.0.1]/", True),
        ("https://8.8.8.8/", False),
        ("https://unknown.example/", False),
    ],
)
def test_internal_addresses(monkeypatch, address, internal):
    monkeypatch.undo()
    look_up = socket.getaddrinfo
    known = {"localhost": "127.0.0.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port: look_up(known.get(host, host), port, flags=socket.AI_NUMERICHOST)
    )
    assert hosts.is_internal(address) == internal


@pytest.mark.parametrize(
    ("fault", "settings", "words"),
    [
        (status(500), {}, "500"),
        (cut(transfer.PIECE), {"OVERLAP": 100_000}, "lost at 32,768 bytes"),
        (stall(0), {"READ_SECONDS": 0.1}, "no data within"),
        (partly(transfer.PIECE, end=transfer.PIECE), {}, "lost at 32,768 bytes"),
        (partly(3), {"OVERLAP": 1}, "without progress"),
        (loopback.drip, {"SLOWEST_SECONDS": 0.1}, "less than 32,768 bytes within"),
        (loopback.drip_headers, {"SLOWEST_SECONDS": 0.1}, "no complete response"),
    ],
)
def test_server_that_never_delivers_is_given_up_after_some_attempts(
    server, tmp_path, monkeypatch, fault, settings, words
):
    for name, value in settings.items():
        monkeypatch.setattr(transfer, name, value)
    url = server.serve("/file.zip", CONTENTS, *[fault] * 100)
    with pytest.raises(DownloadError, match=words):
        transfer.fetch([url], tmp_path / "file.zip")
    assert transfer.ATTEMPTS <= len(server.requests) <= transfer.ATTEMPTS + 1


def test_endless_body_leaves_the_reserve_of_the_disk_free(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "CHECK_EVERY", 1_000_000)
    part, usage, free = tmp_path / "file.zip.part", shutil.disk_usage(tmp_path), transfer.RESERVE + 3_000_000
    sizes = []

    def shrinking(path):
        sizes.append(part.stat().st_size)
        return usage._replace(free=free - sizes[-1])

    monkeypatch.setattr(shutil, "disk_usage", shrinking)
    url = server.serve("/file.zip", CONTENTS, loopback.without_end)
    with pytest.raises(NoSpaceError, match="of which 100 MB must stay free"):
        transfer.fetch([url], tmp_path / "file.zip")
    assert 2_900_000 < max(sizes) < 4_100_000
    assert part.stat().st_size < 100_000, "an endless file is useless to the next run"


def test_body_that_exceeds_its_announced_size_is_cut_off(server, tmp_path):
    def longer(handler, contents):
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(CONTENTS) - 1}/{len(CONTENTS)}")
        handler.end_headers()
        handler.wfile.write(contents)
        loopback.pour(handler)
        taken.append("all")

    taken = []
    url = server.serve("/file.zip", CONTENTS, *[longer] * 20)
    with pytest.raises(DownloadError, match="of 300,002"):
        transfer.fetch([url], tmp_path / "file.zip")
    assert taken == []


def test_refused_connection_and_unknown_host_are_reported(server, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/file.zip"
    unknown = "https://nowhere.invalid/file.zip"
    with pytest.raises(DownloadError) as error:
        transfer.fetch([closed, unknown], tmp_path / "file.zip")
    assert f"{closed}: Connection refused" in str(error.value)
    assert f"{unknown}: the name nowhere.invalid is unknown" in str(error.value)


def test_next_source_is_used_after_a_failure(server, tmp_path):
    bad = server.serve("/bad.zip", CONTENTS, status(404))
    good = server.serve("/good.zip", CONTENTS)
    assert transfer.fetch(["http://nowhere.invalid/a.zip", bad, good], tmp_path / "file.zip") == MD5


def test_name_look_up_that_hangs_does_not_hang_the_program(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "CONNECT_SECONDS", 0.2)
    hang = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: hang.wait(60) and [])
    with pytest.raises(DownloadError, match="no answer within"):
        transfer.fetch(["http://somewhere.example/file.zip"], tmp_path / "file.zip")
    hang.set()


@pytest.mark.parametrize(
    "url", ["http://[bad", "http://", "http:///a.zip", "https://a..b/", f"http://{'a' * 64}.com/", "http://x:99999/"]
)
def test_invalid_address_is_named(url, tmp_path, capsys):
    assert main.main(["download", "-d", "osie", "-p", str(tmp_path), "--from", url]) == 2
    assert f"error: {url} is not an address" in capsys.readouterr().err
    with pytest.raises(DownloadError, match="is not an address"):
        transfer.fetch([url], tmp_path / "file.zip")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.zip", "file:///etc/passwd", "/etc/passwd"])
def test_only_http_and_https_are_fetched(url, tmp_path):
    with pytest.raises(DownloadError, match="expected an http or https address"):
        transfer.fetch([url], tmp_path / "file.zip")


def test_wrong_checksum_is_an_error_and_leaves_nothing(server, tmp_path):
    url = server.serve("/file.zip", CONTENTS)
    with pytest.raises(DownloadError, match=f"received MD5 {MD5}, expected 0123"):
        transfer.fetch([url], tmp_path / "file.zip", "0123")
    assert not (tmp_path / "file.zip").exists() and (tmp_path / "file.zip.part").stat().st_size == 0


@pytest.mark.parametrize(
    ("contents", "ranges"),
    [
        (b"PK" + bytes(1000) + CONTENTS[1002:2000], ["bytes=1000-", None]),  # wrong checksum after resuming
        (CONTENTS, []),  # complete
        (bytes(len(CONTENTS)), [None]),  # damaged on the disk
    ],
)
def test_partial_file_of_a_killed_run_is_resumed_used_or_replaced(fetch, server, tmp_path, contents, ranges):
    partial(server, tmp_path, contents)
    assert fetch(md5=MD5) == ranges


def test_failed_encryption_is_not_taken_for_an_invalid_certificate(server, tmp_path):
    url = server.serve("/file.zip", CONTENTS).replace("http:", "https:")
    with pytest.raises(DownloadError, match="the encrypted connection failed"):
        transfer.fetch([url], tmp_path / "file.zip", MD5, certificate_is_invalid=True)


def test_invalid_certificate_is_an_error_unless_a_known_checksum_replaces_it(tmp_path, capsys, server):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    secure = Loopback(context)
    try:
        url = secure.serve("/file.zip", CONTENTS)
        for md5, known in ((None, True), (MD5, False)):
            with pytest.raises(DownloadError, match="certificate is not valid"):
                transfer.fetch([url], tmp_path / "file.zip", md5, certificate_is_invalid=known)
        assert transfer.fetch([url], tmp_path / "file.zip", MD5, certificate_is_invalid=True) == MD5
        assert "warning: the certificate of 127.0.0.1 is invalid" in capsys.readouterr().err
        with pytest.raises(DownloadError, match="wrong checksum"):
            transfer.fetch([url], tmp_path / "other.zip", "0" * 32, certificate_is_invalid=True)
    finally:
        secure.close()


# --- Google Drive -----------------------------------------------------------------------------------------------------


@pytest.fixture
def drive_url(server, monkeypatch):
    monkeypatch.setattr(drive, "GOOGLE_DRIVE", f"{server.url}/uc?export=download&id=")
    return f"{drive.GOOGLE_DRIVE}key"


def confirmation(server, path):
    return page(
        f'<!DOCTYPE html><html><body><form id="download-form" action="{server.url}{path}" method="get">'
        '<input type="hidden" name="confirm" value="t"></form></body></html>'
    )


def test_confirmation_of_google_drive_is_given_also_when_resuming(server, drive_url, tmp_path):
    ask = confirmation(server, "/file")
    server.serve("/uc?export=download&id=key", b"", ask, ask)
    server.serve("/file?confirm=t", CONTENTS, cut(BROKEN))
    assert transfer.fetch([drive_url], tmp_path / "file.zip", MD5) == MD5
    assert server.requests[-1] == ("/file?confirm=t", f"bytes={BROKEN - transfer.OVERLAP}-")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (page('<html><p class="uc-error-subcaption">Too many users have viewed this file.</p></html>'), "Too many"),
        (page("<!DOCTYPE html><html><title>Sign in</title></html>"), "Sign in"),
        (status(403), "status 403"),
        (status(429), "status 429"),
        (None, "Quota exceeded"),
    ],
)
def test_quota_of_google_drive_is_named_with_the_way_by_hand(
    server, drive_url, tiny, change_archives, tmp_path, answer, words
):
    tiny("fiwi")
    server.serve("/uc?export=download&id=key", b"", answer or confirmation(server, "/file"))
    server.serve("/file?confirm=t", b"", page("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>"))
    change_archives("fiwi", urls=(drive_url,))
    fails("fiwi", tmp_path, words, "download quota", drive_url, "browser", "as webpage_dataset.zip", "--from")


def test_form_of_google_drive_is_sent_with_its_fields():
    page = """<!DOCTYPE html><title>Google Drive - Virus scan warning</title><form id="search"><input type="hidden"
    name="q" value="x"></form><form id="download-form" action="/download?a=1&amp;b=2"><input type="submit" name="s">
    <input type="hidden" name="id" value="1&amp;2"><input type="hidden" name="uuid" value="3-4"></form>"""
    address, _ = drive.confirmed_address("https://example.com/uc?id=x", page)
    assert address == "https://example.com/download?a=1&b=2&id=1%262&uuid=3-4"
    assert drive.confirmed_address("https://example.com/", "<title>Not\n found</title>no form") == (None, "Not found")


# --- Faulty archives --------------------------------------------------------------------------------------------------

FIRST = "webpage_dataset/stimuli/page0.png"
FIRST_FIXATIONS = "webpage_dataset/fixation/all5/page0.png"


def remove(member):
    return lambda members: members[0].pop(member)


def add(member, contents=b"x"):
    return lambda members: members[0].update({member: contents})


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


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such permissions")
def test_read_only_folder_is_named(tiny):
    tiny("osie")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # The administrator may write everywhere.
        with pytest.raises(DownloadError, match=r"is not writable.*Permission denied"):
            download.dataset("osie", folder)
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_incomplete_dataset_of_another_program_is_neither_used_nor_touched(tiny, server, tmp_path):
    tiny("osie")
    write(tmp_path / "osie" / "stimuli" / "1001.jpg", b"mine")
    with pytest.raises(DownloadError, match=f"1 photographs, expected {COUNT}. Rename or remove it"):
        download.dataset("osie", tmp_path)
    assert tree(tmp_path / "osie") == {"stimuli/1001.jpg": b"mine"} and server.requests == []


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


# --- Published weights ------------------------------------------------------------------------------------------------


@pytest.fixture
def published(server, monkeypatch):
    """Serve the files of weights: `published({"model_osie_cpu.zip": bytes})`; all others are 404."""

    def make(files):
        for name, contents in files.items():
            server.serve(f"/{name}", contents)
        original = datasets.weight_files
        monkeypatch.setattr(
            download,
            "weight_files",
            lambda key: tuple(replace(row, urls=(f"{server.url}/{row.file}",), md5=None) for row in original(key)),
        )

    return make


GRAPHS = {f"model_osie_{kind}.zip": zip_of({f"weights/model_osie_{kind}.pb": b"graph"}) for kind in ("cpu", "gpu")}
KERAS = {datasets.KERAS_VGG16.file: b"\x89HDF..."}
VGG16 = {f"vgg16_hybrid.ckpt.{suffix}": b"graph" for suffix in ("data-00000-of-00001", "index", "meta")}


@pytest.mark.parametrize(
    ("key", "files", "result"),
    [
        ("model_salicon_cpu", {"saved_model.pb": b"graph", "model_salicon_cpu.zip": b"other"}, "saved_model.pb"),
        ("model_osie_cpu", GRAPHS, "model_osie_cpu.pb"),
        ("model_osie_cpu", {"model_osie_gpu.zip": GRAPHS["model_osie_gpu.zip"]}, "model_osie_gpu.pb"),
        ("vgg16_hybrid", {"vgg16_hybrid.zip": zip_of(VGG16), **KERAS}, "vgg16_hybrid.ckpt"),
        ("vgg16_hybrid", {"vgg16_hybrid.zip": zip_of({"readme": b"x"}), **KERAS}, datasets.KERAS_VGG16.file),
    ],
)
def test_weights_come_from_the_first_source_that_has_them(published, server, tmp_path, key, files, result):
    published(files)
    assert download.weights(key, tmp_path) == tmp_path / result
    found = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    names = {f"{result}.index", f"{result}.data-00000-of-00001"} if result.endswith("ckpt") else {result}
    assert found == dict.fromkeys(names, KERAS.get(result, b"graph"))
    server.requests.clear()
    assert download.weights(key, tmp_path) == tmp_path / result and server.requests == []


def test_weights_from_an_archive_by_hand(tmp_path):
    archive = write(tmp_path / "model_fiwi_gpu.zip", zip_of({"model_fiwi_gpu.pb": b"graph"}))
    assert main.main(["download", "-d", "fiwi", "--weights", "-p", str(tmp_path / "w"), "--from", str(tmp_path)]) == 0
    assert (tmp_path / "w" / "model_fiwi_gpu.pb").read_bytes() == b"graph" and archive.exists()


def test_without_a_network_connection_the_way_by_hand_is_told_after_one_check(tmp_path, monkeypatch):
    checks = []
    monkeypatch.setattr(download, "unreachable", lambda urls: checks.append(urls) or hosts.unreachable(urls))
    monkeypatch.setattr(transfer, "unreachable", download.unreachable)
    with pytest.raises(DownloadError) as error:
        download.weights("model_salicon_cpu", tmp_path)
    for word in ("huggingface.co", "as model_salicon_cpu.zip", "is there a network", "-d salicon --weights --from"):
        assert word in str(error.value)
    assert len(checks) == 1
    assert not [file for file in tmp_path.iterdir() if file.name != ".downloads"]


def test_prediction_and_training_fetch_missing_weights(published, tmp_path, monkeypatch):
    published({"saved_model.pb": b"graph", datasets.KERAS_VGG16.file: b"\x89HDF..."})
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path)
    choice = checkpoint.choose_weights("custom", results=tmp_path)
    assert choice == checkpoint.Choice(tmp_path / "saved_model.pb", "the published network for salicon")
    assert checkpoint.vgg16_weights().reason == "Keras' ImageNet VGG16"


def test_prediction_without_a_network_connection_says_why_it_uses_the_lite_network(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr(checkpoint, "LITE_PATH", write(tmp_path / "lite.npz", b""))
    choice = checkpoint.choose_weights("osie", results=tmp_path)
    assert choice.path.name == "lite.npz"
    assert choice.reason.endswith("because the published one is not available: drive.google.com cannot be reached")
    with pytest.raises(DownloadError, match="model_osie_cpu are not available"):
        checkpoint.choose_weights("osie", "published", results=tmp_path)
