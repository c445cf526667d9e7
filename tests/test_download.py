"""Downloads: every dataset's format from archive to training step, and every way in which the internet fails."""

import csv
import errno
import hashlib
import json
import os
import shutil
import socket
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

import loopback
import numpy as np
import pytest
import tiny_archives
from conftest import write
from loopback import Loopback, cut, page, redirect, stall, status
from PIL import Image
from scipy.ndimage import gaussian_filter
from tiny_archives import COUNT, HEIGHT, WIDTH, zip_of

import config
import data
import download
import images
import main
from acquisition import archives, build, convert, datasets, drive, hosts, readers, transfer
from acquisition.datasets import DATASETS
from utils import DownloadError, NoSpaceError

ROOT = Path(__file__).parents[1]
CONTENTS = b"PK" + np.random.default_rng(0).bytes(300_000)
BROKEN = 6 * transfer.PIECE  # where a connection breaks
RESUMED = f"bytes={BROKEN - 1000}-"
MD5 = hashlib.md5(CONTENTS).hexdigest()


def tree(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def fails(name, folder, *words, source=None) -> str:
    """The dataset is refused in words, and no folder of it is left."""
    with pytest.raises(DownloadError) as error:
        download.dataset(name, folder, source)
    assert all(word in str(error.value) for word in words), error.value
    first, *others = str(error.value).split("\n")
    assert len(first) < 400 and all(line.startswith("  ") for line in others)
    assert not (folder / name).exists()
    return str(error.value)


# --- The table --------------------------------------------------------------------------------------------------------


def test_table_for_the_readme_has_a_row_for_each_dataset(capsys):
    assert main.main(["download", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == list(DATASETS)
    assert all(line.count("|") == 7 for line in lines)


def test_chapter_on_datasets_has_the_table():
    assert datasets.table() in (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")


def test_keras_vgg16_has_the_checksum_that_keras_verifies():
    from keras.src.applications import vgg16

    assert datasets.KERAS_VGG16.urls == (vgg16.WEIGHTS_PATH_NO_TOP,)
    assert datasets.KERAS_VGG16.md5 in Path(vgg16.__file__).read_text(encoding="utf-8")


def test_only_a_known_checksum_stands_in_for_a_certificate():
    rows = [archive for source in DATASETS.values() for archive in source.archives]
    assert [a.file for a in rows if a.certificate_is_invalid] == ["salObj.zip"]
    assert all(archive.md5 for archive in rows if archive.certificate_is_invalid)


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

    row = datasets.Dataset(
        title="People at work",
        archives=(
            datasets.Archive(
                "office.zip",
                (server.serve("/office.zip", zip_of(members)),),
                ((r"photos/(\d+)\.png", r"stimuli/\1.png"), (r"gaze\.json", "raw/gaze.json")),
            ),
        ),
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
    monkeypatch.setattr(server, "requests", [])
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
    assert "| `office` (People at work) | 4 | 1 |" in capsys.readouterr().out
    assert main.main(["download", "-d", "office", "--weights", "-p", str(tmp_path)]) == 2
    assert "no network was published" in capsys.readouterr().err


def test_size_of_the_networks_input_is_the_published_one_unless_config_says_another(monkeypatch):
    assert datasets.input_size("osie") == (240, 320)
    monkeypatch.setitem(config.DIMS, "osie", (48, 64))
    assert datasets.input_size("osie") == (48, 64)


# --- Seven formats ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite_network():
    from loss import kld
    from model import build_model

    network = build_model(width=0.125, seed=1)
    network.compile("sgd", kld, jit_compile=False)
    return network


@pytest.mark.parametrize("name", tiny_archives.MAKERS)
def test_dataset_goes_from_its_archives_to_a_training_step(name, tiny, tmp_path, lite_network):
    tiny(name)
    train, valid = data.load_groups(name, tmp_path, datasets.input_size(name))
    assert len(train.samples) + len(valid.samples) == COUNT
    stimuli, truths = next(iter(images.load_batches([data.Batch(train.samples, train.size)])))
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


def test_fixations_outside_of_the_photograph_are_left_out_and_counted(tiny, tmp_path, capsys):
    def change(members):
        members[0]["images/train/COCO_000000000000.jpg"] = tiny_archives.encode(
            tiny_archives.photograph(0)[:20], "JPEG"
        )

    tiny("salicon", change)
    folder = download.dataset("salicon", tmp_path)
    assert pixels(folder / "fixations" / "train" / "COCO_000000000000.png").shape == (20, WIDTH)
    below = sum(int((points[:, 1] >= 20).sum()) for points in tiny_archives.fixations(0))
    output = capsys.readouterr().out
    assert f"{below} fixations are outside" in output and "another size than that of the photograph for 1" in output


def test_cat2000_photograph_with_a_wrong_rotation_stays_as_it_is_stored(tiny, tmp_path):
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


# --- Faults of the network --------------------------------------------------------------------------------------------


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """Fetch `CONTENTS` through faults, in order: `fetch(cut(10))`; the file must be right in the end."""
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.3)
    monkeypatch.setattr(transfer, "OVERLAP", 1000)

    def run(*faults, md5=None, others=()):
        path = tmp_path / "file.zip"
        url = server.serve("/file.zip", CONTENTS, *faults)
        assert transfer.fetch([url, *others], path, md5) == MD5
        assert path.read_bytes() == CONTENTS
        assert [file.name for file in tmp_path.iterdir()] == ["file.zip"]
        return [requested for _, requested in server.requests]

    return run


def test_interrupted_download_resumes_from_the_partial_file(fetch):
    assert fetch(cut(BROKEN)) == [None, RESUMED]


def test_a_connection_that_breaks_again_and_again_gets_there_while_it_progresses(fetch):
    def little_more(handler, contents):
        start = loopback.first_byte(handler) or 0
        end = start + 40_000
        headers = {"Content_Length": str(len(contents) - start), "ETag": '"first"'}
        headers |= {"Content_Range": loopback.content_range(start, contents)}
        loopback.answer(handler, contents[start:end], 206 if start else 200, **headers)

    assert len(fetch(*[little_more] * 7)) > transfer.ATTEMPTS


def test_server_that_gives_the_rest_in_pieces_is_asked_for_each(fetch):
    assert fetch(cut(BROKEN), loopback.short_range) == [None, RESUMED, f"bytes={BROKEN - 2000 + 50_000}-"]


@pytest.mark.parametrize("fault", [loopback.without_range, loopback.false_range, loopback.false_bytes, status(416)])
def test_server_that_cannot_continue_or_lies_about_it_is_asked_for_the_whole(fetch, fault):
    ranges = fetch(cut(BROKEN), fault)
    assert ranges[:2] == [None, RESUMED] and ranges[2:] in ([], [None])


def test_file_that_changed_on_the_server_is_fetched_anew(server, tmp_path, fetch):
    server.serve("/file.zip", b"PK" + bytes(300_000), *[cut(transfer.PIECE, '"old"')] * 20)
    with pytest.raises(DownloadError, match="gave up"):
        transfer.fetch([server.url + "/file.zip"], tmp_path / "file.zip")
    assert (tmp_path / "file.zip.part").stat().st_size == transfer.PIECE
    server.requests.clear()
    assert fetch() == [f"bytes={transfer.PIECE - 1000}-"]  # with If-Range, so that the whole comes


@pytest.mark.parametrize("fault", [status(500), status(503), status(429), stall(100_000), cut(0), stall(0)])
def test_trouble_that_passes_is_waited_for(fetch, fault):
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
        (redirect("file:///etc/passwd"), "not fetched"),
        (redirect("ftp://127.0.0.1/file.zip"), "not fetched"),
        (redirect("http://[bad"), "not fetched"),
    ],
)
def test_trouble_that_stays_is_named_at_once(server, tmp_path, fault, words):
    url = server.serve("/file.zip", CONTENTS, fault)
    with pytest.raises(DownloadError, match=words) as error:
        transfer.fetch([url], tmp_path / "file.zip")
    assert url in str(error.value) and len(server.requests) == 1
    assert not (tmp_path / "file.zip").exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [(status(500), "500"), (cut(transfer.PIECE), "broke off at 32,768 bytes"), (stall(0), "no data within")],
)
def test_trouble_without_end_is_given_up_after_some_attempts(server, tmp_path, monkeypatch, fault, words):
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.1)
    monkeypatch.setattr(transfer, "OVERLAP", 100_000)
    url = server.serve("/file.zip", CONTENTS, *[fault] * 20)
    with pytest.raises(DownloadError, match=words):
        transfer.fetch([url], tmp_path / "file.zip")
    assert transfer.ATTEMPTS <= len(server.requests) <= transfer.ATTEMPTS + 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [(loopback.drip, "less than 32,768 bytes within"), (loopback.drip_headers, "no complete answer")],
)
def test_server_that_gives_a_byte_a_second_is_given_up(server, tmp_path, monkeypatch, fault, words):
    monkeypatch.setattr(transfer, "SLOWEST_SECONDS", 0.1)
    url = server.serve("/file.zip", CONTENTS, *[fault] * 20)
    with pytest.raises(DownloadError, match=words):
        transfer.fetch([url], tmp_path / "file.zip")
    assert len(server.requests) == transfer.ATTEMPTS


def test_server_that_gives_a_byte_a_connection_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "OVERLAP", 1)

    def one_more(handler, contents):
        start = loopback.first_byte(handler) or 0
        headers = {"Content_Length": str(len(contents) - start), "ETag": '"x"'}
        headers |= {"Content_Range": loopback.content_range(start, contents)}
        loopback.answer(handler, contents[start : start + 3], 206 if start else 200, **headers)

    url = server.serve("/file.zip", CONTENTS, *[one_more] * 100)
    with pytest.raises(DownloadError, match="without progress"):
        transfer.fetch([url], tmp_path / "file.zip")
    assert len(server.requests) == transfer.ATTEMPTS


def test_body_without_end_leaves_the_reserve_of_the_disk_free(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "BETWEEN_LOOKS", 1_000_000)
    part, usage, room = tmp_path / "file.zip.part", shutil.disk_usage(tmp_path), transfer.RESERVE + 3_000_000
    sizes = []

    def shrinking(path):
        sizes.append(part.stat().st_size)
        return usage._replace(free=room - sizes[-1])

    monkeypatch.setattr(shutil, "disk_usage", shrinking)
    url = server.serve("/file.zip", CONTENTS, loopback.without_end)
    with pytest.raises(NoSpaceError, match="of which 100 must stay so"):
        transfer.fetch([url], tmp_path / "file.zip")
    assert 2_900_000 < max(sizes) < 4_100_000
    assert part.stat().st_size < 100_000, "what has no end is of no use to the next run"


def test_body_that_exceeds_the_size_it_was_to_have_is_cut_off(server, tmp_path, monkeypatch):
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


def test_length_that_the_server_never_delivers_is_an_error(server, tmp_path):
    def short(handler, contents):
        start = loopback.first_byte(handler) or 0
        body = contents[start : transfer.PIECE]
        longer = {"Content_Length": str(len(contents) - start), "ETag": '"x"'}
        longer |= {"Content_Range": loopback.content_range(start, contents)}
        loopback.answer(handler, body, 206 if start else 200, **longer)

    url = server.serve("/file.zip", CONTENTS, *[short] * 20)
    with pytest.raises(DownloadError, match="broke off at 32,768 bytes"):
        transfer.fetch([url], tmp_path / "file.zip")


def test_refused_connection_and_unknown_host_are_told(server, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/file.zip"
    unknown = "https://nowhere.invalid/file.zip"
    with pytest.raises(DownloadError) as error:
        transfer.fetch([closed, unknown], tmp_path / "file.zip")
    assert f"{closed}: Connection refused" in str(error.value)
    assert f"{unknown}: the name nowhere.invalid is unknown" in str(error.value)


def test_next_source_is_used_after_one_that_fails(server, tmp_path):
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
def test_what_is_no_address_is_named(url, tmp_path, capsys):
    assert main.main(["download", "-d", "osie", "-p", str(tmp_path), "--from", url]) == 2
    assert f"error: {url} is no address" in capsys.readouterr().err
    with pytest.raises(DownloadError, match="is no address"):
        transfer.fetch([url], tmp_path / "file.zip")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.zip", "file:///etc/passwd", "/etc/passwd"])
def test_only_http_and_https_are_fetched(url, tmp_path):
    with pytest.raises(DownloadError, match="only http and https"):
        transfer.fetch([url], tmp_path / "file.zip")


def test_wrong_checksum_is_refused_and_leaves_nothing(server, tmp_path):
    url = server.serve("/file.zip", CONTENTS)
    with pytest.raises(DownloadError, match=f"received MD5 {MD5}, expected 0123"):
        transfer.fetch([url], tmp_path / "file.zip", "0123")
    assert not (tmp_path / "file.zip").exists() and (tmp_path / "file.zip.part").stat().st_size == 0


def test_wrong_checksum_after_resuming_starts_over(server, tmp_path, monkeypatch):
    part = write(tmp_path / "file.zip.part", b"PK" + bytes(1000) + CONTENTS[1002:2000])
    url = server.serve("/file.zip", CONTENTS)
    write(tmp_path / "file.zip.part.json", f'{{"url": "{url}", "total": {len(CONTENTS)}, "validator": null}}'.encode())
    monkeypatch.setattr(transfer, "OVERLAP", 100)
    assert transfer.fetch([url], part.with_suffix(""), MD5) == MD5
    assert [requested for _, requested in server.requests] == ["bytes=1900-", None]


def test_complete_part_of_a_killed_run_needs_no_request(server, tmp_path):
    url = server.serve("/file.zip", CONTENTS)
    write(tmp_path / "file.zip.part", CONTENTS)
    write(tmp_path / "file.zip.part.json", f'{{"url": "{url}", "total": {len(CONTENTS)}, "validator": null}}'.encode())
    assert transfer.fetch([url], tmp_path / "file.zip") == MD5
    assert server.requests == []


def test_part_that_was_damaged_on_the_disk_is_fetched_anew(server, tmp_path):
    url = server.serve("/file.zip", CONTENTS)
    write(tmp_path / "file.zip.part", bytes(len(CONTENTS)))
    write(tmp_path / "file.zip.part.json", f'{{"url": "{url}", "total": {len(CONTENTS)}, "validator": null}}'.encode())
    assert transfer.fetch([url], tmp_path / "file.zip", MD5) == MD5
    assert [requested for _, requested in server.requests] == [None]


def test_encryption_that_fails_is_not_mistaken_for_an_invalid_certificate(server, tmp_path):
    url = server.serve("/file.zip", CONTENTS).replace("http:", "https:")
    with pytest.raises(DownloadError, match="the encrypted connection broke off"):
        transfer.fetch([url], tmp_path / "file.zip", MD5, certificate_is_invalid=True)


def test_invalid_certificate_is_refused_unless_a_known_checksum_stands_in_for_it(tmp_path, capsys, server):
    import ssl

    import trustme

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
    return drive.GOOGLE_DRIVE


def confirmation(server, path):
    return page(
        f'<!DOCTYPE html><html><body><form id="download-form" action="{server.url}{path}" method="get">'
        '<input type="hidden" name="confirm" value="t"></form></body></html>'
    )


def test_google_drive_asks_to_confirm_and_gives_the_file_also_in_pieces(server, drive_url, tmp_path):
    ask = confirmation(server, "/file")
    server.serve("/uc?export=download&id=key", b"", ask, ask)
    server.serve("/file?confirm=t", CONTENTS, cut(BROKEN))
    assert transfer.fetch([drive_url + "key"], tmp_path / "file.zip", MD5) == MD5
    assert server.requests[-1] == ("/file?confirm=t", f"bytes={BROKEN - transfer.OVERLAP}-")


@pytest.mark.parametrize(
    "text",
    [
        '<html><p class="uc-error-subcaption">Too many users have viewed this file recently.</p></html>',
        "<!DOCTYPE html><html><title>Sign in</title></html>",
    ],
)
def test_google_drives_refusals_say_quota_and_name_the_way_by_hand(
    server, drive_url, tiny, tmp_path, monkeypatch, text
):
    tiny("fiwi")
    row = DATASETS["fiwi"]
    server.serve("/uc?export=download&id=key", b"", page(text))
    archive = replace(row.archives[0], urls=(drive_url + "key",))
    monkeypatch.setitem(DATASETS, "fiwi", replace(row, archives=(archive,)))
    fails("fiwi", tmp_path, "quota", drive_url + "key", "browser", "as webpage_dataset.zip", "--from")


@pytest.mark.parametrize("code", [403, 429])
def test_google_drives_status_of_refusal_says_quota(code, server, drive_url, tmp_path):
    server.serve("/uc?export=download&id=key", b"", status(code))
    with pytest.raises(DownloadError, match=f"status {code}: the file's download quota"):
        transfer.fetch([drive_url + "key"], tmp_path / "file.zip")


def test_google_drives_quota_page_in_place_of_the_file_says_quota(server, drive_url, tmp_path):
    server.serve("/uc?export=download&id=key", b"", confirmation(server, "/file"))
    server.serve("/file?confirm=t", b"", page("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>"))
    with pytest.raises(DownloadError, match=r"Quota exceeded.*download quota"):
        transfer.fetch([drive_url + "key"], tmp_path / "file.zip")


def test_google_drives_form_is_filled_in_as_it_stands(server):
    page = """<!DOCTYPE html><title>Google Drive - Virus scan warning</title><form id="search"><input type="hidden"
    name="q" value="x"></form><form id="download-form" action="/download?a=1&amp;b=2"><input type="submit" name="s">
    <input type="hidden" name="id" value="1&amp;2"><input type="hidden" name="uuid" value="3-4"></form>"""
    address, _ = drive.confirmed_address("https://example.com/uc?id=x", page)
    assert address == "https://example.com/download?a=1&b=2&id=1%262&uuid=3-4"
    assert drive.confirmed_address("https://example.com/", "<title>Not\n found</title>no form") == (None, "Not found")


# --- Faults of archives -----------------------------------------------------------------------------------------------

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
    """Declare a member smaller than it is, in both of the archive's places."""
    size = len(members[0][FIRST]).to_bytes(4, "little")
    members[0] = zip_of(members[0], zipfile.ZIP_STORED).replace(size, (10).to_bytes(4, "little"))


def special(member, mode):
    def change(members):
        info = zipfile.ZipInfo(member)
        info.external_attr = mode << 16
        path = Path(tempfile.mkstemp()[1])
        path.write_bytes(zip_of(members[0]))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, "/etc/passwd")
        members[0] = path.read_bytes()
        path.unlink()

    return change


def encrypt(members):
    archive = zip_of(members[0])
    members[0] = archive.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, "damaged or no zip"),
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
        (add("../stimuli/page0.png"), "leads out of the folder"),
        (add("webpage_dataset/../../x.png"), "leads out of the folder"),
        (add("a\\..\\..\\x.png"), "leads out of the folder"),
        (add("/etc/stimuli/x.png"), "absolute path"),
        (add("C:/stimuli/x.png"), "absolute path"),
        (add("stimuli/NUL.png"), "name of a device"),
        (add("stimuli/page0.png:stream"), "name of a device"),
        (special("stimuli/x.png", stat.S_IFLNK | 0o777), "is a link or a device"),
        (special("stimuli/x.png", stat.S_IFIFO | 0o777), "is a link or a device"),
        (encrypt, "encrypted"),
        (add("stimuli/bomb.png", bytes(2_000_000)), "which no dataset needs"),
    ],
)
def test_archive_that_is_damaged_or_dangerous_makes_no_dataset(change, words, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "GREATEST_UNSUSPICIOUS_SIZE", 1_000_000)
    monkeypatch.setattr(archives, "GREATEST_RATIO", 20)
    tiny("fiwi", change)
    outside = {file.name for file in tmp_path.parent.iterdir()}
    fails("fiwi", tmp_path / "data", words, "--from")
    assert {file.name for file in tmp_path.parent.iterdir()} == outside
    left = [file for file in (tmp_path / "data").rglob("*") if file.is_file() and file.suffix != ".lock"]
    assert left == [], "what cannot be used must not be used by the next run"


def test_dataset_is_made_from_a_good_archive_after_a_damaged_one(tiny, tmp_path):
    tiny("fiwi", damage)
    fails("fiwi", tmp_path)
    tiny("fiwi")
    assert not build.incomplete(download.dataset("fiwi", tmp_path), COUNT)


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


def test_member_with_another_than_its_published_checksum_is_refused(tiny, tmp_path, monkeypatch):
    tiny("osie")
    row = DATASETS["osie"]
    archive = replace(row.archives[0], member_md5={"raw/fixations.mat": "8efdf6fe66f38b6e70f854c7ff45aa70"})
    monkeypatch.setitem(DATASETS, "osie", replace(row, archives=(archive,)))
    fails("osie", tmp_path, "fixations.mat has the wrong checksum", "expected 8efdf6fe66f38b6e70f854c7ff45aa70")


def test_unknown_checksum_is_recorded_at_first_use_and_verified_ever_after(tiny, tmp_path):
    tiny("fiwi")
    before = tree(download.dataset("fiwi", tmp_path))
    record = tmp_path / ".downloads" / "webpage_dataset.zip.md5"
    assert record.read_text(encoding="utf-8").endswith("  webpage_dataset.zip\n")
    shutil.rmtree(tmp_path / "fiwi")
    tiny("fiwi", add("webpage_dataset/readme.txt"))
    fails("fiwi", tmp_path, "wrong checksum", "first used", str(record))
    record.unlink()
    assert tree(download.dataset("fiwi", tmp_path)) == before


def test_unpacking_needs_little_memory_for_a_large_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("stimuli/large.png", bytes(64_000_000))
    tracemalloc.start()
    archives.extract(tmp_path / "large.zip", tmp_path / "out", [(r"stimuli/large\.png", "stimuli/large.png")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out" / "stimuli" / "large.png").stat().st_size == 64_000_000
    assert peak < 8_000_000


# --- Faults of the disk -----------------------------------------------------------------------------------------------


def test_too_little_free_space_is_told_before_anything_is_fetched(tiny, tmp_path, monkeypatch):
    tiny("osie")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    fails("osie", tmp_path, "1 MB are free, of which 100 must stay so", "Make room")
    assert all(file.stat().st_size < 200 for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("stage", ["unpacking", "converting"])
def test_disk_that_fills_up_is_told_and_the_next_run_continues(stage, tiny, server, tmp_path, monkeypatch):
    tiny("osie")
    expected = tree(download.dataset("osie", tmp_path / "other"))
    module, name = {"unpacking": (archives, "_unpack"), "converting": (convert, "_write_png")}[stage]
    original, calls = getattr(module, name), []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(module, name, full)
    fails("osie", tmp_path, "is full", "run the command again")
    server.requests.clear()
    assert tree(download.dataset("osie", tmp_path)) == expected
    assert server.requests == [], "the archive was there"


def test_folder_that_cannot_be_written_to_is_named(tiny, tmp_path):
    tiny("osie")
    with pytest.raises(DownloadError, match=r"cannot be written to.*-p"):
        download.dataset("osie", write(tmp_path / "file", b"") / "data")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such permissions")
def test_read_only_folder_is_named(tiny, tmp_path):
    tiny("osie")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # The administrator may write everywhere.
        with pytest.raises(DownloadError, match=r"cannot be written to.*Permission denied"):
            download.dataset("osie", folder)
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_partial_dataset_of_another_program_is_neither_used_nor_touched(tiny, server, tmp_path):
    tiny("osie")
    write(tmp_path / "osie" / "stimuli" / "1001.jpg", b"mine")
    with pytest.raises(DownloadError, match=f"1 photographs, expected {COUNT}. Rename or remove it"):
        download.dataset("osie", tmp_path)
    assert tree(tmp_path / "osie") == {"stimuli/1001.jpg": b"mine"} and server.requests == []


# --- Killed, and two at once ------------------------------------------------------------------------------------------

# Makes OSIE from the server's archive. At its stage it says so and stands still, in the middle of writing a file.
DRIVER = """
import sys, time
from dataclasses import replace
from pathlib import Path
import download, utils
from acquisition import archives, convert
from acquisition.datasets import DATASETS
folder, url, stage = sys.argv[1:]
row = DATASETS["osie"]
archive = replace(row.archives[0], urls=(url,), member_md5={})
DATASETS["osie"] = replace(row, archives=(archive,), train=3, valid=1)
def stand_still(module, name, path_of):
    original, calls = getattr(module, name), []
    def stop(*arguments):
        calls.append(name)
        if len(calls) != 3:
            return original(*arguments)
        with utils.whole_file(path_of(arguments)) as temporary:
            temporary.write_bytes(b"half")
            print("standing still", flush=True)
            time.sleep(60)
    setattr(module, name, stop)
if stage == "unpacking":
    stand_still(archives, "_unpack", lambda arguments: arguments[2])
if stage == "converting":
    stand_still(convert, "_write_png", lambda arguments: arguments[0])
download.dataset("osie", Path(folder))
"""


def start(folder, url, stage=""):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), url, stage], stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize("stage", ["downloading", "unpacking", "converting"])
def test_killed_at_any_moment_it_continues_and_ends_identical(stage, tiny, server, tmp_path):
    archive = tiny("osie", add("readme", CONTENTS))[0]
    expected = tree(download.dataset("osie", tmp_path / "other"))
    server.requests.clear()
    if stage == "downloading":
        server.serve("/slow.zip", archive, stall(len(archive) - 1000))
    else:
        server.serve("/slow.zip", archive)
    process = start(tmp_path, server.url + "/slow.zip", stage)
    if stage == "downloading":
        part = tmp_path / ".downloads" / "osie" / f"{DATASETS['osie'].archives[0].file}.part"
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
    else:
        assert "standing still" in [process.stdout.readline().strip() for _ in range(2)]
    process.kill()
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "osie").exists()

    with start(tmp_path, server.url + "/slow.zip") as process:
        assert "complete" in process.stdout.read()
    assert process.returncode == 0
    assert tree(tmp_path / "osie") == expected
    ranges = [requested for _, requested in server.requests]
    assert ranges[0] is None and len(ranges) == (2 if stage == "downloading" else 1)


def test_of_two_processes_one_works_and_the_other_waits_for_it(tiny, server, tmp_path):
    archive = tiny("osie")[0]
    both_run = threading.Event()

    def slowly(handler, contents):
        both_run.wait(60)
        loopback.whole_or_range(handler, contents)

    url = server.serve("/slow.zip", archive, slowly)
    processes = [start(tmp_path, url) for _ in range(2)]
    first_lines = {process.stdout.readline().split()[0]: process for process in processes}
    assert first_lines.keys() == {"Making", "Waiting"}
    both_run.set()
    assert [process.wait(60) for process in processes] == [0, 0]
    for process in processes:
        process.stdout.close()
    assert len(server.requests) == 1
    assert not build.incomplete(tmp_path / "osie", COUNT)


# --- By hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "mirror"])
def test_archives_from_a_folder_or_a_mirror(kind, tiny, server, tmp_path, monkeypatch):
    files = tiny("salicon")
    row = DATASETS["salicon"]
    source = tmp_path / "archives"
    for archive, file in zip(row.archives, files, strict=True):
        write(source / archive.file, file)
    dead = tuple(replace(archive, urls=("http://nowhere.invalid/x.zip",)) for archive in row.archives)
    monkeypatch.setitem(DATASETS, "salicon", replace(row, archives=dead))
    message = fails("salicon", tmp_path / "data")
    assert all(f"http://nowhere.invalid/x.zip as {archive.file}" in message for archive in dead)
    assert message.endswith(f"python main.py download -d salicon -p {tmp_path / 'data'} --from FOLDER")
    flag = str(source) if kind == "folder" else server.url
    assert main.main(["download", "-d", "salicon", "-p", str(tmp_path / "data"), "--from", flag]) == 0
    assert not build.incomplete(tmp_path / "data" / "salicon", COUNT)
    assert len(list(source.iterdir())) == 3, "what the user has fetched stays"


def test_error_is_a_short_line_and_a_list(server, tiny, tmp_path, monkeypatch, capsys):
    tiny("salicon")
    row = DATASETS["salicon"]
    dead = tuple(replace(archive, urls=(server.url + "/a", server.url + "/b")) for archive in row.archives)
    monkeypatch.setitem(DATASETS, "salicon", replace(row, archives=dead))
    assert main.main(["download", "-p", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: salicon-stimuli.zip cannot be fetched.",
        f"  {server.url}/a: the server answers 404 Not Found",
        f"  {server.url}/b: the server answers 404 Not Found",
        "  By hand: save in one folder",
        f"    {server.url}/a as salicon-stimuli.zip",
        f"    {server.url}/a as salicon-fixations.zip",
        f"    {server.url}/a as salicon-maps.zip",
        f"  and run: python main.py download -d salicon -p {tmp_path} --from FOLDER",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_pipes_are_neither_waited_for_nor_counted(tiny, tmp_path):
    archive = DATASETS["osie"].archives[0].file
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / archive)
    for source in (tmp_path / "in", tmp_path / "in" / archive):
        fails("osie", tmp_path, "is no regular file", source=str(source))
    tiny("osie")
    folder = download.dataset("osie", tmp_path)
    os.mkfifo(folder / "stimuli" / "pipe.jpg")
    assert build.incomplete(folder, COUNT) == ""


@pytest.mark.parametrize("kind", ["file", "address"])
def test_the_only_archive_of_a_dataset_by_any_name(kind, tiny, server, tmp_path):
    archive = tiny("osie")[0]
    source = str(write(tmp_path / "mine.zip", archive)) if kind == "file" else server.serve("/mine.zip?dl=1", archive)
    assert not build.incomplete(download.dataset("osie", tmp_path / "data", source), COUNT)


def test_users_archive_that_is_missing_or_wrong_is_named(tiny, tmp_path, monkeypatch):
    files = tiny("salicon")
    row = DATASETS["salicon"]
    fails("salicon", tmp_path, "nothing at", source=str(tmp_path / "nowhere"))
    write(tmp_path / "in" / row.archives[0].file, files[0])
    fails("salicon", tmp_path, f"does not hold {row.archives[1].file}", source=str(tmp_path / "in"))
    known = tuple(replace(archive, md5="0" * 32) for archive in row.archives)
    monkeypatch.setitem(DATASETS, "salicon", replace(row, archives=known))
    fails("salicon", tmp_path, "wrong checksum", source=str(tmp_path / "in"))
    fails("salicon", tmp_path, "only http and https", source="ftp://127.0.0.1")
    assert (tmp_path / "in" / row.archives[0].file).read_bytes() == files[0]


def test_one_dead_host_does_not_keep_the_other_datasets_from_being_made(tiny, server, tmp_path, capsys):
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


def test_network_of_salicon_comes_from_its_first_source(published, tmp_path):
    published({"saved_model.pb": b"graph", "model_salicon_cpu.zip": zip_of({"model_salicon_cpu.pb": b"other"})})
    assert download.weights("model_salicon_cpu", tmp_path) == tmp_path / "saved_model.pb"
    assert (tmp_path / "saved_model.pb").read_bytes() == b"graph"


@pytest.mark.parametrize("layout", ["cpu", "gpu"])
def test_network_comes_in_the_other_layout_where_its_own_cannot_be_had(published, server, tmp_path, layout):
    published({f"model_osie_{layout}.zip": zip_of({f"weights/model_osie_{layout}.pb": b"graph"})})
    path = download.weights("model_osie_cpu", tmp_path)
    assert path == tmp_path / f"model_osie_{layout}.pb" and path.read_bytes() == b"graph"
    server.requests.clear()
    assert download.weights("model_osie_cpu", tmp_path) == path and server.requests == []


def test_vgg16_comes_as_a_checkpoint_or_else_as_keras_has_it(published, tmp_path):
    members = {f"vgg16_hybrid.ckpt.{suffix}": b"x" for suffix in ("data-00000-of-00001", "index", "meta")}
    published({"vgg16_hybrid.zip": zip_of(members), datasets.KERAS_VGG16.file: b"\x89HDF..."})
    assert download.weights("vgg16_hybrid", tmp_path) == tmp_path / "vgg16_hybrid.ckpt"
    names = {file.name for file in tmp_path.iterdir() if file.is_file()}
    assert names == {"vgg16_hybrid.ckpt.index", "vgg16_hybrid.ckpt.data-00000-of-00001"}
    published({"vgg16_hybrid.zip": zip_of({"readme": b"x"})})
    assert download.weights("vgg16_hybrid", tmp_path / "other").suffix == ".h5"


def test_weights_from_an_archive_by_hand(tmp_path):
    archive = write(tmp_path / "model_fiwi_gpu.zip", zip_of({"model_fiwi_gpu.pb": b"graph"}))
    assert main.main(["download", "-d", "fiwi", "--weights", "-p", str(tmp_path / "w"), "--from", str(tmp_path)]) == 0
    assert (tmp_path / "w" / "model_fiwi_gpu.pb").read_bytes() == b"graph" and archive.exists()


def test_without_a_network_the_weights_are_told_how_to_be_had(tmp_path):
    with pytest.raises(DownloadError) as error:
        download.weights("model_salicon_cpu", tmp_path)
    for word in ("huggingface.co", "as model_salicon_cpu.zip", "is there a network", "-d salicon --weights --from"):
        assert word in str(error.value)
    assert not [file for file in tmp_path.iterdir() if file.name != ".downloads"]


def test_prediction_and_training_fetch_the_weights_they_lack(published, tmp_path, monkeypatch):
    import checkpoint

    published({"saved_model.pb": b"graph", datasets.KERAS_VGG16.file: b"\x89HDF..."})
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path)
    choice = checkpoint.choose_weights("custom", results=tmp_path)
    assert choice == checkpoint.Choice(tmp_path / "saved_model.pb", "the published network for salicon")
    assert checkpoint.vgg16_weights().reason == "Keras' ImageNet VGG16"


def test_prediction_without_a_network_says_why_it_uses_the_lite_network(tmp_path, monkeypatch):
    import checkpoint

    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr(checkpoint, "LITE_PATH", write(tmp_path / "lite.npz", b""))
    choice = checkpoint.choose_weights("osie", results=tmp_path)
    assert choice.path.name == "lite.npz"
    assert choice.reason.endswith("as the published one cannot be had: drive.google.com cannot be reached")
    with pytest.raises(DownloadError, match="model_osie_cpu cannot be had"):
        checkpoint.choose_weights("osie", "published", results=tmp_path)
