"""Transfers: faults of networks and servers, resuming, certificates, and Google Drive."""

import contextlib
import hashlib
import json
import shutil
import socket
import ssl
import threading
from pathlib import Path

import loopback
import numpy as np
import pytest
import trustme
from conftest import write
from loopback import Loopback, cut, page, partly, redirect, stall, status
from tiny_archives import fails

from msinet import main
from msinet.acquisition import drive, hosts, transfer
from msinet.utils import DownloadError, NoSpaceError

CONTENTS = b"PK" + np.random.default_rng(0).bytes(300_000)
BROKEN = 6 * transfer.PIECE  # where a connection breaks
RESUMED = f"bytes={BROKEN - 1000}-"
MD5 = hashlib.md5(CONTENTS).hexdigest()


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
    for other, words in ((url, "is not an address"), ("file:///etc/passwd", "expected an http or https address")):
        with pytest.raises(DownloadError, match=words):
            transfer.fetch([other], tmp_path / "file.zip")


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
    with contextlib.closing(Loopback(context)) as secure:
        url = secure.serve("/file.zip", CONTENTS)
        for md5, known in ((None, True), (MD5, False)):
            with pytest.raises(DownloadError, match="certificate is not valid"):
                transfer.fetch([url], tmp_path / "file.zip", md5, certificate_is_invalid=known)
        assert transfer.fetch([url], tmp_path / "file.zip", MD5, certificate_is_invalid=True) == MD5
        assert "warning: the certificate of 127.0.0.1 is invalid" in capsys.readouterr().err
        with pytest.raises(DownloadError, match="wrong checksum"):
            transfer.fetch([url], tmp_path / "other.zip", "0" * 32, certificate_is_invalid=True)


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
