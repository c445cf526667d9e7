"""An HTTP server on this machine that misbehaves as told."""

import contextlib
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Loopback:
    """Serves `files` by path. `faults[path]` are used up first, one a request: functions of the handler and the file.

    `requests` lists (path, the header Range or None) of all that was asked for.
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
        """Add a file and how the first requests for it fail; returns its address."""
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
            # The other side may hang up, or be killed.
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
    """What a good server does."""
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
    """Promise all, give `count` bytes, and hang up."""

    def fault(handler, contents):
        answer(handler, contents[:count], Content_Length=str(len(contents)), ETag=tag)

    return fault


def partly(count: int, end: int | None = None):
    """Promise the rest from the requested byte on, send `count` bytes, at most up to byte `end`, and hang up."""

    def fault(handler, contents):
        start = first_byte(handler) or 0
        headers = {"Content_Length": str(len(contents) - start), "ETag": '"first"'}
        headers |= {"Content_Range": content_range(start, contents)}
        answer(handler, contents[start : start + count][: end and end - start], 206 if start else 200, **headers)

    return fault


def stall(count: int):
    """Give `count` bytes, then nothing until the server is closed."""

    def fault(handler, contents):
        answer(handler, contents[:count], Content_Length=str(len(contents)), ETag='"first"')
        handler.wfile.flush()
        handler.loopback.released.wait(60)

    return fault


def without_range(handler, contents):
    answer(handler, contents)


def false_range(handler, contents):
    """Claim to continue, but from the beginning."""
    answer(handler, contents, 206, Content_Range=content_range(0, contents))


def false_bytes(handler, contents):
    """Claim to continue where asked, but send the beginning."""
    start = first_byte(handler)
    answer(handler, contents[: len(contents) - start], 206, Content_Range=content_range(start, contents))


def short_range(handler, contents):
    """Continue where asked, but with less than all of the rest, as a server may."""
    start = first_byte(handler)
    body = contents[start : start + 50_000]
    answer(handler, body, 206, Content_Range=f"bytes {start}-{start + len(body) - 1}/{len(contents)}")


def redirect(url: str):
    return lambda handler, contents: answer(handler, b"", 302, Location=url)


def drip(handler, contents):
    """Give a byte at a time, none of them late enough for a time-out."""
    answer(handler, contents[:2], Content_Length=str(len(contents)))
    _drip(handler)


def drip_headers(handler, contents):
    """Begin an answer, and never come to its end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nServer: ")
    _drip(handler)


def _drip(handler) -> None:
    for _ in range(100):  # Whoever waits for all of it fails, and does not hang.
        handler.loopback.released.wait(0.02)
        handler.wfile.write(b"x")
        handler.wfile.flush()


def without_end(handler, contents):
    """The file, and then more and more, as a server may that has not said how much there will be."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(contents)
    pour(handler)


def pour(handler) -> None:
    """Zeros, more than anyone should take."""
    for _ in range(1000):
        handler.wfile.write(bytes(1 << 16))
