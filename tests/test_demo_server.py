"""The browser demo's server, without a browser: which requests it answers, its files, and its lifetime."""

import contextlib
import http.client
import socket

import pytest
from browser import serving
from conftest import write

from msinet import main
from msinet.phases import demo


@pytest.fixture
def port(tmp_path):
    write(tmp_path / "demo" / "index.html", b"the page")
    write(tmp_path / "secret.html", b"the user's own")
    with serving(tmp_path / "demo") as address:
        yield int(address.rsplit(":", 1)[1].strip("/"))


def ask(port: int, path: str = "/", **headers) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    with connection.getresponse() as response:
        return response, response.read()


def get(port: int, path: str = "/", **headers) -> tuple[int, bytes]:
    response, contents = ask(port, path, **headers)
    return response.status, contents


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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "text/html"),
        ("page.js", "text/javascript"),
        ("page.css", "text/css"),
        ("config.json", "application/json"),
        ("example.jpg", "image/jpeg"),
        ("icon.svg", "image/svg+xml"),
        ("tensorflow/tfjs-backend-wasm-simd.wasm", "application/wasm"),
        ("network0/group1-shard1of1.bin", "application/octet-stream"),
    ],
)
def test_server_names_types_and_isolates_the_page(port, tmp_path, name, kind):
    if name:
        write(tmp_path / "demo" / name, b"contents")
    response, _ = ask(port, f"/{name}", Host="localhost")
    assert (response.status, response.headers.get_content_type()) == (200, kind)
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_only_files_of_the_folder_are_served(port, tmp_path):
    write(tmp_path / "demo" / "network0" / "model.json", b"{}")
    outside = ("/../secret.html", "/%2e%2e/secret.html", "/main.py", "/config.json%00.html", "/%ff")
    for path in ("/network0/", *outside):
        assert get(port, path, Host="localhost")[0] == 404


def test_only_disconnected_browsers_are_not_reported(tmp_path, capfd):
    with demo.make_server(tmp_path, 0) as server:
        for error, words in (
            (ConnectionResetError("gone"), ""),
            (TimeoutError(), ""),
            (ZeroDivisionError("a fault"), "a fault"),
        ):
            try:
                raise error
            except Exception:
                server.handle_error(None, ("127.0.0.1", 1))
            written = capfd.readouterr().err
            assert words in written and bool(words) == bool(written)


def test_taken_port_is_a_clear_error_and_leaves_the_other_servers_folder(port, tmp_path, capsys):
    config = write(tmp_path / "demo" / "config.json", b"of the server that has the port")
    assert main.main(["demo", "--port", str(port), "--no-browser", "--results", str(tmp_path)]) == 2
    assert str(port) in capsys.readouterr().err
    assert sorted(file.name for file in config.parent.iterdir()) == ["config.json", "index.html"]
    assert config.read_bytes() == b"of the server that has the port"


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
