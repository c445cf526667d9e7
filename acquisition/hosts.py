"""Addresses on the internet: whether they are valid, and whether their hosts answer."""

import ipaddress
import socket
import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import requests

from ..utils import DownloadError

CONNECT_SECONDS = 4  # for a host to answer; a missing network is reported within 5 seconds


def check_address(url: str) -> None:
    """Raise a `DownloadError` that says what was received, unless a text is an http or https address."""
    try:
        address = urlsplit(url)
        if address.scheme not in ("http", "https"):
            raise DownloadError(f"{url} was rejected, expected an http or https address.")
        # Invalid host names and ports raise here.
        good = bool(address.hostname and address.hostname.encode("idna")) and address.port != 0
    except ValueError:
        good = False
    if not good:
        raise DownloadError(f"{url} is not an address, expected one like https://example.com/file.zip.")


def is_internal(url: str) -> bool:
    """Whether an address is on this computer or in its local network, rather than on the internet."""
    host = urlsplit(url).hostname or ""
    try:
        found = [host] if ":" in host else [str(row[4][0]) for row in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):  # A proxy may know the name.
        found = []
    return any(not ipaddress.ip_address(address.partition("%")[0]).is_global for address in found)


class Session(requests.Session):
    """A session that does not follow redirects from the internet into the local network."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Requests calls it before it follows a redirect."""
        target = prepared_request.url or ""
        if is_internal(target) and not is_internal(response.url):
            raise requests.exceptions.InvalidURL(f"{target} is in the local network")
        super().rebuild_auth(prepared_request, response)


def unreachable(urls: Sequence[str]) -> dict[str, str]:
    """The addresses whose hosts do not accept a connection, with the reason.

    All are tried in parallel. The result is there within `CONNECT_SECONDS`, including name look-ups, which have no
    time limit.
    """
    reasons = dict.fromkeys(urls, f"no answer within {CONNECT_SECONDS:g} s")

    def connect(url: str) -> None:
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
        address = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}" if proxy else url)
        port = address.port or {"https": 443}.get(address.scheme, 80)
        try:
            # Half, because one of a host's two addresses may be dead.
            socket.create_connection((address.hostname, port), timeout=CONNECT_SECONDS / 2).close()
            reasons.pop(url, None)
        except socket.gaierror:
            reasons[url] = f"the name {address.hostname} is unknown; is there a network?"
        except TimeoutError:
            pass
        except (OSError, ValueError) as error:
            reasons[url] = getattr(error, "strerror", None) or str(error)

    # Not a pool, whose threads would delay the end of the program.
    threads = [threading.Thread(target=connect, args=(url,), daemon=True) for url in reasons]
    deadline = time.monotonic() + CONNECT_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(reasons)
