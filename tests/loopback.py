"""An HTTP server on this machine that fails as configured."""

import contextlib
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Loopback:
    """Serves `files` by path. The first requests use `faults[path]`, one each: functions of the handler and the file.

    `requests` lists (path, the header Range or None) of every request.
    """

    def __init__(self, context=None):
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, list] = defaultdict(list)
        self.requests: list[tuple[str, str | None]] = []
        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, path: str, contents: bytes, *faults) -> str:
        """Add a file, and the faults of the first requests for it; returns its address."""
        self.files[path] = contents
        self.faults[path] = list(faults)
        return self.url + path

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


def _handler(loopback: Loopback):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            loopback.requests.append((self.path, self.headers["Range"]))
            contents = loopback.files.get(self.path)
            fault = loopback.faults[self.path].pop(0) if loopback.faults[self.path] else None
            # The client may disconnect, or be killed.
            with contextlib.suppress(ConnectionError):
                if fault:
                    fault(self, contents)
                elif contents is None:
                    answer(self, b"", 404)
                else:
                    whole_or_range(self, contents)

        def log_message(self, *arguments):
            pass

    Handler.loopback = loopback
    return Handler


def answer(handler, body: bytes, code: int = 200, **headers) -> None:
    handler.send_response(code)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def whole_or_range(handler, contents: bytes, tag: str = '"first"') -> None:
    """The response of a correct server."""
    start = first_byte(handler)
    if start is None or handler.headers["If-Range"] not in (None, tag):
        answer(handler, contents, ETag=tag)
    elif start >= len(contents):
        answer(handler, b"", 416)
    else:
        answer(handler, contents[start:], 206, Content_Range=content_range(start, contents), ETag=tag)


def first_byte(handler) -> int | None:
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
    return int(match[1]) if match else None


def content_range(start: int, contents: bytes) -> str:
    return f"bytes {start}-{len(contents) - 1}/{len(contents)}"


# --- Faults -----------------------------------------------------------------------------------------------------------


def status(code: int):
    return lambda handler, contents: answer(handler, b"", code)


def page(text: str, code: int = 200):
    return lambda handler, contents: answer(handler, text.encode(), code, Content_Type="text/html; charset=utf-8")


def cut(count: int, tag: str = '"first"'):
    """Announce the whole file, send `count` bytes, and disconnect."""

    def fault(handler, contents):
        answer(handler, contents[:count], Content_Length=str(len(contents)), ETag=tag)

    return fault


def partly(count: int, end: int | None = None):
    """Announce the rest from the requested byte on, send `count` bytes, at most up to byte `end`, and disconnect."""

    def fault(handler, contents):
        start = first_byte(handler) or 0
        headers = {"Content_Length": str(len(contents) - start), "ETag": '"first"'}
        headers |= {"Content_Range": content_range(start, contents)}
        answer(handler, contents[start : start + count][: end and end - start], 206 if start else 200, **headers)

    return fault


def stall(count: int):
    """Send `count` bytes, then nothing until the server is closed."""

    def fault(handler, contents):
        answer(handler, contents[:count], Content_Length=str(len(contents)), ETag='"first"')
        handler.wfile.flush()
        handler.loopback.released.wait(60)

    return fault


without_range = answer


def false_range(handler, contents):
    """Announce a range, but from the beginning."""
    answer(handler, contents, 206, Content_Range=content_range(0, contents))


def false_bytes(handler, contents):
    """Announce the requested range, but send the beginning."""
    start = first_byte(handler)
    answer(handler, contents[: len(contents) - start], 206, Content_Range=content_range(start, contents))


def short_range(handler, contents):
    """Send only a part of the requested range, as servers may."""
    start = first_byte(handler)
    body = contents[start : start + 50_000]
    answer(handler, body, 206, Content_Range=f"bytes {start}-{start + len(body) - 1}/{len(contents)}")


def redirect(url: str):
    return lambda handler, contents: answer(handler, b"", 302, Location=url)


def drip(handler, contents):
    """Send a byte at a time, too fast for a timeout."""
    answer(handler, contents[:2], Content_Length=str(len(contents)))
    _drip(handler)


def drip_headers(handler, contents):
    """Start a response whose headers never end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nServer: ")
    _drip(handler)


def _drip(handler) -> None:
    for _ in range(100):  # Limited, so a client that waits for all of it fails instead of hanging.
        handler.loopback.released.wait(0.02)
        handler.wfile.write(b"x")
        handler.wfile.flush()


def without_end(handler, contents):
    """The file and then endless zeros, without an announced size."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(contents)
    pour(handler)


def pour(handler) -> None:
    """Zeros, more than a client should accept."""
    for _ in range(1000):
        handler.wfile.write(bytes(1 << 16))
