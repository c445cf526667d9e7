"""The browser demo's server, without a browser: which requests it answers, its files, and its lifetime."""

import contextlib
import http.client
import socket

import pytest
from browser import serving
from conftest import write

from msinet.phases import demo


@pytest.fixture
def port(tmp_path):
    write(tmp_path / "demo" / "index.html", b"the page")
    write(tmp_path / "secret.html", b"the user's own")
    with serving(tmp_path / "demo") as address:
        yield int(address.rsplit(":", 1)[1].strip("/"))


def get(port: int, path: str = "/", **headers) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    with response:
        return response.status, response.read()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "", None]
)
def test_requests_for_other_hosts_are_rejected(port, host):
    status, body = get(port, **({} if host is None else {"Host": host}))
    assert status == 421 and b"the page" not in body


def test_requests_for_this_computer_are_answered(port):
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LocalHost"):
        assert get(port, Host=host) == (200, b"the page")


def test_links_out_of_the_folder_are_not_followed(port, tmp_path):
    folder = tmp_path / "demo"
    try:
        (folder / "out.html").symlink_to(tmp_path / "secret.html")
    except OSError:
        pytest.skip("This system or user cannot make links.")
    (folder / "parent").symlink_to(tmp_path)
    (folder / "within.html").symlink_to(folder / "index.html")
    (folder / "loop.html").symlink_to(folder / "loop.html")
    (folder / "sub").mkdir()
    (folder / "sub" / "index.html").symlink_to(tmp_path / "secret.html")
    for path in ("/out.html", "/parent/secret.html", "/loop.html", "/sub/"):
        status, body = get(port, path, Host="localhost")
        assert status == 404 and b"own" not in body
    assert get(port, "/within.html", Host="localhost") == (200, b"the page")


def test_slow_request_is_cut_off_although_bytes_keep_coming(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.Handler, "timeout", 1)
    write(tmp_path / "index.html", b"the page")
    with serving(tmp_path) as address:
        port = int(address.rsplit(":", 1)[1].strip("/"))
        with socket.create_connection(("127.0.0.1", port), timeout=0.05) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nName: ")
            for _ in range(2000):
                try:
                    slow.sendall(b"a")
                    assert slow.recv(1) == b""
                    break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            else:
                pytest.fail("The server still waits for the rest of the request.")
        assert get(port, Host="localhost") == (200, b"the page")


def test_idle_connections_are_few_and_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(demo.Handler, "timeout", 0.5)
    write(tmp_path / "index.html", b"the page")
    with serving(tmp_path) as address:
        port = int(address.rsplit(":", 1)[1].strip("/"))
        idle = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(40)]
        for i, connection in enumerate(idle):
            connection.send(b"GET / HTTP/1.1\r\n") if i < 3 else None
        for connection in reversed(idle):
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b""  # Closed by the server: the last ones at once.
            connection.close()
        for _ in range(1000):
            try:
                assert get(port, Host="localhost") == (200, b"the page")
                break
            except (ConnectionError, http.client.HTTPException):
                continue
        else:
            pytest.fail("The server no longer answers.")
