"""Hosts on the internet: what is an address, and which of them answer."""

import socket
import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import requests

from utils import DownloadError

CONNECT_SECONDS = 4  # until a host must have answered; what has no network is told within 5 seconds


def check_address(url: str) -> None:
    """Raise for what is no address of a file on the internet.

    Raises:
        DownloadError: it says what was received.
    """
    try:
        address = urlsplit(url)
        if address.scheme not in ("http", "https"):
            raise DownloadError(f"{url} is refused: only http and https addresses are fetched.")
        # What a host's name or its port may not be shows when they are asked for.
        good = bool(address.hostname and address.hostname.encode("idna")) and address.port != 0
    except ValueError:
        good = False
    if not good:
        raise DownloadError(f"{url} is no address, expected one such as https://example.com/file.zip.")


def unreachable(urls: Sequence[str]) -> dict[str, str]:
    """The addresses whose hosts do not accept a connection, with the reason.

    All are tried at once, and looking up a name counts too, as it has no time limit of its own: the answer comes
    within `CONNECT_SECONDS`.
    """
    reasons = dict.fromkeys(urls, f"no answer within {CONNECT_SECONDS:g} s")

    def connect(url: str) -> None:
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
        address = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}" if proxy else url)
        port = address.port or {"https": 443}.get(address.scheme, 80)
        try:
            # Half, as a host may have two addresses of which one is dead.
            socket.create_connection((address.hostname, port), timeout=CONNECT_SECONDS / 2).close()
            reasons.pop(url, None)
        except socket.gaierror:
            reasons[url] = f"the name {address.hostname} is unknown; is there a network?"
        except TimeoutError:
            pass
        except (OSError, ValueError) as error:
            reasons[url] = getattr(error, "strerror", None) or str(error)

    # Threads of a pool would be waited for when the program ends.
    threads = [threading.Thread(target=connect, args=(url,), daemon=True) for url in reasons]
    deadline = time.monotonic() + CONNECT_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(reasons)
