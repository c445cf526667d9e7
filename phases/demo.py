"""The `demo` phase: write the browser demo as a folder, and serve it on this computer."""

import functools
import http.server
import json
import os
import shutil
import sys
import webbrowser
from pathlib import Path

import matplotlib

import checkpoint
import msinet
from config import DEMO_SIZES
from images import IMAGE_PADDING, OVERLAY_COLORS
from msinet import Network
from phases.formats.node import DEMO_FOLDER, install_node_packages
from phases.formats.tfjs import write_tfjs
from utils import UserError, check_replaceable, whole_folder

PAGE_FILES = (
    "index.html", "page.css", "page.js", "sources.js", "maps.js", "view.js", "network.js", "worker.js", "backends.js",
    "geometry.js", "offline.js", "icon.svg",
)  # fmt: skip

# What the page reads first: sizes, colours, networks, and where TensorFlow.js is. A folder without it is no demo.
CONFIG_FILE = "config.json"

# Where browsers get TensorFlow.js from if npm is not there to install it. They check each file against its hash.
CDN = "https://cdn.jsdelivr.net/npm"

# Half of float32's bytes to load; the maps differ by some 1e-4.
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

# With the first two, browsers let WebAssembly use several threads. With the last, the page reaches no other server.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; style-src 'self'; "
    f"img-src 'self' blob: data:; media-src 'self' blob:; worker-src 'self' blob:; connect-src 'self' blob: {CDN}/",
}


def run(
    *,
    data: str,
    weights: str | None,
    results: Path,
    photograph: Path,
    port: int,
    static: Path | None,
    open_browser: bool = True,
) -> None:
    """Write the demo, then serve it until it is interrupted, or only write it.

    Args:
        data, weights, results: see `checkpoint.choose_weights`.
        photograph: the example on the page.
        port: of this computer; 0 for any free one.
        static: the folder to write without serving it, or None.
        open_browser: whether to show the page.

    Raises:
        UserError: there are no weights, the folder holds something else, or the port is taken.
    """
    if static:
        check_replaceable(static, CONFIG_FILE)
        write_demo(static, choose_networks(data, weights, results), photograph, offline=True)
        print(f"The demo is in {static}: any web server or static hosting serves it as it is.")
        return
    folder = results / "demo"
    with make_server(folder, port) as server:  # First, as the folder may be another server's, which has this port.
        check_replaceable(folder, CONFIG_FILE)
        write_demo(folder, choose_networks(data, weights, results), photograph)
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        print(f"The demo runs at {address} until you press Ctrl+C.", flush=True)
        if open_browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def choose_networks(data: str, weights: str | None, results: Path) -> list[Network]:
    """The networks that the page offers: the one that `--weights` names, else the lite one and the best there is."""
    best = msinet.load(weights, data=data, results=results, device="cpu")
    if weights or best.weights.path == checkpoint.LITE_PATH or not checkpoint.LITE_PATH.exists():
        return [best]
    return [msinet.load("lite", data=data, results=results, device="cpu"), best]


# --- The folder -------------------------------------------------------------------------------------------------------


def write_demo(folder: Path, networks: list[Network], photograph: Path, *, offline: bool = False) -> None:
    """Write all that the page needs as files, whole or not at all.

    Args:
        folder: to create or replace.
        networks: that the page offers, the first one first.
        photograph: the example on the page.
        offline: whether browsers keep the page, with its first network, to open it offline too.
    """
    libraries = json.loads((DEMO_FOLDER / "libraries.json").read_text(encoding="utf-8"))
    installed = _install_libraries()
    with whole_folder(folder) as temporary:
        for name in PAGE_FILES:
            shutil.copyfile(DEMO_FOLDER / name, temporary / name)
        shutil.copyfile(photograph, temporary / "example.jpg")
        rows = [write_network(temporary, f"network{i}", network) for i, network in enumerate(networks)]
        config = {
            "sizes": DEMO_SIZES,
            "padding": IMAGE_PADDING,
            "colors": matplotlib.colormaps[OVERLAY_COLORS](range(256), bytes=True)[:, :3].tolist(),
            "networks": rows,
            "libraries": {
                name: {"url": place_library(temporary, row, installed), "integrity": row["integrity"]}
                for name, row in libraries.items()
            },
        }
        if offline:
            config["offline"] = list_kept(temporary, config)
        (temporary / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")


def list_kept(folder: Path, config: dict) -> list[str]:
    """The addresses of what browsers keep: all that the page needs with its first network."""
    others = tuple(network["url"].partition("/")[0] for network in config["networks"][1:])
    files = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    elsewhere = [library["url"] for library in config["libraries"].values() if library["url"].startswith("https:")]
    return [CONFIG_FILE, *(file.as_posix() for file in files if file.parts[0] not in others), *elsewhere]


def write_network(folder: Path, name: str, network: Network) -> dict:
    """Export a network into a sub-folder; returns its row in the page's list."""
    variant, weights = network.architecture.variant, network.weights
    print(f"Network: {variant}, {weights.path} ({weights.reason}).", flush=True)
    target = folder / name
    target.mkdir()
    write_tfjs(network, target, BITS)
    size = sum(file.stat().st_size for file in target.iterdir())
    return {"name": f"{variant}: {weights.path.name}", "url": f"{name}/model.json", "bytes": size}


def place_library(folder: Path, library: dict, installed: bool) -> str:
    """Copy a file of TensorFlow.js into the folder, or leave it on the CDN; returns its address for the page."""
    if not installed:
        return f"{CDN}/{library['package']}@{library['version']}/{library['file']}"
    source = DEMO_FOLDER / "node_modules" / library["package"] / library["file"]
    target = folder / "tensorflow" / source.name
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    return target.relative_to(folder).as_posix()


def _install_libraries() -> bool:
    try:
        install_node_packages()
    except UserError as error:
        print(f"{error} Until then the page takes TensorFlow.js from {CDN}, and needs the network.")
        return False
    return True


# --- The server -------------------------------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of one folder, and lists none."""

    extensions_map = CONTENT_TYPES

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_head(self):
        try:
            return super().send_head()
        except ValueError:  # No file can have such a name, say one with a null character in it.
            self.send_error(http.HTTPStatus.NOT_FOUND)

    def list_directory(self, path):
        self.send_error(http.HTTPStatus.NOT_FOUND)

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    """A server that has its port alone, and says nothing of browsers that leave before they have everything."""

    allow_reuse_address = os.name != "nt"  # Windows would let two servers have one port.

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def make_server(folder: Path, port: int, handler: type[Handler] = Handler) -> Server:
    """A server of one folder, for this computer only.

    Raises:
        UserError: the port is taken, or not ours to use.
    """
    try:
        return Server(("127.0.0.1", port), functools.partial(handler, directory=str(folder)))
    except OSError as error:
        raise UserError(f"Port {port} cannot be used ({error.strerror}): name another with --port.") from error
