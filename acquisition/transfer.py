"""Downloads: resume an interrupted one, verify the checksum, and report why one failed.

An unfinished file is `<name>.part`, with `<name>.part.json` next to it. It is renamed when it is complete and its
checksum is right.
"""

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from ..listing import hash_files
from ..progress import ProgressBar
from ..utils import DownloadError, NoSpaceError, check_space, write_json
from . import drive
from .hosts import CONNECT_SECONDS, Session, check_address, unreachable

READ_SECONDS = 30  # timeout between two bytes
ATTEMPTS = 5  # in a row without progress, at each source
BACK_OFF_SECONDS = 1.0  # pause before the second attempt; doubles with each further one
PIECE = 1 << 15  # bytes, from the network

# Minimum speed: one piece in this time. An attempt that receives less made no progress.
SLOWEST_SECONDS = 60

# A resumed download repeats the last bytes of the partial file, to check that it is still the same file.
OVERLAP = 4096  # bytes

# What must stay free on the disk, and how often this is checked: some servers do not announce the size of a file, and
# other programs write to the disk too.
RESERVE = 100_000_000  # bytes
CHECK_EVERY = 8_000_000  # bytes

# The first bytes of files, by suffix. Moved files are often replaced by a web page.
SIGNATURES = {".zip": b"PK", ".h5": b"\x89HDF"}


class SourceError(Exception):
    """A source does not have the file; another attempt would not help."""


class TemporaryError(Exception):
    """An attempt failed; another one may succeed."""


def fetch(
    urls: Sequence[str],
    path: Path,
    md5: str | None = None,
    *,
    certificate_is_invalid: bool = False,
    dead: Mapping[str, str] | None = None,
) -> str:
    """Download a file from the first http or https address that works, resuming an earlier download; returns its MD5.

    Args:
        path: the file to write; its folder exists.
        md5: the expected checksum in hexadecimal, if known.
        certificate_is_invalid: the hosts' certificates are known to be invalid; `md5` replaces them.
        dead: the result of `hosts.unreachable` for these addresses, if it is known already.

    Raises:
        DownloadError: all sources failed; the details list each failure.
        OSError: the disk is full, or the folder is not writable.
    """
    for url in urls:
        check_address(url)
    dead = unreachable(urls) if dead is None else dead
    failures = []
    for url in urls:
        try:
            if url in dead:
                raise SourceError(dead[url])
            return _fetch_from(url, path, md5, certificate_is_invalid and md5 is not None)
        except SourceError as error:
            failures.append(f"{url}: {error}")
    raise DownloadError(f"{path.name} could not be downloaded.", failures, "; ".join(failures))


# --- One source -------------------------------------------------------------------------------------------------------


class Part:
    """The partial file of a download to `path`, and what the server said about the complete one."""

    def __init__(self, path: Path, url: str):
        self.path, self.url = path.with_name(path.name + ".part"), url
        self.info_path = path.with_name(path.name + ".part.json")
        self.info: dict = {}
        with contextlib.suppress(OSError, ValueError):
            info = json.loads(self.info_path.read_text(encoding="utf-8"))
            # Another source may have another version.
            if info["url"] == url and self.path.exists():
                self.info = info
        if "total" not in self.info:
            self.restart()
        self.size = self.path.stat().st_size
        self.resumed = self.size > 0  # from an earlier run, which may have left damaged bytes

    def restart(self) -> None:
        """Start again with an empty file."""
        self.path.write_bytes(b"")
        self.info, self.size, self.resumed = {}, 0, False

    def describe(self, total: int | None, validator: str | None) -> None:
        """Record what the server said, so another run can resume."""
        self.info = {"url": self.url, "total": total, "validator": validator}
        write_json(self.info_path, self.info)

    def tail(self) -> bytes:
        """The last bytes, which a resumed download repeats."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.size - OVERLAP))
            return file.read()


def _fetch_from(url: str, path: Path, md5: str | None, certificate_is_invalid: bool) -> str:
    """Download from one source, until `ATTEMPTS` in a row make no progress."""
    part = Part(path, url)
    furthest, failed, verify = part.size, 0, True
    while True:
        try:
            if not part.size or part.size != part.info.get("total"):
                with Session() as session:
                    _receive(session, part, path.suffix, verify)
            received, resumed = hash_files([part.path], "md5").hexdigest(), part.resumed
            if md5 in (None, received):
                part.path.replace(path)
                part.info_path.unlink(missing_ok=True)
                return received
            part.restart()
            kind, when = (TemporaryError, " after resuming") if resumed else (SourceError, "")
            raise kind(f"wrong checksum{when}: received MD5 {received}, expected {md5}")
        except requests.exceptions.SSLError as error:
            if not (certificate_is_invalid and verify):
                raise SourceError(f"its certificate is not valid ({_first_line(error)})") from error
            host = urlsplit(url).hostname
            print(
                f"warning: the certificate of {host} is invalid, as expected; the file's checksum is verified instead.",
                file=sys.stderr,
            )
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # The line above is the warning.
            verify = False
        except TemporaryError as error:
            if part.size >= furthest + PIECE:
                furthest, failed = part.size, 0
            failed += 1
            if failed == ATTEMPTS:
                raise SourceError(f"{error}; gave up after {ATTEMPTS} attempts without progress") from error
            time.sleep(BACK_OFF_SECONDS * 2 ** (failed - 1))


def _receive(session: requests.Session, part: Part, suffix: str, verify: bool) -> None:
    """Send one request, and append the response to the partial file."""
    tail = part.tail()
    headers = {"Accept-Encoding": "identity"}
    if tail:
        headers["Range"] = f"bytes={part.size - len(tail)}-"
        if part.info.get("validator"):
            headers["If-Range"] = part.info["validator"]
    try:
        url = _drive_file(session, part.url) if drive.is_on_drive(part.url) else part.url
        with _ask(session, url, headers=headers, verify=verify) as response:
            if response.status_code == 416:
                part.restart()
                raise TemporaryError("the file on the server is shorter than the partial file")
            _check_status(response, part.url)
            total = _total_size(response)
            if tail and not _continues(response, part, len(tail)):
                part.restart()
                tail = b""
                if response.status_code != 200:  # Another part of the file.
                    raise TemporaryError("the server did not send the requested range")
            part.describe(total, _validator(response))
            check_space(part.path.parent, max(0, (total or 0) - part.size), f"fetching {part.path.stem}", RESERVE)
            part.resumed = bool(tail)
            _append(response, part, tail, suffix)
    except requests.exceptions.SSLError as error:
        if "certificate" in str(error).lower():
            raise
        raise TemporaryError(f"the encrypted connection failed ({_first_line(error)})") from error
    except (requests.exceptions.InvalidSchema, requests.exceptions.TooManyRedirects, ValueError) as error:
        raise SourceError(f"it redirects to an invalid address ({_first_line(error)})") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        timeouts = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)
        if isinstance(error, timeouts) or "timed out" in str(error):
            raise TemporaryError(f"no data within {READ_SECONDS:g} s, at {part.size:,} bytes") from error
        raise TemporaryError(f"the connection was lost at {part.size:,} bytes") from error


def _append(response: requests.Response, part: Part, tail: bytes, suffix: str) -> None:
    total = part.info["total"]
    with (
        part.path.open("ab") as file,
        ProgressBar(total=total, initial=part.size, unit="B", unit_scale=True, desc=part.path.stem) as bar,
    ):
        for chunk in _pieces(response):
            if tail:
                repeated, chunk = chunk[: len(tail)], chunk[len(tail) :]
                if not tail.startswith(repeated):
                    part.restart()
                    raise TemporaryError("the file on the server has changed since the download started")
                tail = tail[len(repeated) :]
            if part.size == 0 and chunk:
                _check_signature(response, part, chunk, suffix)
            if part.size // CHECK_EVERY != (part.size + len(chunk)) // CHECK_EVERY:
                _check_free_space(part)
            file.write(chunk)
            part.size += len(chunk)
            bar.update(len(chunk))
            if total is not None and part.size > total:
                break
    if total is not None and part.size != total:
        received = part.size
        if received > total:
            part.restart()
        raise TemporaryError(f"received {received:,} bytes of {total:,}")
    part.describe(part.size, None)


def _ask(session: requests.Session, url: str, **options) -> requests.Response:
    """Send a request, with a limit on the total time until the response starts; `timeout` limits each byte."""
    answers: list = []

    def ask() -> None:
        try:
            answers.append(session.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS), **options))
        except BaseException as error:
            answers.append(error)

    # A daemon thread, so the program can exit without waiting for the server.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SLOWEST_SECONDS)
    if not answers:
        raise TemporaryError(f"no complete response within {SLOWEST_SECONDS:g} s")
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body in pieces of any size, as long as it arrives at the minimum speed."""
    since, received = time.monotonic(), 0
    while piece := response.raw.read1(PIECE, decode_content=True):
        yield piece
        received += len(piece)
        if received >= PIECE:
            since, received = time.monotonic(), 0
        elif time.monotonic() - since > SLOWEST_SECONDS:
            raise TemporaryError(f"less than {PIECE:,} bytes within {SLOWEST_SECONDS:g} s")


def _check_free_space(part: Part) -> None:
    try:
        check_space(part.path.parent, 0, f"fetching {part.path.stem}", RESERVE)
    except NoSpaceError:
        if part.info["total"] is None:  # The body may be endless, and must not keep the disk full.
            part.restart()
        raise


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in (403, 429) and drive.is_on_drive(url):
        raise SourceError(drive.quota_message(url, f" of status {status}"))
    if status == 429 or status >= 500:
        raise TemporaryError(f"the server responded {status} {response.reason}")
    if status not in (200, 206):
        raise SourceError(f"the server responded {status} {response.reason}")


def _total_size(response: requests.Response) -> int | None:
    """The size of the whole file, if the server states it."""
    length = response.headers.get("Content-Length", "")
    if response.status_code == 206:
        length = response.headers.get("Content-Range", "").rpartition("/")[2]
    elif response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    return int(length) if length.isdecimal() else None


def _validator(response: requests.Response) -> str | None:
    """The value for `If-Range`, which asks whether the file is unchanged; weak ETags are not allowed there."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified") if tag.startswith("W/") else tag


def _continues(response: requests.Response, part: Part, overlap: int) -> bool:
    """Whether the response is the rest of the same file, according to the server."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code != 206 or not match or int(match[1]) != part.size - overlap:
        return False
    return part.info["total"] is None or match[2] == str(part.info["total"])


def _check_signature(response: requests.Response, part: Part, beginning: bytes, suffix: str) -> None:
    is_page = beginning[:512].lstrip().lower().startswith((b"<!doctype", b"<html"))
    is_page |= suffix not in SIGNATURES and "text/html" in response.headers.get("Content-Type", "")
    if not is_page and beginning.startswith(SIGNATURES.get(suffix, b"")):
        return
    title = re.search(rb"<title[^>]*>\s*([^<]{1,120})", beginning, re.IGNORECASE)
    titled = f" titled '{title[1].decode(errors='replace').strip()}'" if title else ""
    if is_page and drive.is_on_drive(part.url):
        raise SourceError(drive.quota_message(part.url, titled))
    raise SourceError(f"received {'a web page' + titled if is_page else 'something else'} instead of a {suffix} file")


def _drive_file(session: requests.Session, url: str) -> str:
    """The address of a file on Google Drive, which may be behind a confirmation page."""
    with _ask(session, url) as response:
        _check_status(response, url)
        if "text/html" not in response.headers.get("Content-Type", ""):
            return url
        page = b""
        for piece in _pieces(response):
            page += piece
            if len(page) > 1_000_000:
                break
    address, message = drive.confirmed_address(url, page.decode("utf-8", errors="replace"))
    if address is None:
        raise SourceError(drive.quota_message(url, f" that says '{message}'" if message else ""))
    return address


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
