"""The `demo` phase: write the browser demo as a folder, and serve it on this computer."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import socket
import sys
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path

import matplotlib

from ..bundled import BUNDLED, name_of
from ..config import DEMO_SIZES
from ..map_files import OVERLAY_COLORS
from ..network import Network, load
from ..photographs import sample_photograph
from ..utils import UserError, check_replaceable, whole_folder
from .formats.node import DEMO_FOLDER, NODE_FOLDER, install_node_packages
from .formats.tfjs import write_tfjs

# The page's files in `demo/`; the others there are for npm and Node.
PAGE_SUFFIXES = (".html", ".css", ".js", ".svg", ".jpg")

# The page reads it first: sizes, colors, networks, and the addresses of TensorFlow.js. It marks a folder as a demo.
CONFIG_FILE = "config.json"

# Browsers load TensorFlow.js from here if npm is not installed. They check each file against its hash.
CDN = "https://cdn.jsdelivr.net/npm"

# Half the download of float32; the maps differ by less than 1e-3.
BITS = 16

CONTENT_TYPES = {
    ".bin": "application/octet-stream",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}

# The first two allow WebAssembly to use several threads. The last keeps the page from contacting other servers.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; style-src 'self'; "
    f"img-src 'self' blob: data:; media-src 'self' blob:; worker-src 'self' blob:; connect-src 'self' blob: {CDN}/",
}


@dataclass(frozen=True)
class Options:
    """The flags of `demo`; `params` is `config.PARAMS` with the user's changes."""

    params: dict
    data: str = "salicon"
    weights: str | None = None
    port: int = 8000
    static: Path | None = None
    no_browser: bool = False


def run(options: Options) -> None:
    """Write the demo, then serve it until it is interrupted; with `--static`, only write it.

    Raises:
        UserError: there are no weights, the folder contains other files, or the port is taken.
    """
    results = Path(options.params["results"])
    if options.static:
        check_replaceable(options.static, CONFIG_FILE)
        networks = choose_networks(options.data, options.weights, results)
        write_demo(options.static, networks, sample_photograph(), offline=True)
        print(f"The demo is in {options.static}: any web server or static hosting can serve it.")
        return
    folder = results / "demo"
    with make_server(folder, options.port) as server:  # First: a running server may use the folder, and has the port.
        check_replaceable(folder, CONFIG_FILE)
        write_demo(folder, choose_networks(options.data, options.weights, results), sample_photograph())
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        print(f"The demo runs at {address} until you press Ctrl+C.", flush=True)
        if not options.no_browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def choose_networks(data: str, weights: str | None, results: Path) -> list[Network]:
    """The networks that the page offers: the one that `--weights` names, or the lite network and the best available."""
    best = load(weights, data=data, results=results, device="cpu")
    if weights or best.weights.path == BUNDLED["lite"] or not BUNDLED["lite"].exists():
        return [best]
    return [load("lite", data=data, results=results, device="cpu"), best]


# --- The folder -------------------------------------------------------------------------------------------------------


def write_demo(folder: Path, networks: list[Network], photograph: Path, *, offline: bool = False) -> None:
    """Write all files that the page needs; on failure the folder stays as it was.

    The page offers the networks, starts with the first, and shows the photograph as its example. If it is `offline`,
    browsers cache it with its first network, so it opens without a connection too.
    """
    libraries = json.loads((DEMO_FOLDER / "libraries.json").read_text(encoding="utf-8"))
    installed = _install_libraries()
    with whole_folder(folder) as temporary:
        for file in DEMO_FOLDER.iterdir():
            if file.suffix in PAGE_SUFFIXES:
                shutil.copyfile(file, temporary / file.name)
        shutil.copyfile(photograph, temporary / "example.jpg")
        rows = [write_network(temporary, f"network{i}", network) for i, network in enumerate(networks)]
        config = {
            "sizes": DEMO_SIZES,
            "colors": matplotlib.colormaps[OVERLAY_COLORS](range(256), bytes=True)[:, :3].tolist(),
            "networks": rows,
            "libraries": {
                name: {"url": place_library(temporary, row, installed), "integrity": row["integrity"]}
                for name, row in libraries.items()
            },
        }
        if offline:
            config["offline"] = list_cached(temporary, config)
        (temporary / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")


def list_cached(folder: Path, config: dict) -> list[str]:
    """The addresses of the files that browsers cache: those that the page needs with its first network."""
    others = tuple(network["url"].partition("/")[0] for network in config["networks"][1:])
    files = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    elsewhere = [library["url"] for library in config["libraries"].values() if library["url"].startswith("https:")]
    return [CONFIG_FILE, *(file.as_posix() for file in files if file.parts[0] not in others), *elsewhere]


def write_network(folder: Path, name: str, network: Network) -> dict:
    """Export a network into a subfolder; returns its entry in the page's list."""
    variant, weights = network.architecture.variant, network.weights
    print(f"Network: {variant}, {weights.path} ({weights.reason}).", flush=True)
    target = folder / name
    target.mkdir()
    write_tfjs(network, target, BITS)
    size = sum(file.stat().st_size for file in target.iterdir())
    return {
        "name": f"MSI-Net {variant}" + ("" if name_of(weights.path) else f" ({weights.path.name})"),
        "url": f"{name}/model.json",
        "bytes": size,
        "fit_shape": network.fit_shape,
    }


def place_library(folder: Path, library: dict, installed: bool) -> str:
    """Copy a file of TensorFlow.js into the folder, or leave it on the CDN; returns its address for the page."""
    if not installed:
        return f"{CDN}/{library['package']}@{library['version']}/{library['file']}"
    source = NODE_FOLDER / "node_modules" / library["package"] / library["file"]
    target = folder / "tensorflow" / source.name
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    return target.relative_to(folder).as_posix()


def _install_libraries() -> bool:
    try:
        install_node_packages()
    except UserError as error:
        print(f"{error} Until then the page loads TensorFlow.js from {CDN}, and needs an internet connection.")
        return False
    return True


# A browser opens six connections to a server. One that sends nothing for so long is closed.
MOST_CONNECTIONS = 64
IDLE_SECONDS = 10

# A page of another site may let its own name lead to this computer; the browser then sends that name.
HOSTS = ("127.0.0.1", "localhost")


# --- The server -------------------------------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of one folder to pages from this computer, without directory listings."""

    extensions_map = CONTENT_TYPES
    timeout = IDLE_SECONDS

    def handle(self):
        # Clients that send a byte now and then are never idle, so the whole head of a request has a deadline too.
        self.deadline = threading.Timer(self.timeout, self.hang_up)
        self.deadline.daemon = True
        self.deadline.start()
        super().handle()
        self.deadline.cancel()

    def parse_request(self):
        complete = super().parse_request()
        self.deadline.cancel()
        return complete

    def hang_up(self):
        with contextlib.suppress(OSError):  # It may be closed already.
            self.connection.shutdown(socket.SHUT_RDWR)

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_head(self):
        host = self.headers.get("Host", "").partition(":")[0]
        if host.lower() not in HOSTS:
            self.send_error(http.HTTPStatus.MISDIRECTED_REQUEST, "Open 127.0.0.1 or localhost")
            return None
        try:
            file = Path(self.translate_path(self.path))
            file = file / "index.html" if file.is_dir() else file
            if file.resolve().is_relative_to(Path(self.directory).resolve()):  # It may be a link.
                return super().send_head()
        except (ValueError, OSError, RuntimeError):  # No file has such a name, or it is a link to itself.
            pass
        self.send_error(http.HTTPStatus.NOT_FOUND)
        return None

    def list_directory(self, path):
        self.send_error(http.HTTPStatus.NOT_FOUND)

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    """A server that does not share its port, and does not report browsers that disconnect early."""

    allow_reuse_address = os.name != "nt"  # On Windows two servers could share the port.

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.free = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def process_request(self, request, client_address):
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def make_server(folder: Path, port: int, handler: type[Handler] = Handler) -> Server:
    """A server of one folder, only reachable from this computer; a `UserError` if the port cannot be used."""
    try:
        return Server(("127.0.0.1", port), functools.partial(handler, directory=str(folder)))
    except OSError as error:
        raise UserError(f"Port {port} cannot be used ({error.strerror}): name another with --port.") from error
